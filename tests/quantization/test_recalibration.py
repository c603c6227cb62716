"""A calibrated file keeps its thresholds; its budgets are measured again in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from exported_files import session
from int8_models import rewritten

import acm_export as acm
from acm_export.onnx_file.manifest import Manifest, read_manifest
from acm_export.quantization.recalibrate import ascending

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.quantization.result import QuantizationResult


def quantized(source: Path, output: Path, data: Path, **options: Any) -> QuantizationResult:
    return acm.quantize(source, output, data=str(data), **options)


def manifest_of(path: Path) -> Manifest:
    return read_manifest(onnx.load(path), path)


def executed(path: Path, images: np.ndarray, **feeds: Any) -> float:
    """β over all tokens, from the counts outputs of a copy of the file."""
    model = onnx.load(path)
    layers = read_manifest(model, path).layers
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(f"counts/{layer.name}", onnx.TensorProto.INT32, None) for layer in layers
    )
    opened = session(model.SerializeToString())
    counts = opened.run([f"counts/{layer.name}" for layer in layers], {"pixel_values": images} | feeds)
    run = sum(layer.learner_flops * int(count.sum()) for layer, count in zip(layers, counts, strict=True))
    every = sum(
        layer.learner_flops * layer.num_learners * count.size for layer, count in zip(layers, counts, strict=True)
    )
    return run / every


@pytest.fixture
def data(int8_sources: Path) -> Path:
    return int8_sources / "data.npz"


def test_thresholds_stay_and_budgets_are_measured_again(int8_sources: Path, data: Path, tmp_path: Path) -> None:
    before = manifest_of(int8_sources / "c.onnx").calibration

    result = quantized(int8_sources / "c.onnx", tmp_path / "c8.onnx", data)

    after = result.manifest.calibration
    assert before is not None
    assert after is not None
    kept = [i for i, knot in enumerate(result.knots) if knot.after is not None]
    assert [knot.before for knot in result.knots] == list(before.table.budgets)
    assert [knot.after for knot in result.knots if knot.after is not None] == list(after.table.budgets)
    for name, rows in after.table.thresholds.items():
        assert rows == tuple(before.table.thresholds[name][i] for i in kept)
    assert after.table.budgets != before.table.budgets
    assert [knot.budget for knot in after.knots] == pytest.approx(list(after.table.budgets))
    assert [record.requested for record in after.requests] == [0.5, 0.75]
    assert (after.samples, after.held_out_samples) == (48, 12)
    assert acm.inspect(tmp_path / "c8.onnx").manifest == result.manifest


def test_the_table_gives_the_budgets_that_the_int8_file_runs(int8_sources: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "c8.onnx"
    images = np.load(data)["pixel_values"]
    after = quantized(int8_sources / "c.onnx", output, data).manifest.calibration
    assert after is not None

    for budget in after.table.budgets[1::3]:
        acm.set_budget(output, budget)
        assert executed(output, images) == pytest.approx(budget, abs=0.03)  # the table has no held-out samples


@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_a_file_with_a_budget_input_keeps_it(int8_sources: Path, data: Path, tmp_path: Path, target: str) -> None:
    source, output = tmp_path / "b.onnx", tmp_path / "b8.onnx"
    exported = int8_sources / "m.onnx"
    if target == "tensorrt":
        exported = rewritten(exported, tmp_path / "m.onnx", target=target)
    acm.calibrate(exported, str(data), [0.5], source, budget_input=True, solver="uniform")

    result = quantized(source, output, data)

    model = onnx.load(output)
    onnx.checker.check_model(output)
    assert "budget" in {value.name for value in model.graph.input}
    assert result.manifest.budget_input
    assert result.manifest.setting.budget == pytest.approx(manifest_of(source).setting.budget, abs=0.02)
    assert acm.inspect(output).manifest == result.manifest
    if target == "portable":
        images = np.load(data)["pixel_values"]
        budgets = [executed(output, images, budget=np.array(b, np.float32)) for b in (0.3, 0.6, 0.9)]
        assert budgets == pytest.approx([0.3, 0.6, 0.9], abs=0.05)


def test_a_budget_that_was_set_stays_the_budget(int8_sources: Path, data: Path, tmp_path: Path) -> None:
    acm.set_budget(int8_sources / "c.onnx", 0.6, max_learners=3, output=tmp_path / "set.onnx")

    result = quantized(tmp_path / "set.onnx", tmp_path / "c8.onnx", data)

    assert (result.manifest.setting.budget, result.manifest.setting.max_learners) == (0.6, 3)
    acm.inspect(tmp_path / "c8.onnx")  # checks the thresholds against the setting


def test_without_data_the_table_stays_and_a_note_says_so(int8_sources: Path, tmp_path: Path) -> None:
    result = acm.quantize(int8_sources / "c.onnx", tmp_path / "c8.onnx", activations="dynamic")

    assert result.manifest.calibration == manifest_of(int8_sources / "c.onnx").calibration
    assert result.knots == ()
    assert any("measured before quantisation" in note for note in result.notes)


def test_an_int8_file_can_be_calibrated(int8_sources: Path, data: Path, tmp_path: Path) -> None:
    quantized(int8_sources / "m.onnx", tmp_path / "m8.onnx", data)

    result = acm.calibrate(tmp_path / "m8.onnx", str(data), [0.5], tmp_path / "c8.onnx", probe_samples=8)

    assert result.manifest.calibration is not None
    assert result.manifest.calibration.requests[0].calibration == pytest.approx(0.5, abs=0.003)
    assert result.manifest.quantization is not None


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [
        ([0.1, 0.2, 0.3], [0, 1, 2]),
        ([0.1, 0.3, 0.2, 0.4], [0, 1, 3]),
        ([0.1, 0.1, 0.4], [0, 2]),
        ([0.1, 0.5, 0.4], [0, 2]),
        ([0.5, 0.5], [1]),
        ([0.3], [0]),
    ],
)
def test_knots_that_do_not_ascend_are_dropped(budgets: list[float], kept: list[int]) -> None:
    assert ascending(budgets) == kept
