"""The target tensorrt-8 on whole models: contents, results, and rewriting to it and back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import images, names, run, session
from onnx import numpy_helper
from tiny_models import randomize, tiny_vit
from torch import nn

from acm_export.base.errors import ExportError, UsageError
from acm_export.checkpoints import load_checkpoint
from acm_export.demo.digits import ACM
from acm_export.exporter import ExportResult, export
from acm_export.modules import ACMLayer, ACMSpec
from acm_export.onnx_file import staged_file
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.lowering.operators import PARSED
from acm_export.onnx_file.manifest import read_manifest, write_manifest
from acm_export.onnx_file.targets import TARGETS, rewrite_for
from acm_export.op import DOMAIN, NAME, VERSION
from acm_export.op.quantized_signature import operator_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

PAIRS = [
    *("vit-fp16", "mixed-fp32", "mixed-fp16"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("digits-fp32", "digits-fp16", "vit-fp32")),
]
NORM = Counter(Add=1, Sub=1, ReduceMean=2, Mul=2, Sqrt=1, Div=1)  # without the Add of a bias
GELU, GELU_TANH = Counter(Mul=2, Div=1, Erf=1, Add=1), Counter(Mul=6, Tanh=1, Add=2)
HALF_CASTS, SHAPE_RANGE = Counter(Cast=2), Counter(Slice=1)
RELATIVE = {"fp32": 1e-5, "fp16": 2e-2}


class Mixed(nn.Module):
    """Every activation, two normalizations, a reduction and a split around two ACM layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8, elementwise_affine=False)
        self.first, self.second = ACMLayer(ACMSpec(8, 3, 5)), ACMLayer(ACMSpec(8, 3, 5, 1, "silu"))
        self.last = nn.Sequential(nn.GELU(), nn.Linear(8, 8), nn.GELU("tanh"), nn.Linear(8, 8), nn.ReLU(), nn.SiLU())
        randomize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens ``[batch, t, 8]`` to ``[batch, 8]``."""
        one, two, three = self.second(self.after(self.first(self.before(x)))).chunk(3, dim=-1)
        return torch.as_tensor(self.last(torch.cat([three, one, two], dim=-1)).mean(1))


def export_of(name: str, path: Path, **options: Any) -> tuple[ExportResult, dict[str, torch.Tensor]]:
    """An export and inputs for it."""
    torch.manual_seed(0)
    if name == "digits":
        return export(load_checkpoint(ACM), output=path, **options), {"pixel_values": torch.randn(3, 3, 32, 32)}
    if name == "vit":
        result = export(tiny_vit(), {"pixel_values": images(2)}, path, output_fields=("logits",), **options)
        return result, {"pixel_values": images(3)}
    return export(Mixed(), torch.randn(2, 4, 8), path, **options), {"x": torch.randn(3, 4, 8)}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model's portable file and its file for TensorRT 8, and inputs."""
    name, dtype = request.param.split("-")
    folder = tmp_path_factory.mktemp("pair")
    portable, inputs = export_of(name, folder / "portable.onnx", dtype=dtype)
    lowered, _ = export_of(name, folder / "lowered.onnx", dtype=dtype, target="tensorrt-8")
    return name, portable, lowered, inputs


def count(path: Path) -> Counter[str]:
    """Operators of a file; a portable body counts as its operator."""
    return Counter(operator_of(node.op_type) or node.op_type for node in onnx.load(path).graph.node)


def retargeted(model: onnx.ModelProto, target: str) -> onnx.ModelProto:
    """A copy for another target."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    write_manifest(copy, rewrite_for(copy, read_manifest(copy, "copy"), target))
    return copy


def test_each_operator_is_decomposed_once_and_nothing_else_changes(pair: Any) -> None:
    name, portable, lowered, _ = pair
    before, after = count(portable.path), count(lowered.path)
    norms = [n for n in onnx.load(portable.path).graph.node if n.op_type == "LayerNormalization"]
    half = portable.manifest.dtype == "fp16"
    assert len(norms) == before.pop("LayerNormalization") >= 2
    expected = before + Counter(Add=sum(len(node.input) == 3 for node in norms))
    for op, number in (NORM + (HALF_CASTS if half else Counter())).items():
        expected[op] += number * len(norms)
    if name == "mixed":
        assert expected.pop("Gelu") == 2
        expected += GELU + GELU_TANH
    else:
        for _ in range(expected.pop("Gelu", 0)):  # of gates
            expected += GELU
        if before["Shape"]:
            expected += SHAPE_RANGE
    assert after == expected


def test_the_file_contains_only_operators_that_the_parser_supports(pair: Any) -> None:
    _, portable, lowered, _ = pair
    model = onnx.load(lowered.path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, DOMAIN: VERSION}
    assert not model.functions
    assert {node.op_type for node in model.graph.node} <= PARSED | {NAME}
    assert not any(node.overload for node in model.graph.node)
    allowed = {
        a.name for n in model.graph.node if n.op_type in ("Shape", "Reshape", "Split", "Cast") for a in n.attribute
    }
    assert allowed <= {"axis", "to"}
    assert lowered.manifest == portable.manifest.replaced(target="tensorrt-8", opset=17)
    assert read_manifest(model, lowered.path) == lowered.manifest
    gated = [n for n in model.graph.node if n.op_type == NAME]
    assert [n.name for n in gated] == [n.name for n in onnx.load(portable.path).graph.node if n.domain == DOMAIN]


def test_the_report_says_that_the_portable_body_was_verified(pair: Any) -> None:
    _, _, lowered, _ = pair
    assert lowered.report.passed
    assert any("tensorrt-8" in note for note in lowered.report.notes)


@pytest.mark.parametrize("batch", [1, 3])
def test_it_matches_the_portable_file(pair: Any, batch: int) -> None:
    _, portable, lowered, inputs = pair
    inputs = {name: value[:batch] for name, value in inputs.items()}
    twin = session(retargeted(onnx.load(lowered.path), "portable").SerializeToString())
    (output,) = twin.run(None, {name: value.numpy() for name, value in inputs.items()})
    (expected,) = run(portable.path, **inputs).values()
    assert output.dtype == expected.dtype
    error = np.abs(output - expected).max() / np.abs(expected).max()
    assert error < RELATIVE[lowered.manifest.dtype]


def test_a_rewrite_of_the_portable_file_is_the_export(pair: Any) -> None:
    _, portable, lowered, _ = pair
    rewritten, exported = retargeted(onnx.load(portable.path), "tensorrt-8"), onnx.load(lowered.path)
    assert rewritten.graph.node == exported.graph.node
    tensors = [sorted(model.graph.initializer, key=lambda t: t.name) for model in (rewritten, exported)]
    assert tensors[0] == tensors[1]
    assert rewritten.opset_import == exported.opset_import


@pytest.mark.parametrize("opset", [18, 19, 21, 22])
def test_files_of_every_opset_can_be_lowered(opset: int, tmp_path: Path) -> None:
    result, inputs = export_of("mixed", tmp_path / "m.onnx", opset=opset, verify=False)
    model = retargeted(onnx.load(result.path), "tensorrt-8")
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= PARSED | {NAME}
    twin = session(retargeted(model, "portable").SerializeToString())
    np.testing.assert_allclose(
        twin.run(None, {k: v.numpy() for k, v in inputs.items()})[0], run(result.path, **inputs)["output"], atol=1e-5
    )


@pytest.mark.parametrize("target", TARGETS)
def test_it_can_be_rewritten_for_every_target(target: str, tmp_path: Path) -> None:
    result, _ = export_of("vit", tmp_path / "m.onnx", target="tensorrt-8", verify=False)
    original = onnx.load(result.path)
    model = retargeted(original, target)
    assert {o.version for o in model.opset_import if not o.domain} == {17}
    assert model.ir_version == (8 if target == "tensorrt-8" else 10)
    assert len(model.functions) == (2 if target == "portable" else 0)
    if target != "ort-tensorrt":
        onnx.checker.check_model(model, full_check=True)
    again = retargeted(model, "tensorrt-8")
    assert again.graph.node == original.graph.node
    assert again.graph.initializer == original.graph.initializer


def test_large_weights_stay_in_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_file, "EXTERNAL_ABOVE", 0)
    result, _ = export_of("vit", tmp_path / "m.onnx", target="tensorrt-8")
    assert result.report is not None
    assert result.report.passed
    assert result.data_path is not None
    assert names(tmp_path) == sorted(["m.onnx", result.data_path.name])


def test_inspect_says_which_runtime_runs_the_file(tmp_path: Path) -> None:
    result, _ = export_of("mixed", tmp_path / "m.onnx", target="tensorrt-8", verify=False)
    assert inspect(result.path).runs_on == "TensorRT 8.5 and 8.6"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bf16"}, "bf16.*tensorrt-8.*fp16 or fp32"),
        ({"opset": 20}, "20.*tensorrt-8.*17"),
        ({"opset": 18}, "17"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        export(nn.Linear(6, 6), torch.randn(2, 6), tmp_path / "m.onnx", target="tensorrt-8", **options)
    assert names(tmp_path) == []


def test_opset_17_can_be_given_explicitly(tmp_path: Path) -> None:
    options = {"target": "tensorrt-8", "opset": 17}
    assert export_of("mixed", tmp_path / "m.onnx", verify=False, **options)[0].manifest.opset == 17


def test_a_bf16_file_cannot_be_lowered(tmp_path: Path) -> None:
    result, _ = export_of("mixed", tmp_path / "m.onnx", dtype="bf16", verify=False)
    model = onnx.load(result.path)
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ExportError, match="bf16"):
        rewrite_for(model, result.manifest, "tensorrt-8")
    assert model.SerializeToString(deterministic=True) == before


def test_a_refused_model_is_unchanged(tmp_path: Path) -> None:
    """Also the end of a reversed axis and the unused outputs of a normalization, which other rules change."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.InstanceNorm1d(3, affine=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.mish(self.norm(x.flip(2)))

    result = export(Model(), torch.randn(2, 3, 6), tmp_path / "m.onnx", dtype="fp16", verify=False)
    model = onnx.load(result.path)
    next(node for node in model.graph.node if node.op_type == "InstanceNormalization").output.append("")
    end = next(node.input[2] for node in model.graph.node if node.op_type == "Slice")
    smallest = np.array([np.iinfo(np.int64).min])
    next(t for t in model.graph.initializer if t.name == end).CopyFrom(numpy_helper.from_array(smallest, end))
    before = model.SerializeToString(deterministic=True)
    with pytest.raises(ExportError, match="Mish"):
        rewrite_for(model, result.manifest, "tensorrt-8")
    assert model.SerializeToString(deterministic=True) == before


def test_an_unsupported_model_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Mish .*tensorrt-8"):
        export(nn.Sequential(nn.Mish()), torch.randn(2, 6), tmp_path / "m.onnx", target="tensorrt-8")
    assert names(tmp_path) == []
