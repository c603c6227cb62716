"""Load a plugin library into the registry of a real TensorRT and print the result as JSON.

Run by test_plugin_registry.py with a Python that has a TensorRT: ``PYTHON plugin_registry_probe.py LIBRARY HOW``;
HOW names steps in order, separated by commas: ``load`` (loadLibrary), ``dlopen``, ``deregister`` (deregisterLibrary of
the last handle). Knows only NumPy and TensorRT, and no GPU is needed.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

MAGICS = (b"ACM\0", b"ACM8", b"GLU\0", b"GLU8")
"""The first bytes of a serialised plugin of TensorRT 8, in the order of NAMES; engines of every release have them."""

NAMES = ("GatedLearners", "QuantizedGatedLearners", "GLUGatedLearners", "QuantizedGLUGatedLearners")
KEPT: list[Any] = []
"""Values of fields: TensorRT keeps their addresses only."""


def import_tensorrt() -> Any:
    name = next(name for name in ("tensorrt_lean", "tensorrt_lean_bindings", "tensorrt") if find_spec(name))
    return importlib.import_module(name)


def main(library: str, how: str) -> None:
    trt = import_tensorrt()
    registry = trt.get_plugin_registry()
    report: dict[str, Any] = {"version": trt.__version__, "handles": [], "counts": [], "found": []}
    handles = []
    for step in how.split(","):
        if step == "load":
            handles.append(registry.load_library(library))
            report["handles"].append(handles[-1] is not None)
        elif step == "deregister":
            registry.deregister_library(next(handle for handle in reversed(handles) if handle is not None))
        else:
            ctypes.CDLL(library)
        report["counts"].append([len(creators(registry, name)) for name in NAMES])
        report["found"].append([found(registry, name) for name in NAMES])
    for name in NAMES:
        for creator in creators(registry, name):
            report[name] = {
                "field_names": [field.name for field in creator.field_names],
                "plugins": plugins(trt, creator),
            }
    print(json.dumps(report))  # noqa: T201


def creators(registry: Any, name: str) -> list[Any]:
    listed = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return [creator for creator in listed if creator.name == name]


def found(registry: Any, name: str) -> bool:
    find = registry.get_creator if hasattr(registry, "get_creator") else registry.get_plugin_creator
    creator = find(name, "1", "")
    return creator is not None and creator.name == name


def plugins(trt: Any, creator: Any) -> dict[str, bool]:
    if not hasattr(trt, "TensorRTPhase"):
        return plugins_v2(trt, creator)
    good, bad = fields(trt, "gelu"), fields(trt, "tanh")
    phases = {"build": trt.TensorRTPhase.BUILD, "runtime": trt.TensorRTPhase.RUNTIME}
    made = {name: creator.create_plugin("node", good, phase) is not None for name, phase in phases.items()}
    refused = {f"bad {name}": creator.create_plugin("node", bad, phase) is not None for name, phase in phases.items()}
    return made | refused


def plugins_v2(trt: Any, creator: Any) -> dict[str, bool]:
    plugin = creator.create_plugin("node", fields(trt, "gelu"))
    content = bytes(plugin.serialize())
    again = creator.deserialize_plugin("node", content)
    return {
        "build": plugin is not None,
        "runtime": again is not None and bytes(again.serialize()) == content,
        "clone": bytes(plugin.clone().serialize()) == content,
        "bad build": creator.create_plugin("node", fields(trt, "tanh")) is not None,
        "bad runtime": creator.deserialize_plugin("node", content[:-1]) is not None,
        "bad magic": creator.deserialize_plugin("node", b"\0" * len(content)) is not None,
        "bytes": content == MAGICS[NAMES.index(creator.name)] + np.array([1, 4, 1, 0, 0], np.int32).tobytes(),
        **{
            f"bad operator {name}": creator.deserialize_plugin("node", magic + content[4:]) is not None
            for name, magic in zip(NAMES, MAGICS, strict=True)
            if name != creator.name
        },
    }


def fields(trt: Any, activation: str) -> Any:
    values = {
        "num_learners": np.array([4], np.int32),
        "min_learners": np.array([1], np.int32),
        "activation": np.frombuffer(activation.encode() + b"\0", np.int8),
    }
    KEPT.extend(values.values())
    kinds = (trt.PluginFieldType.INT32, trt.PluginFieldType.INT32, trt.PluginFieldType.CHAR)
    return trt.PluginFieldCollection(
        [trt.PluginField(name, value, kind) for (name, value), kind in zip(values.items(), kinds, strict=True)]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
