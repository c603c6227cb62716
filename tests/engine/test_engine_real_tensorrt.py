"""acm-export's own code with the real TensorRTs of this machine, in separate processes and without a GPU."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set, each_tensorrt

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytest_plugins = ["plugin_fixtures"]
pytestmark = each_tensorrt()

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"


@each_header_set()
def test_load_plugin_and_doctor_find_the_plugins_in_a_real_registry(
    built: dict[str, Path], headers: TensorRTHeaders, python: str
) -> None:
    library = str(built["acm_gated_learners"])
    version, _ = abilities(python)
    if version[0] != headers.version[0]:
        pytest.skip(f"the library is for TensorRT {headers.version[0]}, the registry of {version[0]}")
    if version[:2] >= (8, 6) and headers.version[:2] == (8, 5):
        pytest.skip("a library for 8.5 has no entry points for the loadLibrary of later versions")
    assert run(python, "load", library) == {"counts": [[1] * 4, [1] * 4]}
    finding = run(python, "examine", library)
    assert finding["state"] == "ok", finding
    names = "GatedLearners, QuantizedGatedLearners, GLUGatedLearners, QuantizedGLUGatedLearners"
    assert f"TensorRT {finding['version']} lists {names}" in finding["found"]


def test_builder_and_runtime_without_a_gpu_are_errors(python: str, digits_file: Path) -> None:
    if has_cuda_driver():
        pytest.skip("this machine has a CUDA driver")
    version, builder = abilities(python)
    if not builder:
        pytest.skip("a lean runtime has no builder")
    found = run(python, "start", str(digits_file))
    kind, message = found["builder"]
    assert (kind, message.startswith("TensorRT cannot create a builder")) == ("EngineError", True), (version, message)
    assert found["runtime"][0] == "CudaError"  # before TensorRT's runtime, which crashes in 8.6.0 without a driver


@cache
def abilities(python: str) -> tuple[tuple[int, ...], bool]:
    """TensorRT's version and whether it has a builder; skips without acm-export's requirements."""
    script = (
        "import click, numpy, onnx, rich; from plugin_registry_probe import import_tensorrt; "
        "t = import_tensorrt(); print(t.__version__, hasattr(t, 'Builder'))"
    )
    done = execute(python, "-c", script)
    if "No module named" in done.stderr:
        pytest.skip(f"{python}: {done.stderr.splitlines()[-1]}; it needs click, numpy, onnx and rich")
    version, builder = done.stdout.split()[-2:]
    return tuple(map(int, version.split(".")[:3])), builder == "True"


def run(python: str, step: str, file: str) -> Any:
    done = execute(python, str(SUPPORT / "engine_real_tensorrt.py"), step, file)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def execute(python: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    surroundings = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{SUPPORT}"}
    return subprocess.run(
        [python, *arguments], env=surroundings, capture_output=True, text=True, check=False, timeout=120
    )


def has_cuda_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
