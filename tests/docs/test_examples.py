"""Every example runs, in numerical order and in one folder, as in the README."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that example 02 wrote, and its output."""
    folder = tmp_path_factory.mktemp("examples")
    ran = run("02_one_file_for_every_budget.py", folder)
    assert ran.returncode == 0, ran.stderr
    return folder, ran.stdout


@pytest.mark.slow
def test_01_runs_fewer_learners_at_the_larger_threshold(tmp_path: Path) -> None:
    ran = run("01_export_a_module.py", tmp_path)
    assert ran.returncode == 0, ran.stderr
    trained, cheaper = (float(text) for text in re.findall(r"onnx: ([\d.]+) of 4", ran.stdout))
    assert cheaper < trained


@pytest.mark.slow
def test_02_serves_six_budgets_and_larger_ones_are_more_accurate(calibrated: tuple[Path, str]) -> None:
    accuracies = dict(re.findall(r"budget ([\d.]+): accuracy ([\d.]+)%", calibrated[1]))
    assert list(accuracies) == ["0.25", "0.30", "0.40", "0.50", "0.75", "1.00"]
    assert max(float(accuracies["0.25"]), float(accuracies["0.30"])) < float(accuracies["0.50"])
    assert float(accuracies["0.50"]) > 90


@pytest.mark.slow
def test_03_prints_the_plan_of_a_dry_run(calibrated: tuple[Path, str]) -> None:
    ran = run("03_engine_on_a_device.py", calibrated[0], "--dry-run")
    assert ran.returncode == 0, ran.stderr
    assert "calibrated.plan: would be built from calibrated.onnx" in ran.stdout
    assert not (calibrated[0] / "calibrated.plan").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="this machine has a TensorRT")
def test_03_says_how_to_install_a_missing_tensorrt(calibrated: tuple[Path, str]) -> None:
    ran = run("03_engine_on_a_device.py", calibrated[0])
    assert ran.returncode == 1
    assert "no TensorRT" in ran.stdout
    assert "acm-export doctor --for tensorrt" in ran.stdout
    assert not ran.stderr


@pytest.mark.parametrize("name", ["03_engine_on_a_device.py", "04_serve_with_deadlines.py"])
def test_a_missing_model_is_one_line_that_names_the_example_to_run(name: str, tmp_path: Path) -> None:
    ran = run(name, tmp_path)
    assert ran.returncode == 1
    assert re.fullmatch(r".*calibrated.onnx does not exist; run: .*02_one_file.*\n", ran.stdout + ran.stderr)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("01_export_a_module.py", "torch"),
        ("02_one_file_for_every_budget.py", "sklearn"),
        ("04_serve_with_deadlines.py", "onnxruntime"),
        pytest.param("05_acmize_digits.py", "accelerate", marks=pytest.mark.slow),
        pytest.param("07_acmize_speech.py", "scipy.signal", marks=pytest.mark.slow),
    ],
)
def test_a_missing_package_is_one_line_that_says_how_to_install_it(name: str, package: str) -> None:
    program = f"import runpy, sys; sys.path.insert(0, {str(EXAMPLES)!r}); sys.modules[{package!r}] = None"
    program += f"; runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode == 1
    assert re.fullmatch(rf"{package} is not installed; run: pip install .*\n", ran.stderr)


@pytest.mark.slow
def test_04_serves_every_request_at_a_measured_budget(calibrated: tuple[Path, str]) -> None:
    ran = run("04_serve_with_deadlines.py", calibrated[0])
    assert ran.returncode == 0, ran.stderr
    rows = re.findall(r"budget ([\d.]+): p99 [\d.]+ ms, (\d+) served", ran.stdout)
    assert {budget for budget, _ in rows} <= {"0.25", "0.40", "0.60", "1.00"}
    assert sum(int(number) for _, number in rows) == 1000


def test_the_readme_names_every_example() -> None:
    named = set(re.findall(r"\]\(((?:\d|cpp/)[^)]+)\)", (EXAMPLES / "README.md").read_text()))
    assert named == {
        str(path.relative_to(EXAMPLES)) for pattern in ("[0-9]*.py", "cpp/*.cpp") for path in EXAMPLES.glob(pattern)
    }
