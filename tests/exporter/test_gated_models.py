"""The whole line for a model with gated and ungated FFNs: export, verify, calibrate, set the budget, int8, latency."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from exported_files import run, torch_counts
from gated_models import GEGLU, SWIGLU, UNGATED, Decoder, tiny_decoder, word_ids, write_words
from onnx import numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from acm_export.base.errors import ModelFileError
from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.exporter.attention import plain_attention
from acm_export.modules import acm_layers
from acm_export.modules.wrapper import Exportable
from acm_export.onnx_file.inspection import inspect
from acm_export.onnx_file.manifest import parse_manifest, read_manifest
from acm_export.onnx_file.retarget import retarget
from acm_export.onnx_file.set_budget import set_budget
from acm_export.onnx_file.targets import TARGETS, gated_learners_nodes
from acm_export.quantization.quantize import quantize
from acm_export.report.inspection import layer_table
from acm_export.timing.latency import latency
from acm_export.verification.compare import verify_model
from acm_export.verification.report import VerificationError

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.verification.report import VerificationReport

LAYERS = {"blocks.0.ffn": SWIGLU, "blocks.1.ffn": UNGATED, "blocks.2.ffn": GEGLU}


@pytest.fixture(scope="module")
def model() -> Decoder:
    return tiny_decoder()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: Decoder) -> Path:
    """Files of every stop of the line, and the data that set their scales and tables."""
    folder = tmp_path_factory.mktemp("gated")
    data = write_words(folder / "words.npz")
    export(model, {"input_ids": word_ids(2)}, folder / "m.onnx")
    calibrate(folder / "m.onnx", data, [0.4, 0.7], folder / "calibrated.onnx")
    calibrate(folder / "m.onnx", data, [0.4, 0.7], folder / "input.onnx", budget_input=True)
    set_budget(folder / "calibrated.onnx", 0.5, output=folder / "half.onnx")
    quantize(folder / "half.onnx", folder / "int8.onnx", data=data)
    quantize(folder / "half.onnx", folder / "dynamic.onnx", activations="dynamic")
    return folder


def verified(path: Path, model: Decoder, ids: torch.Tensor) -> VerificationReport:
    exportable = Exportable(model, ["input_ids"], torch.float32, None).eval()
    return verify_model(path, exportable, {"input_ids": ids})


def node_types(path: Path) -> dict[str, str]:
    return {node.name: node.op_type for node in gated_learners_nodes(onnx.load(path))}


def test_each_layer_has_the_operator_of_its_ffn(files: Path) -> None:
    assert node_types(files / "m.onnx") == {
        "blocks.0.ffn": "GLUGatedLearners_n4_min0_silu",
        "blocks.1.ffn": "GatedLearners_n4_min0_silu",
        "blocks.2.ffn": "GLUGatedLearners_n3_min1_gelu_tanh",
    }
    assert node_types(files / "int8.onnx") == {
        "blocks.0.ffn": "QuantizedGLUGatedLearners_n4_min0_silu_static",
        "blocks.1.ffn": "QuantizedGatedLearners_n4_min0_silu_static",
        "blocks.2.ffn": "QuantizedGLUGatedLearners_n3_min1_gelu_tanh_static",
    }
    for name in ("m", "int8", "dynamic", "input"):
        onnx.checker.check_model(onnx.load(files / f"{name}.onnx"), full_check=True)


def test_the_manifest_says_which_layers_are_gated_and_what_they_cost(files: Path) -> None:
    layers = inspect(files / "int8.onnx").manifest.layers
    assert [layer.glu for layer in layers] == [True, False, True]
    assert [layer.learner_flops for layer in layers] == [6 * 64 * 32, 4 * 64 * 32, 6 * 64 * 40]


def test_inspect_marks_gated_layers(files: Path) -> None:
    table = layer_table(inspect(files / "m.onnx"))
    assert list(table.columns[5].cells) == ["silu (GLU)", "silu", "gelu_tanh (GLU)"]


def test_all_learners_cost_what_the_counter_of_pytorch_finds_in_the_dense_twins(files: Path, model: Decoder) -> None:
    x = torch.randn(1, 12, 64)
    with plain_attention(model), FlopCounterMode(display=False) as counter:
        for _, layer in acm_layers(model):
            layer.dense()(x)
    assert inspect(files / "m.onnx").manifest.all_learners_flops == counter.get_total_flops()


@pytest.mark.parametrize("budget", [0.4, 0.55, 0.7])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 12), (3, 12)])
def test_the_file_follows_pytorch_at_every_budget(
    budget: float, batch: int, tokens: int, files: Path, model: Decoder, tmp_path: Path
) -> None:
    set_budget(files / "calibrated.onnx", budget, output=tmp_path / "b.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "b.onnx").graph.initializer}
    ids = word_ids(batch, tokens)
    before = {name: layer.thresholds.clone() for name, layer in acm_layers(model)}
    try:
        for name, layer in acm_layers(model):
            layer.thresholds.copy_(torch.from_numpy(stored[f"{name}.thresholds"].copy()))
        with torch.no_grad():
            expected = model(ids).numpy()
        assert len({int(c) for counts in torch_counts(model, ids).values() for c in counts.flat}) > 1
    finally:
        for name, layer in acm_layers(model):
            layer.thresholds.copy_(before[name])
    (found,) = run(tmp_path / "b.onnx", input_ids=ids).values()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["m", "calibrated", "input", "half", "int8", "dynamic"])
def test_every_file_verifies(name: str, files: Path, model: Decoder) -> None:
    report = verified(files / f"{name}.onnx", model, word_ids(4))
    assert report.passed, report.failure
    if name in ("int8", "dynamic"):
        assert [len(setting.integers) for setting in report.settings] == [3] * len(report.settings)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("opset", [18, 20, 22])
def test_half_precision_and_other_opsets(dtype: str, opset: int, model: Decoder, tmp_path: Path) -> None:
    result = export(model, {"input_ids": word_ids(2)}, tmp_path / "m.onnx", dtype=dtype, opset=opset)
    assert result.report is not None
    assert result.report.passed


@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"portable"}))
@pytest.mark.parametrize("name", ["calibrated", "input", "int8"])
def test_a_file_moves_to_every_target_and_back(
    name: str, target: str, files: Path, model: Decoder, tmp_path: Path
) -> None:
    retarget(files / f"{name}.onnx", tmp_path / "t.onnx", target=target)
    operator = "QuantizedGLUGatedLearners" if name == "int8" else "GLUGatedLearners"
    assert node_types(tmp_path / "t.onnx")["blocks.0.ffn"] == operator
    assert not onnx.load(tmp_path / "t.onnx").functions
    inspect(tmp_path / "t.onnx")
    retarget(tmp_path / "t.onnx", tmp_path / "back.onnx", target="portable")
    assert verified(tmp_path / "back.onnx", model, word_ids(2)).passed
    if target != "tensorrt-8" and name != "int8":
        assert (tmp_path / "back.onnx").read_bytes() == (files / f"{name}.onnx").read_bytes()


@pytest.mark.parametrize("name", ["half", "int8"])
def test_latency_times_and_steers_gated_layers(name: str, files: Path) -> None:
    result = latency(files / f"{name}.onnx", runs=3, warm_up=0, data=files / "words.npz")
    budgets = {one.routing: one.budget_measured for one in result.runs}
    assert budgets["most"] == 1
    assert budgets["least"] < budgets["data"] < 1


def test_int8_changes_the_output_little(files: Path) -> None:
    ids = word_ids(6)
    (expected,) = run(files / "half.onnx", input_ids=ids).values()
    for name in ("int8", "dynamic"):
        (found,) = run(files / f"{name}.onnx", input_ids=ids).values()
        assert 0 < np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_a_changed_multiplied_branch_is_found(files: Path, tmp_path: Path, model: Decoder) -> None:
    proto = onnx.load(files / "m.onnx")
    node = next(gated_learners_nodes(proto))
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[5])
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(proto, tmp_path / "x.onnx")
    assert not verified(tmp_path / "x.onnx", model, word_ids(2)).passed
    with pytest.raises(ModelFileError, match="has other values than in"):
        inspect(tmp_path / "x.onnx", adopt=files / "m.onnx", output=tmp_path / "fixed.onnx")


def test_a_checkpoint_of_the_other_kind_is_refused(files: Path) -> None:
    with pytest.raises(VerificationError, match=r"glu\) is .*True.* in the file and .*False"):
        verified(files / "m.onnx", tiny_decoder((UNGATED, UNGATED, GEGLU)), word_ids(2))


def test_a_layer_that_another_tool_made_ungated_is_refused(files: Path, tmp_path: Path) -> None:
    proto = onnx.load(files / "m.onnx")
    node = next(gated_learners_nodes(proto))
    node.op_type = "GatedLearners_n4_min0_silu"
    del node.input[5:7]
    onnx.save(proto, tmp_path / "x.onnx")
    with pytest.raises(ModelFileError, match="GLUGatedLearners_n4_min0_silu with 9 inputs"):
        inspect(tmp_path / "x.onnx")


def test_manifests_from_before_gated_layers_are_read_as_ungated(files: Path) -> None:
    proto = onnx.load(files / "m.onnx")
    manifest: Any = json.loads(json.dumps(read_manifest(proto, "m.onnx").to_json()))
    assert manifest["schema"] == 4
    for layer in manifest["layers"]:
        del layer["glu"]
    del manifest["source"]["part"]
    older = {key: value for key, value in manifest.items() if key != "processor"} | {"schema": 3}
    assert [e.glu for e in parse_manifest(older, "m.onnx").layers] == [False] * 3
    with pytest.raises(ModelFileError, match=r"layers\[0\].glu is missing"):
        parse_manifest(manifest, "m.onnx")
