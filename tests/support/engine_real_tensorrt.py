"""Run acm-export's own code with a real TensorRT and print the result as JSON.

Run by test_engine_real_tensorrt.py with a Python that has a TensorRT and the packages of a device (NumPy, ONNX, click,
rich), and this project in PYTHONPATH: ``PYTHON engine_real_tensorrt.py STEP FILE``. No GPU is needed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
from plugin_registry_probe import creators, import_tensorrt

from acm_export.base.errors import AcmError
from acm_export.diagnosis import plugin
from acm_export.engine.build import build
from acm_export.engine.library import load_plugin
from acm_export.engine.runtime import LoadedEngine
from acm_export.engine.settings import BuilderSettings
from acm_export.machine.plugin_library import check_plugin_library
from acm_export.machine.tensorrt import query_tensorrt
from acm_export.op.quantized_signature import OPERATORS


def load(tensorrt: Any, library: Path) -> dict[str, Any]:
    """Load the plugin library twice with ``load_plugin``."""
    registry, counts = tensorrt.get_plugin_registry(), []
    for _ in range(2):
        load_plugin(tensorrt, library)
        counts.append([len(creators(registry, name)) for name in OPERATORS])
    return {"counts": counts}


def examine(tensorrt: Any, library: Path) -> dict[str, Any]:
    """Run doctor's check of the registry."""
    finding = plugin.registry(library, query_tensorrt(), check_plugin_library(library))
    return {"version": tensorrt.__version__, "state": finding.state, "found": finding.found}


def start(tensorrt: Any, model: Path) -> dict[str, Any]:
    """Start the builder and the runtime without a GPU."""
    prepared: Any = SimpleNamespace(model=onnx.load(model), source=model)
    return {
        "builder": error_of(lambda: build(tensorrt, prepared, BuilderSettings({}))),
        "runtime": error_of(lambda: LoadedEngine(tensorrt, b"no engine", "m.plan")),
    }


def error_of(action: Any) -> list[str]:
    try:
        action()
    except AcmError as error:
        return [type(error).__name__, str(error)]
    return []


if __name__ == "__main__":
    STEP, FILE = sys.argv[1:]
    print(json.dumps({"load": load, "examine": examine, "start": start}[STEP](import_tensorrt(), Path(FILE))))  # noqa: T201
