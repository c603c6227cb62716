"""Calibrated files: their content, both dials, and the budget input in ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from calibration_files import calibrated
from onnx import numpy_helper

from acm_export.base.errors import AcmWarning, ModelFileError, UsageError
from acm_export.onnx_file.budget_input import INPUT
from acm_export.onnx_file.inspection import check_graph, check_thresholds, inspect
from acm_export.onnx_file.manifest import Setting, read_manifest, write_manifest
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import rewrite_for
from acm_export.runtimes.onnx_runtime import CpuSession

if TYPE_CHECKING:
    from acm_export.calibration.result import CalibrationResult

BUDGETS = (0.45, 0.7)


@pytest.fixture(scope="module")
def result(folder: Path) -> CalibrationResult:
    return calibrated(folder / "m.onnx", folder / "d.npz", folder / "plain.onnx", BUDGETS)


@pytest.fixture(scope="module")
def with_input(folder: Path, result: CalibrationResult) -> Path:
    assert result.path.exists()
    return calibrated(folder / "m.onnx", folder / "d.npz", folder / "input.onnx", BUDGETS, budget_input=True).path


def run(path: Path, **feeds: Any) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    pixels = np.load(path.parent / "d.npz")["pixel_values"][:16] if "pixel_values" not in feeds else None
    return CpuSession(read_model(path), path.parent).run(
        ({"pixel_values": pixels} if pixels is not None else {}) | feeds
    )


def test_requested_budgets_are_met_and_the_ends_reached(result: CalibrationResult) -> None:
    record = result.manifest.calibration
    assert record is not None
    assert [r.requested for r in record.requests] == list(BUDGETS)
    for request in record.requests:
        assert request.calibration == pytest.approx(request.requested, abs=0.005)
        assert request.held_out is not None
        assert request.standard_error is not None
    assert record.table.largest == 1
    assert (record.samples, record.held_out_samples) == (48, 12)
    assert record.tokens == 48 * (5 + 5 + 5)
    assert record.trained_budget == pytest.approx(result.trained.budget, abs=1e-6)
    assert not [c for c in result.comparisons if c.lost_to and not result.notes]


def test_the_file_is_set_to_the_trained_thresholds(folder: Path, result: CalibrationResult) -> None:
    before, after = run(folder / "m.onnx"), run(result.path)
    assert all((before[name] == after[name]).all() for name in before)
    assert read_manifest(read_model(result.path), result.path).setting == Setting()


def test_calibration_is_deterministic_and_reports_the_replaced_table(
    folder: Path, result: CalibrationResult, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "acm_export"):
        again = calibrated(result.path, folder / "d.npz", folder / "again.onnx", BUDGETS)
    assert "replacing the previous budget table" in caplog.text
    assert again.path.read_bytes() == result.path.read_bytes()


def test_the_budget_dial_picks_from_the_table_and_composes_with_the_bound(
    folder: Path, result: CalibrationResult
) -> None:
    path = Path(shutil.copy(result.path, folder / "dial.onnx"))
    record = result.manifest.calibration
    assert record is not None
    assert set_budget(path, budget=0.5).setting == Setting(None, None, 0.5)
    stored = inspect(path).thresholds
    assert {name: np.float32(values).tolist() for name, values in stored.items()} == {
        name: values.tolist() for name, values in record.table.at(0.5).items()
    }
    assert set_budget(path, max_learners=2).setting == Setting(None, 2, 0.5)
    assert max(counts.max() for name, counts in run(path).items() if name.startswith("counts/")) <= 2
    model = read_model(path)
    check_thresholds(model, read_manifest(model, path), path)
    set_budget(path, trained=True)
    assert path.read_bytes() == result.path.read_bytes()


def test_budgets_beyond_the_table_clamp_with_a_warning(folder: Path, result: CalibrationResult) -> None:
    path = Path(shutil.copy(result.path, folder / "clamp.onnx"))
    with pytest.warns(AcmWarning, match=r"covers .* to 1; using .* instead of 0\.001"):
        smallest = set_budget(path, budget=0.001).setting.budget
    assert result.manifest.calibration is not None
    assert smallest == result.manifest.calibration.table.smallest


def test_an_input_gives_the_same_numbers_as_the_dial(folder: Path, result: CalibrationResult, with_input: Path) -> None:
    dial = folder / "compare.onnx"
    assert result.manifest.calibration is not None
    knots = result.manifest.calibration.table.budgets
    for budget in (0.0, *knots[::3], 0.33, 0.5, 0.512345, 0.9, 1.0, 5.0):
        with pytest.warns(AcmWarning) if not knots[0] <= budget <= knots[-1] else _nothing():
            set_budget(result.path, budget=budget, output=dial)
        expected, got = run(dial), run(with_input, budget=np.array(budget, np.float32))
        assert all((expected[name] == got[name]).all() for name in expected)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_the_default_of_the_input_is_the_trained_budget_and_can_be_set(
    folder: Path, with_input: Path, result: CalibrationResult
) -> None:
    path = Path(shutil.copy(with_input, folder / "default.onnx"))
    summary = inspect(path)
    assert summary.inputs[INPUT] == []
    assert result.manifest.calibration is not None
    assert summary.manifest.setting.budget == result.manifest.calibration.trained_budget
    set_budget(path, budget=0.5, max_learners=3)
    bounded = run(path)
    same = run(path, budget=np.array(0.5, np.float32))
    assert all((bounded[name] == same[name]).all() for name in bounded)
    full = run(path, budget=np.array(1, np.float32))
    assert max(counts.max() for name, counts in full.items() if name.startswith("counts/")) == 3
    with pytest.raises(UsageError, match="computes its thresholds from its budget input"):
        set_budget(path, threshold=0.5)
    with pytest.warns(AcmWarning, match="close to the trained ones but not identical"):
        set_budget(path, trained=True)
    assert path.read_bytes() == with_input.read_bytes()


def test_only_portable_files_give_the_input_a_default(folder: Path, with_input: Path) -> None:
    path = folder / "tensorrt.onnx"
    model = read_model(with_input)
    manifest = rewrite_for(model, read_manifest(model, with_input), "tensorrt")
    write_manifest(model, manifest)
    onnx.save(model, path)
    assert INPUT not in {tensor.name for tensor in model.graph.initializer}
    check_graph(model, manifest, path)
    with pytest.raises(UsageError, match="takes its budget with each call"):
        set_budget(path, budget=0.5)
    set_budget(path, max_learners=2)
    manifest = rewrite_for(model, manifest, "portable")
    assert INPUT in {tensor.name for tensor in model.graph.initializer}


def test_the_budget_input_can_be_removed(folder: Path, with_input: Path, result: CalibrationResult) -> None:
    path = calibrated(with_input, folder / "d.npz", folder / "without.onnx", BUDGETS).path
    assert INPUT not in {value.name for value in read_model(path).graph.input}
    assert path.read_bytes() == result.path.read_bytes()


def test_a_table_that_another_tool_changed_is_detected(folder: Path, with_input: Path) -> None:
    path = folder / "broken.onnx"
    model = onnx.load(with_input)
    rows = next(tensor for tensor in model.graph.initializer if tensor.name == "budget_input/rows")
    rows.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(rows) + 1, rows.name))
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="budget_input/rows differs from the budget table"):
        inspect(path)


def test_the_solver_uniform_gives_one_threshold(folder: Path) -> None:
    done = calibrated(folder / "m.onnx", folder / "d.npz", folder / "u.onnx", [0.6], solver="uniform")
    assert done.manifest.calibration is not None
    inner = {v for row in done.manifest.calibration.table.at(0.6).values() for v in row.tolist()}
    assert len(inner) < sum(layer.num_learners for layer in done.manifest.layers)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.3333, 0.999)])
def test_budgets_at_the_ends_are_the_ends(folder: Path, result: CalibrationResult, ends: tuple[float, float]) -> None:
    assert result.manifest.calibration is not None
    smallest = result.manifest.calibration.table.smallest
    asked = (max(ends[0], smallest), ends[1])
    done = calibrated(folder / "m.onnx", folder / "d.npz", folder / "ends.onnx", asked, solver="uniform")
    assert done.manifest.calibration is not None
    assert [r.calibration for r in done.manifest.calibration.requests] == pytest.approx(asked, abs=0.005)


def test_a_bound_stays_when_a_file_is_calibrated(folder: Path) -> None:
    bounded = folder / "bounded.onnx"
    set_budget(folder / "m.onnx", max_learners=2, output=bounded)
    done = calibrated(bounded, folder / "d.npz", folder / "x.onnx", solver="uniform")
    assert done.manifest.setting == Setting(0.0, 2)
    assert done.manifest.calibration is not None
    assert done.manifest.calibration.table.largest == 1
    check_thresholds(read_model(done.path), done.manifest, done.path)
