"""Exports of modules that share tensors, inputs without a batch axis, name clashes, outputs that are inputs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import run, torch_counts
from tiny_models import MixedInputs, PassesThrough, TwoLayers, acm
from torch import nn

from acm_export.base.errors import ExportError
from acm_export.exporter import export

if TYPE_CHECKING:
    from pathlib import Path

BATCH = {"x": {0: "batch"}}


def expect_as_torch(path: Path, model: nn.Module, **inputs: torch.Tensor) -> None:
    """The file is valid and gives what the model gives."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    ran = run(path, **inputs)
    with torch.no_grad():
        expected: Any = model.eval()(*inputs.values())
    expected = [expected] if isinstance(expected, torch.Tensor) else expected
    for output, value in zip([v for k, v in ran.items() if not k.startswith("counts/")], expected, strict=True):
        np.testing.assert_allclose(output, value.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(36,), (6, 6)])
def test_an_input_without_a_batch_axis_is_kept_whole(shape: tuple[int, ...], tmp_path: Path) -> None:
    model, mix = MixedInputs(), torch.randn(shape)
    result = export(model, [torch.randn(2, 6, 6), mix], tmp_path / "m.onnx", dynamic_shapes=BATCH)
    assert result.manifest.example_inputs == {"x": [1, 6, 6], "mix": list(shape)}
    assert result.manifest.layers[0].tokens == 6
    expect_as_torch(result.path, model, x=torch.randn(3, 6, 6), mix=mix)


class Prompted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.acm = acm()

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Samples ``[batch, t, 6]`` behind the same prompt ``[p, 6]``."""
        return torch.as_tensor(self.acm(torch.cat([prompt.expand(x.shape[0], -1, -1), x], 1)))


@pytest.mark.parametrize("axes", [{0: "batch", 1: "t"}, {0: "batch"}])
def test_the_tokens_of_a_prompt_that_all_samples_share_are_counted(axes: dict[int, str], tmp_path: Path) -> None:
    shapes = {"x": axes} | ({"prompt": {0: "p"}} if 1 in axes else {})
    inputs = [torch.randn(2, 5, 6), torch.randn(4, 6)]
    result = export(Prompted(), inputs, tmp_path / "m.onnx", dynamic_shapes=shapes)
    expected = 5 + (1 if 1 in axes else 4)  # of an axis 0 that varies one row is the sample
    assert result.manifest.layers[0].tokens == expected


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.acm = acm()

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Tokens ``[batch, t, 6]`` and what is added at each position, ``[t, 6]``."""
        return torch.as_tensor(self.acm(x + torch.tanh(at)))


def test_axis_0_is_not_the_batch_if_it_is_a_later_axis_of_another_input(tmp_path: Path) -> None:
    inputs = [torch.randn(2, 5, 6), torch.randn(5, 6)]
    shapes = {"x": {0: "batch", 1: "t"}, "at": {0: "t"}}
    result = export(Positions(), inputs, tmp_path / "m.onnx", dynamic_shapes=shapes)
    assert result.manifest.example_inputs == {"x": [1, 5, 6], "at": [5, 6]}


def test_one_token_without_a_batch_can_be_exported(tmp_path: Path) -> None:
    layer = acm()
    result = export(layer, torch.randn(6), tmp_path / "m.onnx", dynamic_shapes={})
    assert result.manifest.example_inputs == {"x": [6]}
    assert result.manifest.layers[0].tokens == 1
    expect_as_torch(result.path, layer, x=torch.randn(6))


@pytest.mark.parametrize("shared", [("gate",), ("w1",), ("gate", "w1", "b1", "w2", "b2")])
@pytest.mark.parametrize("dtype", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_layers_may_share_gates_and_weights(shared: tuple[str, ...], dtype: str, tmp_path: Path) -> None:
    model = TwoLayers()
    for name in shared:
        setattr(model.b, name, getattr(model.a, name))
    result = export(model, torch.randn(2, 7, 6), tmp_path / "m.onnx", dtype=dtype, with_counts=True)
    assert [(e.name, e.tokens) for e in result.manifest.layers] == [("a", 7), ("b", 7)]
    assert result.manifest.rest_flops == 0
    assert result.report is not None
    assert [layer.tokens for layer in result.report.settings[0].layers] == [14, 14]
    assert all("run" not in vars(layer) for layer in (model.a, model.b))
    if dtype == "fp32":
        x = torch.randn(3, 7, 6)
        expect_as_torch(result.path, model, x=x)
        ran = run(result.path, x=x)
        for name, counts in torch_counts(model, x).items():
            np.testing.assert_array_equal(ran[f"counts/{name}"], counts)


def test_layers_that_share_thresholds_are_refused(tmp_path: Path) -> None:
    model = TwoLayers()
    model.b.thresholds = model.a.thresholds
    with pytest.raises(ExportError) as refused:
        export(model, torch.randn(2, 7, 6), tmp_path / "m.onnx")
    assert "its own thresholds" in str(refused.value.hint)


class Meeting(nn.Module):
    """Parameters with the names of an input, of an output and of a value between."""

    def __init__(self) -> None:
        super().__init__()
        self.acm = acm()
        for name in ("x", "output", "add", "add_1"):
            self.register_parameter(name, nn.Parameter(torch.randn(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., 6]``."""
        return torch.as_tensor((self.acm(x * self.x + 1) + self.add) * self.output + self.add_1)


@pytest.mark.parametrize("target", ["portable", "tensorrt"])
def test_parameters_named_like_values_get_unique_names(target: str, tmp_path: Path) -> None:
    model = Meeting()
    result = export(model, torch.randn(2, 6), tmp_path / "m.onnx", target=target, verify=False)
    proto = onnx.load(result.path)
    onnx.checker.check_model(proto)
    defined = Counter(
        [t.name for t in proto.graph.initializer]
        + [value.name for value in proto.graph.input]
        + [name for node in proto.graph.node for name in node.output]
    )
    assert max(defined.values()) == 1
    assert [value.name for value in proto.graph.input] == ["x"]
    assert [value.name for value in proto.graph.output] == ["output"]
    if target == "portable":
        expect_as_torch(result.path, model, x=torch.randn(3, 6))
        assert export(model, torch.randn(2, 6), tmp_path / "m.onnx").report is not None


@pytest.mark.parametrize(
    "dtype", ["fp32", *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("fp16", "bf16"))]
)
@pytest.mark.parametrize("outputs", ["yx", "yy", "xyyx", "yw", "n"])
def test_inputs_and_repeats_among_the_outputs_keep_all_names(outputs: str, dtype: str, tmp_path: Path) -> None:
    model = PassesThrough(outputs)
    result = export(model, torch.randn(2, 3, 6), tmp_path / "m.onnx", dtype=dtype)
    proto = onnx.load(result.path)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.input] == ["x"]
    assert [value.name for value in proto.graph.output] == [f"output_{i}" for i in range(len(outputs))]
    if dtype == "fp32":
        expect_as_torch(result.path, model, x=torch.randn(4, 3, 6))
    copies = Counter(outputs)["x"] + Counter(outputs)["w"] + max(Counter(outputs)["y"] - 1, 0)
    assert sum(node.op_type == "Identity" for node in proto.graph.node) <= copies
