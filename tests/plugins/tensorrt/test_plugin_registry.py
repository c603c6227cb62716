"""The compiled library in the plugin registry of a real TensorRT, in a separate process."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from plugin_build import each_header_set, each_tensorrt
from plugin_registry_probe import NAMES

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytest_plugins = ["plugin_fixtures"]

PROBE = Path(__file__).parents[2] / "support" / "plugin_registry_probe.py"
REFUSAL = "GatedLearners: this library was built for TensorRT {} and cannot run in TensorRT"


pytestmark = [each_header_set(), each_tensorrt()]


@cache
def version_of(python: str) -> tuple[int, int]:
    script = "from plugin_registry_probe import import_tensorrt; print(import_tensorrt().__version__)"
    done = subprocess.run(
        [python, "-c", script], cwd=PROBE.parent, capture_output=True, text=True, check=True, timeout=120
    )
    major, minor = done.stdout.split(".")[:2]
    return int(major), int(minor)


def probe(python: str, library: Path, how: str) -> tuple[dict[str, Any], str]:
    """The report, and what was written to stderr."""
    done = subprocess.run(
        [python, str(PROBE), str(library), how], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def ways(python: str, headers: TensorRTHeaders) -> list[str]:
    """loadLibrary came with TensorRT 8.6, and so did the entry points that it needs."""
    if min(version_of(python), headers.version[:2]) < (8, 6):
        return ["dlopen", "dlopen,dlopen"]
    return ["load", "dlopen", "dlopen,load", "load,dlopen", "load,load"]


def test_the_library_is_listed_once_and_creates_plugins(
    built: dict[str, Path], headers: TensorRTHeaders, python: str
) -> None:
    need_the_same_major(python, headers)
    for how in ways(python, headers):
        report, stderr = probe(python, built["acm_gated_learners"], how)
        assert report["counts"] == [[1] * 4] * len(how.split(",")), how
        assert report["found"] == [[True] * 4] * len(how.split(",")), how
        assert all(report["handles"][:1]), how
        for name in NAMES:
            last_field = "dynamic" if name.startswith("Quantized") else "allow_tf32"
            found = report[name]
            assert found["field_names"][:4] == ["num_learners", "min_learners", "activation", last_field]
            made = {step: ok for step, ok in found["plugins"].items() if not step.startswith("bad")}
            assert all(made.values()), made
            assert not any(ok for step, ok in found["plugins"].items() if step.startswith("bad"))
            reason = "activation is 'tanh'; it must be one of gelu, gelu_tanh, relu, silu, identity"
            assert re.search(rf"\b{name}: createPlugin: {reason}", stderr)


def test_a_deregistered_library_can_be_loaded_again(
    built: dict[str, Path], headers: TensorRTHeaders, python: str
) -> None:
    need_the_same_major(python, headers)
    if len(ways(python, headers)) == 2:
        pytest.skip("loadLibrary came with TensorRT 8.6")
    for how in ("load,deregister", "dlopen,load,deregister", "load,deregister,load"):
        report, _ = probe(python, built["acm_gated_learners"], how)
        listed = [[0] * 4 if step == "deregister" else [1] * 4 for step in how.split(",")]
        assert report["counts"] == listed, how
        assert report["found"] == [[n == 1 for n in counts] for counts in listed], how
        assert all(report["handles"]), how


def need_the_same_major(python: str, headers: TensorRTHeaders) -> None:
    if version_of(python)[0] != headers.version[0]:
        pytest.skip(f"the library is for TensorRT {headers.version[0]}, the registry of {version_of(python)[0]}")


def test_another_major_is_rejected_with_both_versions(
    built: dict[str, Path], headers: TensorRTHeaders, python: str
) -> None:
    if version_of(python)[0] == headers.version[0]:
        pytest.skip("the library is for this TensorRT")
    for how in ways(python, headers):
        report, stderr = probe(python, built["acm_gated_learners"], how)
        assert report["counts"] == [[0] * 4] * len(report["counts"])
        assert not any(report["handles"])
        assert stderr.count(REFUSAL.format(headers.version_text)) == 1
        assert "take the library for it: acm-export plugin-path, or compile it: acm-export build-plugin" in stderr


def test_the_library_loads_without_tensorrt(built: dict[str, Path], python: str) -> None:
    script = f"import ctypes; ctypes.CDLL({str(built['acm_gated_learners'])!r})"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
