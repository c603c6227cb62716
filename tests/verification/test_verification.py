"""Verification of files: correct files pass, and tampered ones are caught."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tiny_models import tiny_vit
from torch import nn

from acm_export.base.errors import AcmError, AcmWarning
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.modules.wrapper import Exportable
from acm_export.verification.compare import verify_model
from acm_export.verification.file import verify
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from acm_export.verification.report import VerificationReport

INF, NAN = float("inf"), float("nan")
EXPORTED: dict[str, bytes] = {}
"""The file of :class:`Model` for each set of options, exported once."""


class Model:
    """A module of two ACM layers, its file, and ways to tamper with it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(ACMLayer(ACMSpec(6, 3, 20)), nn.Linear(6, 6), ACMLayer(ACMSpec(6, 3, 20, 1)))
        self.module.eval().requires_grad_(False)
        for _, layer in acm_layers(self.module):
            layer.gate.linears[0].weight.normal_()
        self.inputs = {"input": torch.randn(3, 16, 6)}
        self.path = folder / "m.onnx"
        if (kind := repr(options)) not in EXPORTED:
            export(self.module, self.inputs, self.path, **options)
            EXPORTED[kind] = self.path.read_bytes()
        self.path.write_bytes(EXPORTED[kind])
        self.exportable = Exportable(self.module, ["input"], torch.float32)

    def tamper(self, change: Callable[[onnx.ModelProto], None]) -> VerificationReport:
        proto = onnx.load(self.path)
        change(proto)
        onnx.save(proto, self.path)
        return verify_model(self.path, self.exportable, self.inputs)


def change_weight(name: str, change: Callable[[Any], Any]) -> Callable[[onnx.ModelProto], None]:
    def apply(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))

    return apply


def one_more(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values.flat[0] += 1
    return values


def edit_body(find: str, replace: str, position: int = 0) -> Callable[[onnx.ModelProto], None]:
    """Put another operator into the bodies."""

    def apply(proto: onnx.ModelProto) -> None:
        for function in proto.functions:
            nodes = [node for node in function.node if node.op_type == find]
            assert nodes
            nodes[position].op_type = replace
            del nodes[position].attribute[:]

    return apply


def drop_last_learner(proto: onnx.ModelProto) -> None:
    """Like the published code: tokens that need the last learner do not get its output."""
    for function in proto.functions:
        for node in function.node:
            if node.output[0].startswith("learner") and node.output[0].endswith("_hidden"):
                last = node
        last.op_type = "Sub"
        del last.attribute[:]
        last.input.append(last.input[0])


def wrong_counts(offset: int) -> Callable[[onnx.ModelProto], None]:
    def apply(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(offset, np.int32), "offset"))
        node = next(n for n in proto.graph.node if n.op_type == "GatedLearners_n3_min0_gelu")
        proto.graph.node.append(helper.make_node("Add", ["inner", "offset"], [node.output[1]]))
        node.output[1] = "inner"

    return apply


@pytest.mark.parametrize("target", ["portable", "tensorrt", "ort-tensorrt"])
def test_an_unmodified_file_passes_at_three_budgets(target: str, tmp_path: Path) -> None:
    model = Model(tmp_path, target=target)
    report = verify_model(model.path, model.exportable, model.inputs)
    assert report.passed
    assert len(report.settings) == 3
    budgets = sorted(s.budget for s in report.settings)
    assert budgets[1] - budgets[0] > 0.1
    assert budgets[2] - budgets[1] > 0.1
    assert all([layer.name for layer in s.layers] == ["0", "2"] for s in report.settings)
    assert all(layer.tokens == 48 for s in report.settings for layer in s.layers)
    assert bool(report.notes) == (target != "portable")
    assert all(torch.equal(layer.thresholds, torch.zeros(3)) for _, layer in acm_layers(model.module))
    assert not any(layer.gate._forward_hooks for _, layer in acm_layers(model.module))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_weight("0.w1", one_more), "off by"),
        (change_weight("2.b2", lambda w: w + np.float32(1)), "off by"),
        (change_weight("2.w2", lambda w: w * np.float32(1.01)), "off by"),
        (change_weight("1.bias", one_more), "off by"),
        (change_weight("2.w1", lambda w: np.where(w == w.max(), np.float32(NAN), w)), "off by"),
        (change_weight("0.gate.linears.0.bias", one_more), "differently"),
        (edit_body("Greater", "Less"), "differently"),
        (edit_body("Gelu", "Relu"), "off by"),
        (drop_last_learner, "off by"),
    ],
)
def test_a_tampered_file_is_caught(change: Callable[[onnx.ModelProto], None], said: str, tmp_path: Path) -> None:
    report = Model(tmp_path).tamper(change)
    assert not report.passed
    assert said in str(report.failure)


@pytest.mark.parametrize("offset", [1, -1, 100])
def test_wrong_counts_are_caught(offset: int, tmp_path: Path) -> None:
    model = Model(tmp_path, with_counts=True)
    try:
        report = model.tamper(wrong_counts(offset))
    except AcmError:
        return
    assert not report.passed


@pytest.mark.parametrize("change", [lambda t: t - 1, lambda t: t + np.float32(INF), lambda t: t * np.float32(NAN)])
def test_thresholds_that_contradict_the_manifest_are_caught(change: Any, tmp_path: Path) -> None:
    model = Model(tmp_path)
    try:
        report = model.tamper(change_weight("0.thresholds", change))
    except AcmError:
        return
    assert not report.passed


def test_a_small_output_is_not_hidden_by_a_large_one(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.acm, self.small = ACMLayer(ACMSpec(6, 3, 20)), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.acm(x)
            return 1e6 * y, self.small(y)

    module, inputs = Two().eval().requires_grad_(False), {"x": torch.randn(2, 6)}
    export(module, inputs, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    change_weight("small.bias", one_more)(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    assert not verify_model(tmp_path / "m.onnx", Exportable(module, ["x"], torch.float32), inputs).passed


def test_a_model_whose_outputs_are_nan_on_both_sides_agrees(tmp_path: Path) -> None:
    model = Model(tmp_path)
    model.inputs["input"][1, 2, 3] = NAN
    report = verify_model(model.path, model.exportable, model.inputs)
    assert report.passed
    model.module[1].bias.fill_(0)
    assert not verify_model(model.path, model.exportable, model.inputs).passed


def test_nan_outputs_of_the_model_itself_are_counted(tmp_path: Path) -> None:
    module, inputs = nn.Sequential(ACMLayer(ACMSpec(6, 3, 20)), nn.Linear(6, 4)).eval(), {"input": torch.randn(2, 6)}
    with torch.no_grad():
        module[1].bias[1] = NAN
    report = export(module, inputs, tmp_path / "m.onnx").report
    assert report is not None
    assert report.passed
    assert "2 of 8 values" in report.notes[-1]


def test_a_disagreement_next_to_the_threshold_is_tolerated_and_reported(tmp_path: Path) -> None:
    model = Model(tmp_path)
    near = copy.deepcopy(model.module)
    for _, layer in acm_layers(near):
        layer.gate.linears[0].weight += 1e-4 * torch.randn_like(layer.gate.linears[0].weight)
    inputs = {"input": torch.randn(600, 16, 6)}
    model.exportable.module = near
    report = verify_model(model.path, model.exportable, inputs)
    assert report.passed
    assert sum(layer.disagreements for s in report.settings for layer in s.layers) > 0


@pytest.mark.parametrize("change", ["layers", "inputs", "outputs"])
def test_a_model_with_different_layers_inputs_or_outputs_is_refused(change: str, tmp_path: Path) -> None:
    model = Model(tmp_path)
    inputs = model.inputs
    if change == "layers":
        model.exportable.module[0] = ACMLayer(ACMSpec(6, 4, 15))
    elif change == "inputs":
        inputs = {"other": inputs["input"]}
    else:
        model.exportable.module.append(nn.Linear(6, 5))
    with pytest.raises(VerificationError) as refused:
        verify_model(model.path, model.exportable, inputs)
    assert {"layers": "(6, 4, 15, 0, 'gelu', False)", "inputs": "other", "outputs": "5"}[change] in str(refused.value)


def test_a_file_is_compared_with_its_own_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit(), tmp_path / "mine", source={})
    checkpoint = load_checkpoint(tmp_path / "mine")
    export(checkpoint, output=tmp_path / "m.onnx", verify=False)
    assert verify(tmp_path / "m.onnx", checkpoint).passed
    specs = {"vit.layers.0.mlp": ACMSpec(12, 4, 6)}
    save_checkpoint(tiny_vit(specs), tmp_path / "other_layers", source={})
    with (
        pytest.warns(AcmWarning, match="differ"),
        pytest.raises(VerificationError, match=r"vit\.layers\.1\.mlp|vit\.layers\.1\.attention") as refused,
    ):
        verify(tmp_path / "m.onnx", load_checkpoint(tmp_path / "other_layers"))
    assert "checkpoint" in str(refused.value.hint)
    save_checkpoint(tiny_vit(), tmp_path / "other_weights", source={})
    with pytest.warns(AcmWarning, match="differ"):
        assert not verify(tmp_path / "m.onnx", load_checkpoint(tmp_path / "other_weights")).passed


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_lower_precision_passes_within_its_own_tolerance(dtype: str, tmp_path: Path) -> None:
    report = verify_model((model := Model(tmp_path, dtype=dtype)).path, model.exportable, model.inputs)
    assert report.passed
    assert report.dtype == dtype
    assert max(s.relative for s in report.settings) > 1e-6
