"""The functions of TensorRT's Python bindings that acm-export calls, with the names of their arguments.

As a script it prints the signatures of a real TensorRT as JSON. data/tensorrt_signatures.json holds those of 8.6.1,
10.3.0 and 11.4.0, made with::

    PYTHON tests/support/tensorrt_signatures.py [MODULE]

PYTHON needs a TensorRT. NVIDIA's packages of bindings alone do, too (tensorrt-bindings 8.6.1, tensorrt-cu12-bindings
10.3.0, tensorrt-cu13-bindings 11.4.0.106, MODULE tensorrt_bindings), beside empty libraries with the names and symbols
that they link to. The script imports only the standard library.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from importlib.util import find_spec

RUNTIME = {
    "Logger.__init__": ["min_severity"],
    "Runtime.__init__": ["logger"],
    "Runtime.deserialize_cuda_engine": ["serialized_engine"],
    "ICudaEngine.get_tensor_name": ["index"],
    "ICudaEngine.get_tensor_mode": ["name"],
    "ICudaEngine.get_tensor_location": ["name"],
    "ICudaEngine.get_tensor_dtype": ["name"],
    "ICudaEngine.get_tensor_shape": ["name"],
    "ICudaEngine.get_tensor_profile_shape": ["name", "profile_index"],
    "ICudaEngine.create_execution_context": [],
    "IExecutionContext.set_input_shape": ["name", "shape"],
    "IExecutionContext.get_tensor_shape": ["name"],
    "IExecutionContext.set_tensor_address": ["name", "memory"],
    "IExecutionContext.execute_async_v3": ["stream_handle"],
}
BUILDER = {
    "Builder.__init__": ["logger"],
    "Builder.create_network": ["flags"],
    "Builder.create_builder_config": [],
    "Builder.create_optimization_profile": [],
    "Builder.build_serialized_network": ["network", "config"],
    "IBuilderConfig.set_flag": ["flag"],
    "IBuilderConfig.clear_flag": ["flag"],
    "IBuilderConfig.add_optimization_profile": ["profile"],
    "IBuilderConfig.create_timing_cache": ["serialized_timing_cache"],
    "IBuilderConfig.set_timing_cache": ["cache", "ignore_mismatch"],
    "IBuilderConfig.get_timing_cache": [],
    "IBuilderConfig.get_tactic_sources": [],
    "IBuilderConfig.set_tactic_sources": ["tactic_sources"],
    "IOptimizationProfile.set_shape": ["input", "min", "opt", "max"],
    "ITimingCache.serialize": [],
    "INetworkDefinition.get_layer": ["index"],
    "OnnxParser.__init__": ["network", "logger"],
    "OnnxParser.parse": ["model", "path"],
    "OnnxParser.get_error": ["index"],
    "ParserError.node": [],
    "ParserError.desc": [],
    "ParserError.code": [],
}
BEFORE_10 = {
    "ILayer.get_input": ["index"],
    "ILayer.get_output": ["index"],
    "ILayer.set_output_type": ["index", "dtype"],
    "IPluginRegistry.get_plugin_creator": ["type", "version", "plugin_namespace"],
}
FROM_10 = {
    "ParserError.node_name": [],
    "ParserError.node_operator": [],
    "IPluginRegistry.get_creator": ["type", "version", "plugin_namespace"],
    "IPluginRegistry.load_library": ["plugin_path"],
    "IProgressMonitor.phase_start": ["phase_name", "parent_phase", "num_steps"],
    "IProgressMonitor.step_complete": ["phase_name", "step"],
    "IProgressMonitor.phase_finish": ["phase_name"],
}


def calls(version: str, *, builder: bool = True) -> dict[str, list[str]]:
    """The functions that are called with a TensorRT version, and their arguments in order."""
    by_version = FROM_10 if int(version.partition(".")[0]) >= 10 else BEFORE_10
    return RUNTIME | (BUILDER | by_version if builder else {})


def overloads(documentation: str) -> list[list[str]]:
    """Arguments of each overload, without ``self``; one with a default ends in ``=``.

    Args:
        documentation: Docstring that pybind11 writes: ``name(self: T, a: T, b: T = 0) -> T``.
    """
    found = re.findall(r"^(?:\d+\. )?\w+\((self.*)\)(?: -> .*)?$", documentation, re.MULTILINE)
    return [[_argument(text) for text in _split(arguments)[1:]] for arguments in found]


def _argument(text: str) -> str:
    name, _, rest = text.strip().partition(":")
    return name + ("=" if re.search(r" = ", rest) else "")


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


def signatures(module: object) -> dict[str, list[list[str]]]:
    """The functions of :func:`calls` that a TensorRT module defines."""
    found = {}
    for name in calls(module.__version__, builder=hasattr(module, "Builder")):
        kind, _, function = name.partition(".")
        documented = getattr(getattr(module, kind, None), function, None)
        if documented is not None:
            found[name] = overloads(documented.__doc__ or "")
    return found


def accepts(overload: list[str], arguments: list[str]) -> bool:
    """Whether a function can be called with these arguments, by position or by name."""
    names = [argument.rstrip("=") for argument in overload]
    rest = overload[len(arguments) :]
    return names[: len(arguments)] == arguments and all(argument.endswith("=") for argument in rest)


if __name__ == "__main__":
    NAMES = sys.argv[1:] or [n for n in ("tensorrt_lean", "tensorrt_lean_bindings", "tensorrt") if find_spec(n)]
    TENSORRT = importlib.import_module(NAMES[0])
    print(json.dumps({TENSORRT.__version__: signatures(TENSORRT)}))  # noqa: T201
