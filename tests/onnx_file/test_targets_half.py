"""Half-precision files with large values: residuals of 1,500, whose squares float16 does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import images, run
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from test_targets_lowering import HALF_X, HALF_Y, graph_of, lowered
from tiny_models import tiny_vit
from torch import nn

from acm_export.engine.float32_layers import float32_layers
from acm_export.engine.plan import plan_engine
from acm_export.engine.release import Release
from acm_export.exporter import export
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.onnx_file.retarget import retarget

if TYPE_CHECKING:
    from pathlib import Path

RESIDUAL = 1500
PRECISION_OPTIONS = ("--precisionConstraints", "--layerPrecisions", "--layerOutputTypes")
HALF_NORM = HALF_X.replace("x)", "x, float16[8] w, float16[8] b)")


def layer_norm(attributes: str = "") -> onnx.ModelProto:
    return graph_of(f"{HALF_NORM} => {HALF_Y} {{ y = LayerNormalization {attributes} (x, w, b) }}")


@pytest.mark.parametrize("stash", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("offset", [0, 20 * RESIDUAL], ids=["centred", "far from 0"])
def test_statistics_of_a_lowered_layer_norm_do_not_overflow(stash: int, offset: int) -> None:
    """In the arithmetic of the file's own types: ONNX Runtime's CPU provider would compute in float32 anyway."""
    rng = np.random.default_rng(0)
    x = (rng.choice([-RESIDUAL, RESIDUAL], (2, 3, 8)) * rng.uniform(1, 2, (2, 3, 8)) + offset).astype(np.float16)
    scale, bias = rng.standard_normal((2, 8)).astype(np.float16)
    model = lowered(layer_norm(f"<stash_type = {stash}>"))
    (y,) = ReferenceEvaluator(model).run(None, {"x": x, "w": scale, "b": bias})
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected, rtol=0, atol=4e-3 * np.abs(expected).max())


class AllLearners(nn.Module):
    """What an ACM layer computes if all learners run, in any type."""

    def __init__(self, layer: ACMLayer) -> None:
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = layer.w1, layer.b1, layer.w2, layer.b2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[..., D]``."""
        return nn.functional.gelu(x @ self.w1 + self.b1) @ self.w2 + self.b2[-1]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ViT in fp16 whose residual stream is around 1,500, its inputs, and its outputs in float64."""
    torch.manual_seed(0)
    spec = ACMSpec(12, 2, 6, 2)  # all learners always run, so that no token can be routed differently
    model = tiny_vit({"vit.layers.0.mlp": spec, "vit.layers.1.mlp": spec})
    with torch.no_grad():
        model.vit.embeddings.position_embeddings.copy_(RESIDUAL * torch.randn(1, 5, 12).sign())
    inputs = {"pixel_values": images(3)}
    path = tmp_path_factory.mktemp("large") / "large.onnx"
    export(model, inputs, path, dtype="fp16", output_fields=("logits",), verify=False)
    for name, layer in list(acm_layers(model)):
        model.set_submodule(name, AllLearners(layer))
    with torch.no_grad():
        outputs = model.double()(images(3).double(), output_hidden_states=True)
    assert min(states.abs().mean() for states in outputs.hidden_states) > 0.9 * RESIDUAL
    return path, inputs, outputs.logits.numpy()


def relative_error(found: Any, expected: Any) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_a_portable_fp16_file_holds_large_residuals_in_onnx_runtime(large: Any) -> None:
    path, inputs, expected = large
    assert relative_error(run(path, **inputs)["logits"], expected) < 2e-2


def test_a_lowered_fp16_file_holds_large_residuals(large: Any, tmp_path: Path) -> None:
    path, inputs, expected = large
    retarget(path, tmp_path / "t8.onnx", target="tensorrt-8")
    retarget(tmp_path / "t8.onnx", tmp_path / "back.onnx", target="portable")
    model = onnx.load(tmp_path / "back.onnx")
    assert "LayerNormalization" not in {node.op_type for node in model.graph.node}
    (logits,) = ReferenceEvaluator(model).run(None, {name: value.numpy() for name, value in inputs.items()})
    assert relative_error(logits, expected) < 2e-2


@pytest.mark.parametrize("target", ["tensorrt", "ort-tensorrt"])
def test_normalizations_for_strongly_typed_networks_are_float32(target: str, large: Any, tmp_path: Path) -> None:
    """As in a tensorrt-8 file that is made of one for tensorrt."""
    path, inputs, expected = large
    for number, name in enumerate((target, target, "tensorrt-8", "portable")):
        retarget(path, path := tmp_path / f"{number}.onnx", target=name)
        model = onnx.load(path)
        if name != target:
            continue
        norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
        casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
        assert len(norms) == 5
        assert {a.i for node in norms for name in node.input for a in casts[name].attribute} == {TensorProto.FLOAT}
        assert len([node for node in casts.values() if node.input[0] in {norm.output[0] for norm in norms}]) == 5
    (logits,) = ReferenceEvaluator(model).run(None, {name: value.numpy() for name, value in inputs.items()})
    assert relative_error(logits, expected) < 2e-2


def test_an_instance_norm_is_lowered_to_float32() -> None:
    text = f"{HALF_NORM.replace('[8]', '[3]')} => {HALF_Y} {{ y = InstanceNormalization (x, w, b) }}"
    model = lowered(graph_of(text))
    assert [node.op_type for node in model.graph.node] == ["Cast"] * 3 + ["InstanceNormalization", "Cast"]
    x = np.linspace(-2000, 2000, 48).reshape(2, 3, 8).astype(np.float16)
    (y,) = ReferenceEvaluator(model).run(None, {"x": x, "w": np.ones(3, np.float16), "b": np.zeros(3, np.float16)})
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True), atol=2e-3)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_in_half_precision_has_the_right_limits(approximate: str) -> None:
    """The cube of the tanh form is infinite from |x| = 41 on."""
    model = lowered(graph_of(f'{HALF_X} => {HALF_Y} {{ y = Gelu <approximate = "{approximate}"> (x) }}'))
    x = np.array([40, 41, 45, 300, 3000, 30000, 65472, 65504], np.float16).reshape(1, 1, 8).repeat(3, 1)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": x})[0], x)
        np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": -x})[0], 0)


def test_the_layers_that_trtexec_must_keep_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(tiny_vit(), {"pixel_values": images(2)}, tmp_path / "m.onnx", dtype="fp16", verify=False)
    retarget(tmp_path / "m.onnx", tmp_path / "t8.onnx", target="tensorrt-8")
    model = onnx.load(tmp_path / "t8.onnx")
    names = list(float32_layers(model))
    nodes = {node.name: node for node in model.graph.node}
    statistics = [n for n in nodes if n.startswith("layer_norm") and nodes[n].op_type in ("ReduceMean", "Sqrt", "Div")]
    assert len(statistics) == 5 * 4
    gates = [n for n, node in nodes.items() if any(".gate." in name for name in node.input)]
    assert gates
    assert {*statistics, *gates} <= set(names)
    half = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert not [n for n in names if half & set(nodes[n].input)]
    assert not {nodes[n].op_type for n in names} & {"Cast", "GatedLearners"}


def test_only_the_trtexec_command_for_a_half_precision_file_names_them(tmp_path: Path) -> None:
    for dtype in ("fp32", "fp16"):
        export(tiny_vit({}), {"pixel_values": images(2)}, tmp_path / f"{dtype}.onnx", dtype=dtype, verify=False)
        commands = [
            plan_engine(tmp_path / f"{dtype}.onnx", tmp_path / "m.plan", Release(version)).trtexec.split()
            for version in ((8, 5), (8, 6), (10, 3))
        ]
        given = [{word.partition("=")[0] for word in words} & {*PRECISION_OPTIONS} for words in commands]
        assert given == [{*PRECISION_OPTIONS} if dtype == "fp16" and weak else set() for weak in (True, True, False)]
        for word in commands[0]:
            if word.startswith(PRECISION_OPTIONS[1:]):
                pairs = dict(pair.split(":") for pair in word.partition("=")[2].split(","))
                assert set(pairs.values()) == {"fp32"}
                assert sum(name.endswith("/Sqrt") for name in pairs) == 5
