"""Exports of any module: interfaces, external data, failures, refusals."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import images, names, run, torch_counts
from onnx import numpy_helper
from tiny_models import TwoBranches, randomize, tiny_vit
from torch import nn

from acm_export.base.errors import AcmError, ExportError, OutputError, UsageError
from acm_export.exporter import export as export_module
from acm_export.exporter import exporter
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.onnx_file import staged_file
from acm_export.onnx_file.thresholds import thresholds_for
from acm_export.op import INPUTS, Signature
from acm_export.op.body import portable_body
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_module_that_is_not_from_transformers_can_be_exported(tmp_path: Path) -> None:
    model = TwoBranches()
    for _, layer in acm_layers(model):
        layer.thresholds.fill_(0.3)
    tokens, scale = torch.randn(2, 4, 6), torch.randn(2, 1, 1)
    axes = {"tokens": {0: "batch", 1: "tokens"}, "scale": {0: "batch"}}
    result = export_module(model, [tokens, scale], tmp_path / "m.onnx", dynamic_shapes=axes, with_counts=True)
    assert [entry.name for entry in result.manifest.layers] == ["first", "stack.1"]
    assert result.manifest.rest_flops == 2 * 4 * 6 * 6
    assert result.manifest.example_inputs == {"tokens": [1, 4, 6], "scale": [1, 1, 1]}
    proto = onnx.load(result.path)
    assert len(proto.functions) == 1
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert np.allclose(tensors["first.thresholds"], 0.3)
    assert np.allclose(tensors["stack.1.thresholds"], 0.3)
    for batch, length in [(1, 1), (3, 7), (2, 0)]:
        tokens, scale = torch.randn(batch, length, 6), torch.randn(batch, 1, 1)
        ran = run(result.path, tokens=tokens, scale=scale)
        with torch.no_grad():
            expected = model.eval()(tokens, scale)
        np.testing.assert_allclose(ran["output_0"], expected[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(ran["output_1"], expected[1].numpy(), atol=1e-5)
        np.testing.assert_array_equal(ran["counts/first"], torch_counts(model, tokens, scale)["first"])


def test_the_setting_in_the_manifest_matches_the_thresholds_in_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(ACMLayer(ACMSpec(6, 3, 5)))
    model[0].thresholds.fill_(0.5)
    result = export_module(model, torch.randn(2, 6), tmp_path / "m.onnx")
    (tensor,) = [t for t in onnx.load(result.path).graph.initializer if t.name == "0.thresholds"]
    (entry,) = result.manifest.layers
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), thresholds_for(entry, result.manifest.setting))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_single_layer_can_be_exported(batch: int, tmp_path: Path) -> None:
    layer, x = ACMLayer(ACMSpec(6, 3, 5)), torch.randn(batch, 4, 6)
    result = export_module(layer, x, tmp_path / "m.onnx")
    assert len(result.manifest.layers) == 1
    x = torch.randn(3, 4, 6)
    with torch.no_grad():
        np.testing.assert_allclose(run(result.path, x=x)["output"], layer(x).numpy(), atol=1e-5)


class Named(nn.Module):
    """Integer tokens, a layer called by keyword, an output that is a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.acm = nn.Embedding(9, 6), ACMLayer(ACMSpec(6, 2, 3))
        randomize(self)

    def forward(self, ids: torch.Tensor) -> dict[str, Any]:
        return {"y": self.acm(x=self.embed(ids)), "next": ids + 1, "note": None}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_integer_inputs_keyword_calls_and_mappings_are_exported(dtype: str, tmp_path: Path) -> None:
    model = Named()
    result = export_module(model, {"ids": torch.tensor([[1, 2], [3, 4]])}, tmp_path / "m.onnx", dtype=dtype)
    ids = torch.tensor([[0, 8], [1, 1], [5, 6]])
    ran = run(result.path, ids=ids)
    with torch.no_grad():
        np.testing.assert_allclose(ran["y"], model(ids)["y"].numpy(), atol=1e-5 if dtype == "fp32" else 2e-2)
    np.testing.assert_array_equal(ran["next"], ids + 1)


def test_a_module_without_acm_layers_is_exported_as_plain_onnx(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.GELU())
    result = export_module(model, torch.randn(2, 6), tmp_path / "m.onnx")
    proto = onnx.load(result.path)
    assert result.manifest.layers == ()
    assert [o.domain for o in proto.opset_import] == [""]
    assert not proto.functions


def test_layers_with_equal_tensors_keep_separate_initializers(tmp_path: Path) -> None:
    layer = ACMLayer(ACMSpec(6, 3, 5))
    model = nn.Sequential(layer, nn.ReLU(), copy.deepcopy(layer))
    result = export_module(model, torch.randn(2, 6), tmp_path / "m.onnx", verify=False)
    names = [t.name for t in onnx.load(result.path).graph.initializer]
    for name in INPUTS[2:]:
        assert {f"0.{name}", f"2.{name}"} <= set(names)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_module_is_not_changed(dtype: str, tmp_path: Path) -> None:
    model = tiny_vit()
    model.train()
    model.vit.layers[0].eval()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    training = [module.training for module in model.modules()]
    attention = model.config._attn_implementation
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    export_module(model, {"pixel_values": images(2)}, tmp_path / "m.onnx", dtype=dtype, output_fields=("logits",))
    for name, value in model.state_dict(keep_vars=True).items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
        assert value.requires_grad == before[name][1].requires_grad
    assert [module.training for module in model.modules()] == training
    assert model.config._attn_implementation == attention
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_large_weights_go_to_a_file_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_file, "EXTERNAL_ABOVE", 0)
    model, path = tiny_vit(), tmp_path / "m.onnx"
    result = export_module(model, {"pixel_values": images(2)}, path, output_fields=("logits",))
    assert result.data_path is not None
    assert names(tmp_path) == sorted(["m.onnx", result.data_path.name])
    proto = onnx.load(path)
    onnx.checker.check_model(path)
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    np.testing.assert_array_equal(tensors["vit.layers.0.mlp.w1"], model.vit.layers[0].mlp.w1.detach().numpy())
    with torch.no_grad():
        expected = model(images(3)).logits.numpy()
    np.testing.assert_allclose(run(path, pixel_values=images(3))["logits"], expected, atol=1e-4)
    first = path.rename(tmp_path / "kept.onnx")
    model.classifier.weight.data += 1
    export_module(model, {"pixel_values": images(2)}, path, output_fields=("logits",))
    np.testing.assert_allclose(run(first, pixel_values=images(3))["logits"], expected, atol=1e-4)
    with torch.no_grad():
        changed = model(images(3)).logits.numpy()
    np.testing.assert_allclose(run(path, pixel_values=images(3))["logits"], changed, atol=1e-4)


def wrong_body(signature: Signature, opset: int) -> onnx.FunctionProto:
    body = portable_body(Signature(signature.num_learners, signature.min_learners, "relu"), opset)
    body.name = signature.function_name
    return body


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("failure", ["wrong", "interrupt"])
def test_a_file_that_fails_verification_is_not_written(
    old: bytes | None, external: bool, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "m.onnx"
    if old is not None:
        path.write_bytes(old)
    if external:
        monkeypatch.setattr(staged_file, "EXTERNAL_ABOVE", 0)
    if failure == "wrong":
        monkeypatch.setattr("acm_export.onnx_file.targets.portable_body", wrong_body)
    else:
        monkeypatch.setattr(exporter, "verify_model", interrupt)
    model = nn.Sequential(ACMLayer(ACMSpec(6, 3, 30)))
    expected = VerificationError if failure == "wrong" else KeyboardInterrupt
    with pytest.raises(expected):
        export_module(model, torch.randn(2, 9, 6), path)
    assert names(tmp_path) == ([] if old is None else ["m.onnx"])
    if old is not None:
        assert path.read_bytes() == old
    if failure == "wrong":
        export_module(model, torch.randn(2, 9, 6), path, verify=False)
        assert path.stat().st_size > 100


def test_an_absolute_tolerance_that_nothing_can_meet_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"off by .*tolerance 1e-30"):
        export_module(
            nn.Sequential(ACMLayer(ACMSpec(6, 3, 30))), torch.randn(2, 50, 6), tmp_path / "m.onnx", atol=1e-30
        )


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.acm = ACMLayer(ACMSpec(6, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Calls the same layer twice."""
        return torch.as_tensor(self.acm(self.acm(x)))


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Control flow that depends on the data."""
        return x + 1 if x.sum() > 0 else x


class Text(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        """Returns no tensor."""
        return f"{x.shape}"


@pytest.mark.parametrize(
    ("model", "inputs", "options", "error", "said"),
    [
        (nn.Linear(6, 6), torch.randn(2, 6), {"dtype": "int8"}, ExportError, "int8.*fp32, fp16, bf16"),
        (nn.Linear(6, 6), torch.randn(2, 6), {"target": "gpu"}, ExportError, "gpu.*portable"),
        (nn.Linear(6, 6), torch.randn(2, 6), {"opset": 17}, UsageError, "17.*18..22"),
        (nn.Linear(6, 6), torch.randn(2, 6), {"opset": 23}, UsageError, "23.*18..22"),
        (nn.Linear(6, 6), {"x": torch.randn(2, 6)}, {}, ExportError, "no parameter x.*input"),
        (nn.Linear(6, 6), [torch.randn(2, 6)] * 2, {}, ExportError, "2 example inputs for 1"),
        (nn.Linear(6, 6), [3], {}, ExportError, "int"),
        (nn.Linear(6, 6), torch.tensor(3.0), {}, ExportError, "batch dimension"),
        (Twice(), torch.randn(2, 6), {}, ExportError, "acm"),
        (Branching(), torch.randn(2, 6), {}, ExportError, "cannot export"),
        (Text(), torch.randn(2, 6), {}, ExportError, "str"),
        (nn.Linear(6, 6), torch.randn(2, 5), {}, AcmError, None),
    ],
)
def test_unsupported_modules_are_refused_and_leave_no_file(
    model: nn.Module, inputs: Any, options: dict[str, Any], error: Any, said: str | None, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        export_module(model, inputs, tmp_path / "m.onnx", **options)
    assert names(tmp_path) == []


def test_a_layer_that_never_runs_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(ACMLayer(ACMSpec(6, 2, 3)))
    model[0].spare = ACMLayer(ACMSpec(6, 2, 3))
    with pytest.raises(ExportError, match=r"0\.spare"):
        export_module(model, torch.randn(2, 6), tmp_path / "m.onnx")


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        export_module(Branching(), torch.randn(2, 6), tmp_path / "missing" / "m.onnx")
