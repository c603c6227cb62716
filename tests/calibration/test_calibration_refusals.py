"""Models, data and outputs that ``calibrate`` refuses, and what is left untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from calibration_files import calibrated, write_images
from exported_files import images
from onnx import numpy_helper
from tiny_models import tiny_vit

from acm_export.base.errors import AcmWarning, CalibrationError, ModelFileError, OutputError, UsageError
from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.modules import acm_layers
from acm_export.onnx_file.budget_input import INPUT

if TYPE_CHECKING:
    from pathlib import Path

BUDGETS = (0.45, 0.7)


def test_what_cannot_be_calibrated_is_refused_and_the_old_file_survives(folder: Path) -> None:
    output = folder / "old.onnx"
    output.write_bytes(b"old")
    wrong_labels = write_images(folder / "labels.npz", 10, labels=np.full(10, 7))
    few = write_images(folder / "few.npz", 5)
    cases: tuple[tuple[Path, tuple[float, ...], dict[str, Any], type[Exception], str], ...] = (
        (folder / "d.npz", (0.01,), {}, CalibrationError, "cannot be reached: the smallest is"),
        (folder / "d.npz", (1.5,), {}, UsageError, "the budget 1.5 is out of range"),
        (folder / "d.npz", (0.5,), {"precision": 1e-5}, CalibrationError, "too few for a precision"),
        (folder / "d.npz", (float("nan"),), {}, UsageError, "the budget nan is out of range"),
        (folder / "d.npz", (0.5,), {"precision": float("nan")}, UsageError, "the precision is nan"),
        (folder / "d.npz", (), {"precision": 0.01}, UsageError, "no budget"),
        (few, (0.503,), {"samples": 1}, CalibrationError, "jumps from"),
        (wrong_labels, (0.5,), {}, UsageError, "label 7 is out of range: the model has 5 classes"),
    )
    for data, budgets, options, kind, reason in cases:
        with pytest.raises(kind, match=reason):
            calibrated(folder / "m.onnx", data, output, budgets, **options)
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("value", [pytest.param("constant", marks=pytest.mark.slow), "nan"])
def test_gates_that_say_nothing_are_named(folder: Path, value: str) -> None:
    torch.manual_seed(0)
    model = tiny_vit()
    layers = dict(acm_layers(model))
    with torch.no_grad():
        for linear in layers["vit.layers.1.mlp"].gate.linears:
            linear.weight.fill_(0.0)
            if value == "nan":
                linear.bias.fill_(float("nan"))
    path = folder / f"{value}.onnx"
    export(model, images(2), path, verify=False, output_fields=("logits",))
    if value == "nan":
        with pytest.raises(CalibrationError, match=r"the gate of vit\.layers\.1\.mlp gives NaN"):
            calibrated(path, folder / "d.npz", folder / "x.onnx")
        return
    with pytest.warns(AcmWarning, match=r"the gate of vit\.layers\.1\.mlp gives every token the same logits"):
        calibrated(path, folder / "d.npz", folder / "x.onnx", ())


def test_a_model_without_gated_learners_is_refused(folder: Path) -> None:
    export(tiny_vit({}), images(2), folder / "dense.onnx", verify=False, output_fields=("logits",))
    with pytest.raises(ModelFileError, match="has 0 ACM layers"):
        calibrated(folder / "dense.onnx", folder / "d.npz", folder / "x.onnx")


def test_data_that_change_from_pass_to_pass_are_noticed(folder: Path) -> None:
    class Augmented:
        rng = np.random.default_rng(0)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"pixel_values": self.rng.standard_normal((1, 8, 8)).astype(np.float32)}

    with pytest.raises(UsageError, match="differ from one pass to the next"):
        calibrate(folder / "m.onnx", Augmented(), [0.5], folder / "x.onnx", solver="uniform")


def test_a_value_named_budget_in_the_model_keeps_the_input_away(folder: Path) -> None:
    model = onnx.load(folder / "m.onnx")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), INPUT))
    onnx.save(model, folder / "named.onnx")
    with pytest.raises(ModelFileError, match="already has a value named budget"):
        calibrated(folder / "named.onnx", folder / "d.npz", folder / "x.onnx", budget_input=True)


def test_no_space_for_outputs_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acm_export.calibration.evaluator.np.save", full)
    with pytest.raises(OutputError, match="No space left") as refusal:
        calibrated(folder / "m.onnx", folder / "d.npz", folder / "x.onnx")
    assert "TMPDIR" in str(refusal.value.hint)


def test_what_does_not_run_is_said_with_what_it_was_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("bad index")

    monkeypatch.setattr("onnxruntime.InferenceSession.run", refuse)
    with pytest.raises(UsageError, match="does not run on the data: bad index") as refusal:
        calibrated(folder / "m.onnx", folder / "d.npz", folder / "x.onnx")
    assert "pixel_values float32 [32, 1, 8, 8]" in str(refusal.value.hint)
