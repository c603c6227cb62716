"""The plugin's host code for aarch64, run by qemu: every launch and refusal is the one on this processor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cross_compiled import BUILT_FOR, HARNESS, HERE, aarch64_python, compiled, fake_driver, this_machine
from plugin_build import each_header_set

if TYPE_CHECKING:
    from acm_export.plugins.tensorrt.headers import TensorRTHeaders

pytestmark = [pytest.mark.slow, each_header_set()]
ROOT = Path(__file__).parents[3]


def run(python: list[str], *arguments: str | Path) -> str:
    environment = {"PYTHONPATH": f"{ROOT}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*python, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def traced(factory: pytest.TempPathFactory, machine: str, headers: TensorRTHeaders, python: list[str]) -> Any:
    library, driver = compiled(factory, machine, headers, HARNESS), fake_driver(factory, machine)
    return json.loads(run(python, HERE / "plugin_trace.py", library, driver))


def test_it_loads(tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders) -> None:
    python = aarch64_python()
    library = compiled(tmp_path_factory, "aarch64", headers)
    assert run(python, "-c", BUILT_FOR, library).strip() == headers.version_text


def test_it_launches_what_this_processor_launches(
    tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders
) -> None:
    python = aarch64_python()
    there = traced(tmp_path_factory, "aarch64", headers, python)
    here = traced(tmp_path_factory, this_machine(), headers, [sys.executable])
    assert there == here
    results = [result for name, result in there.items() if name != "bad fields"]
    assert sum(bool(result.get("launches")) for result in results) > 100
    assert (
        sum("no kernels for a discrete GPU of architecture sm_75" in result.get("log", "") for result in results) > 50
    )


def test_no_call_crosses_the_interface_with_an_exception(
    tmp_path_factory: pytest.TempPathFactory, headers: TensorRTHeaders
) -> None:
    python = aarch64_python()
    library, driver = compiled(tmp_path_factory, "aarch64", headers, HARNESS), fake_driver(tmp_path_factory, "aarch64")
    assert run(python, HERE / "plugin_exercise.py", HARNESS, library, driver).split()[-1] == "done"
