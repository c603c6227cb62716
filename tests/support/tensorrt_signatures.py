"""What TensorRT's Python bindings define: functions with the names of their arguments, properties, members of enums.

As a script it prints those of the TensorRT of a Python as JSON: ``PYTHON tensorrt_signatures.py``. It imports only the
standard library. tensorrt_installed.py runs it for every TensorRT that it finds and writes tensorrt_signatures.json.

Descriptions: ``(a, b=) -> R``, where ``b`` has a default, with `` | `` between overloads; ``property R``; ``value R =
2`` for a member of an enum R and its number; ``class``, with a name for a class in a class.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from importlib.util import find_spec

MODULES = ("tensorrt", "tensorrt_bindings", "tensorrt_rtx_bindings", "tensorrt_lean", "tensorrt_lean_bindings")

KINDS = (
    *("ILogger", "Logger", "Severity", "Runtime", "ICudaEngine", "IExecutionContext", "IHostMemory"),
    *("Builder", "IBuilderConfig", "IOptimizationProfile", "ITimingCache", "IProgressMonitor"),
    *("INetworkDefinition", "ILayer", "ITensor", "OnnxParser", "ParserError"),
    *("IPluginRegistry", "IPluginCreator", "IPluginCreatorInterface", "IPluginCreatorV3One"),
    *("PluginField", "PluginFieldCollection", "PluginFieldType", "TensorRTPhase"),
    *("BuilderFlag", "NetworkDefinitionCreationFlag", "TacticSource", "MemoryPoolType", "LayerType"),
    *("DataType", "TensorIOMode", "TensorLocation", "ErrorCode"),
)
"""Classes whose names are stored."""

_FUNCTIONS = ("get_plugin_registry", "init_libnvinfer_plugins", "nptype")


def describe(module: object) -> dict[str, str]:
    """Descriptions by name, as in ``Builder.create_network``, of what a TensorRT module defines."""
    found = {}
    for kind in KINDS:
        cls = getattr(module, kind, None) if kind != "Severity" else getattr(module, "ILogger").Severity  # noqa: B009
        if cls is not None:
            found[kind] = "class"
            names = [name for name in dir(cls) if not name.startswith("_")]
            found.update({f"{kind}.{name}": _describe(getattr(cls, name)) for name in [*names, "__init__"]})
    for name in dir(module):
        if type(getattr(module, name)).__name__ == "DataType" or name in _FUNCTIONS:
            found[name] = _describe(getattr(module, name))
    return {name: text for name, text in sorted(found.items()) if text}


def _describe(value: object) -> str:
    if isinstance(value, property):
        return f"property {_returned(value.fget.__doc__ or '')}"
    if inspect.isclass(value):
        return f"class {value.__name__}"
    if inspect.isfunction(value):  # written in Python
        return f"({', '.join(inspect.signature(value).parameters)}) -> Any"
    if callable(value):
        return " | ".join(dict.fromkeys(overloads(value.__doc__ or "")))
    return f"value {type(value).__name__} = {int(value)}"


def overloads(documentation: str) -> list[str]:
    """Descriptions of each overload of a function, without ``self``.

    Args:
        documentation: Docstring that pybind11 writes: ``name(self: T, a: T, b: T = 0) -> T``.
    """
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\)((?: -> .*)?)$", documentation, re.MULTILINE)
    texts = [(_split(arguments), returned) for arguments, returned in found if arguments != "*args, **kwargs"]
    return [
        f"({', '.join(_argument(text) for text in parts if not _is_self(text))}) -> {_returned(returned)}"
        for parts, returned in texts
    ]


def _is_self(text: str) -> bool:
    return not text.strip() or text.strip().partition(":")[0] == "self"


def _argument(text: str) -> str:
    name, _, rest = text.strip().partition(":")
    return name + ("=" if re.search(r" = ", rest) else "")


def _returned(text: str) -> str:
    """The type after ``->`` without modules, as in ``list[ITensor]``."""
    match = re.search(r"-> (.+)$", text.strip().partition("\n")[0])
    if match is None or "::" in match[1]:  # a type that pybind11 does not know
        return "Any"
    return re.sub(r"\b(?:\w+\.)+", "", match[1]).replace("List[", "list[").replace("Tuple[", "tuple[")


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for character in text.replace("->", "  "):
        depth += (character in "[(<{") - (character in "])>}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def accepts(description: str, positional: int, keywords: list[str]) -> bool:
    """Whether a described function can be called with this number of positional arguments and these keywords."""
    for overload in description.split(" | "):
        arguments = [name for name in re.sub(r"^\(|\) -> .*$", "", overload).split(", ") if name]
        rest = [name.rstrip("=") for name in arguments[positional:]]
        needed = {name for name in arguments[positional:] if not name.endswith("=")}
        if positional <= len(arguments) and needed <= set(keywords) <= set(rest):
            return True
    return False


if __name__ == "__main__":
    NAME = next(name for name in MODULES if find_spec(name))
    TENSORRT = importlib.import_module(NAME)
    print(json.dumps([NAME, TENSORRT.__version__, describe(TENSORRT)]))  # noqa: T201
