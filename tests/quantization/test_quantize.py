"""quantize: what it writes, and how close it is to the float file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from exported_files import session
from int8_models import ATTENTION, SPECS, WIDTH, export_vit, rewritten
from onnx import TensorProto

import acm_export as acm
from acm_export.modules import ACMSpec
from acm_export.onnx_file import staged_file
from acm_export.onnx_file.manifest import read_manifest
from acm_export.op import QUANTIZED_NAME
from acm_export.runtimes.session import TappedSession

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.quantization.result import QuantizationResult


def quantized(source: Path, output: Path, **options: Any) -> QuantizationResult:
    """Quantise with the data of the folder of the sources."""
    if "data" not in options:
        options["data"] = str(source.parent / "data.npz")
    return acm.quantize(source, output, **options)


def run(model: Path, data: Path, **more: Any) -> np.ndarray:
    feeds = {"pixel_values": np.load(data)["pixel_values"]} | more
    return np.asarray(session(model).run(["logits"], feeds)[0])


def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean())


def int8_names(path: Path) -> set[str]:
    return {t.name for t in onnx.load(path).graph.initializer if t.data_type == TensorProto.INT8}


def test_learners_and_linear_layers_run_in_int8(int8_sources: Path, tmp_path: Path) -> None:
    source, output = int8_sources / "m.onnx", tmp_path / "m8.onnx"

    result = quantized(source, output)

    onnx.checker.check_model(output)
    model = onnx.load(output)
    ours = {n.name: n.op_type for n in model.graph.node if n.domain == "ai.acm"}
    assert list(ours) == list(SPECS)
    assert {name.partition("_")[0] for name in ours.values()} == {QUANTIZED_NAME}
    manifest = read_manifest(model, output)
    assert [layer.activations for layer in manifest.layers] == ["static"] * 4
    assert manifest.quantization is not None
    assert list(manifest.quantization.linears) == ATTENTION
    assert set(ATTENTION) < int8_names(output)
    assert {part.name for part in result.parts} == {*SPECS, *ATTENTION}
    assert all(part.error is not None and part.error < 1e-3 for part in result.parts)
    assert acm.inspect(output).manifest == manifest == result.manifest
    assert result.bytes_after == output.stat().st_size < 0.5 * source.stat().st_size == 0.5 * result.bytes_before


def test_the_int8_file_computes_nearly_the_same(int8_sources: Path, tmp_path: Path) -> None:
    data = int8_sources / "data.npz"
    for name in ("m", "dense"):
        source, output = int8_sources / f"{name}.onnx", tmp_path / f"{name}8.onnx"
        if name == "m":  # all learners, because rounding moves tokens across thresholds of random gates
            source = tmp_path / "all.onnx"
            acm.set_budget(int8_sources / "m.onnx", threshold=-np.inf, output=source)

        result = acm.quantize(source, output, data=str(data))

        cosine = mean_cosine(run(output, data), run(source, data))
        assert cosine > 0.999
        assert result.comparisons[0].cosine == pytest.approx(cosine, abs=5e-4)
        assert result.held_out
        assert (result.samples, result.compared_samples) == (48, 12)


def test_a_dense_file_has_no_budgets(int8_sources: Path, tmp_path: Path) -> None:
    result = quantized(int8_sources / "dense.onnx", tmp_path / "d8.onnx")

    linears = {part.name for part in result.parts}
    assert linears == {
        f"vit.layers.{layer}.{name}.weight.T"
        for layer in (0, 1)
        for name in (*(f"attention.{x}_proj" for x in "qkvo"), "mlp.fc1", "mlp.fc2")
    }
    (comparison,) = result.comparisons
    assert (comparison.float_budget, comparison.int8_budget, comparison.rerouted) == (None, None, None)


def test_dynamic_activations_need_no_data(int8_sources: Path, tmp_path: Path) -> None:
    data = int8_sources / "data.npz"
    result = quantized(int8_sources / "dense.onnx", tmp_path / "d8.onnx", data=None, activations="dynamic")

    assert result.comparisons == ()
    assert result.runtime is None
    assert {part.error for part in result.parts} == {None}
    quantization = result.manifest.quantization
    assert quantization is not None
    assert (quantization.migration, quantization.data_sha256, quantization.samples) == (None, None, 0)
    assert mean_cosine(run(tmp_path / "d8.onnx", data), run(int8_sources / "dense.onnx", data)) > 0.999


def test_dynamic_activations_are_better_with_data(int8_sources: Path, tmp_path: Path) -> None:
    result = quantized(int8_sources / "m.onnx", tmp_path / "m8.onnx", activations="dynamic")

    assert [layer.activations for layer in result.manifest.layers] == ["dynamic"] * 4
    assert result.comparisons[0].cosine > 0.999
    assert all(part.error is not None for part in result.parts)


def test_with_dynamic_activations_a_sample_does_not_depend_on_its_batch(int8_sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "m8.onnx"
    quantized(int8_sources / "m.onnx", output, data=None, activations="dynamic")
    images = np.load(int8_sources / "data.npz")["pixel_values"][:4].copy()
    opened = session(output)

    alone = opened.run(["logits"], {"pixel_values": images[:1]})[0]
    images[1:] *= 1000
    images[3, 0, 0, 0] = np.inf
    together = opened.run(["logits"], {"pixel_values": images})[0]

    assert together[:1] == pytest.approx(alone, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("target", ["tensorrt", "ort-tensorrt"])
def test_the_target_stays(int8_sources: Path, tmp_path: Path, target: str) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "m8.onnx"
    rewritten(int8_sources / "m.onnx", source, target=target)

    result = acm.quantize(source, output, data=str(int8_sources / "data.npz"))

    model = onnx.load(output)
    assert result.manifest.target == target
    assert not model.functions
    domain = "trt.plugins" if target == "ort-tensorrt" else "ai.acm"
    assert {n.domain for n in model.graph.node if n.op_type == QUANTIZED_NAME} == {domain}
    assert result.comparisons[0].cosine > 0.999


@pytest.mark.parametrize(("target", "opset"), [("portable", 18), ("portable", 20), ("tensorrt-8", 17)])
def test_fp16_files_keep_their_type(int8_sources: Path, tmp_path: Path, target: str, opset: int) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "m8.onnx"
    export_vit(source, dtype="fp16", target=target, opset=opset)

    result = acm.quantize(source, output, data=str(int8_sources / "data.npz"))

    assert (result.manifest.dtype, result.manifest.opset) == ("fp16", opset)
    assert result.comparisons[0].cosine > 0.998
    scales = {t.data_type for t in onnx.load(output).graph.initializer if t.name.endswith(".weight.T.scale")}
    assert scales == {TensorProto.FLOAT if opset < 19 else TensorProto.FLOAT16}


def test_tensorrt_8_files_have_float32_scales_only(int8_sources: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "m8.onnx"
    rewritten(int8_sources / "m.onnx", source, target="tensorrt-8")

    result = acm.quantize(source, output, data=str(int8_sources / "data.npz"))

    assert (result.manifest.target, result.manifest.opset) == ("tensorrt-8", 17)
    assert {o.version for o in onnx.load(output).opset_import if not o.domain} == {17}
    assert result.comparisons[0].cosine > 0.999


def test_kept_layers_stay_in_float(int8_sources: Path, tmp_path: Path) -> None:
    result = quantized(
        int8_sources / "m.onnx", tmp_path / "m8.onnx", keep=["vit.layers.0.mlp", "*.layers.1.attention.v_proj"]
    )

    kept = {"vit.layers.0.mlp", "vit.layers.1.attention.v_proj.weight.T"}
    assert {item.name for item in result.kept if item.reason == "kept by --keep"} == kept
    assert result.manifest.quantization is not None
    assert set(result.manifest.quantization.kept) == kept
    assert [layer.activations for layer in result.manifest.layers] == [None, "static", "static", "static"]
    assert not kept & int8_names(tmp_path / "m8.onnx")
    assert result.comparisons[0].cosine > 0.999


def test_only_learners(int8_sources: Path, tmp_path: Path) -> None:
    result = quantized(int8_sources / "m.onnx", tmp_path / "m8.onnx", learners_only=True)

    assert {part.kind for part in result.parts} == {"learners"}
    assert not set(ATTENTION) & int8_names(tmp_path / "m8.onnx")


def test_7_bits(int8_sources: Path, tmp_path: Path) -> None:
    quantized(int8_sources / "m.onnx", tmp_path / "m8.onnx", weight_bits=7)

    model = onnx.load(tmp_path / "m8.onnx")
    weights = [
        onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    ]
    assert {np.abs(w.astype(int)).max() for w in weights} == {63}


def test_the_same_file_again_gives_the_same_bytes(int8_sources: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantized(int8_sources / "c.onnx", tmp_path / name)

    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_large_weights_go_to_a_data_file(int8_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_file, "EXTERNAL_ABOVE", 0)
    source, output = tmp_path / "m.onnx", tmp_path / "m8.onnx"
    export_vit(source)
    assert len(list(tmp_path.iterdir())) == 2

    result = acm.quantize(source, output, data=str(int8_sources / "data.npz"))

    assert result.data_path is not None
    assert result.bytes_after == output.stat().st_size + result.data_path.stat().st_size
    plain = tmp_path / "plain.onnx"
    monkeypatch.undo()
    quantized(int8_sources / "m.onnx", plain)
    data = int8_sources / "data.npz"
    assert (run(output, data) == run(plain, data)).all()


def test_a_tensorrt_file_with_a_data_file_still_runs_with_the_portable_body(
    int8_sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "m.onnx", tmp_path / "m8.onnx"
    rewritten(int8_sources / "m.onnx", source, target="tensorrt")
    monkeypatch.setattr(staged_file, "EXTERNAL_ABOVE", 0)
    result = acm.quantize(source, output, data=str(int8_sources / "data.npz"))
    feeds = {"pixel_values": np.load(int8_sources / "data.npz")["pixel_values"]}
    thresholds = np.full(TappedSession(output).num_thresholds, -np.inf, np.float32)

    (found,) = TappedSession(output).run(feeds, thresholds)[0].values()

    (expected,) = TappedSession(int8_sources / "m.onnx").run(feeds, thresholds)[0].values()
    assert result.data_path is not None
    assert mean_cosine(found, expected) > 0.99


def test_json_has_everything(int8_sources: Path, tmp_path: Path) -> None:
    content = quantized(int8_sources / "c.onnx", tmp_path / "c8.onnx").to_json()

    assert content["output"] == str(tmp_path / "c8.onnx")
    assert {part["kind"] for part in content["quantized"]} == {"learners", "linear"}
    assert content["kept"] == [{"name": "classifier.weight", "reason": "it is a head"}]
    assert content["comparisons"][0]["setting"] == "all learners"
    assert content["manifest"]["quantization"]["weight_bits"] == 8


@pytest.mark.parametrize("samples", [1, 4])
def test_few_samples_are_compared_on_themselves(int8_sources: Path, tmp_path: Path, samples: int) -> None:
    data = {"pixel_values": np.load(int8_sources / "data.npz")["pixel_values"][:samples]}

    result = acm.quantize(int8_sources / "c.onnx", tmp_path / "c8.onnx", data=data)

    assert (result.samples, result.compared_samples, result.held_out) == (samples, samples, False)
    assert any("compared on the samples that set the scales" in note for note in result.notes)
    assert result.manifest.calibration is not None
    assert result.manifest.calibration.held_out_samples == 0


def test_at_most_the_wanted_samples_set_the_scales(int8_sources: Path, tmp_path: Path) -> None:
    result = quantized(int8_sources / "m.onnx", tmp_path / "m8.onnx", samples=8, batch=3)

    assert (result.samples, result.compared_samples) == (8, 2)
    assert result.manifest.quantization is not None
    assert result.manifest.quantization.samples == 8


def test_a_file_with_a_fixed_batch(int8_sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    export_vit(source, dynamic_shapes={})

    result = acm.quantize(source, tmp_path / "m8.onnx", data=str(int8_sources / "data.npz"))

    assert result.comparisons[0].cosine > 0.999
    assert result.samples % 2 == result.compared_samples % 2 == 0


def test_a_file_without_gated_learners(tmp_path: Path, int8_sources: Path) -> None:
    source = tmp_path / "m.onnx"
    export_vit(source, {"vit.layers.0.mlp": ACMSpec(WIDTH, 2, 40, 2)})

    result = acm.quantize(source, tmp_path / "m8.onnx", data=str(int8_sources / "data.npz"))

    assert [c.setting for c in result.comparisons] == ["all learners", "trained thresholds"]
    assert {c.int8_budget for c in result.comparisons} == {1.0}
    assert result.comparisons[0].cosine > 0.99


def test_activations_of_linear_layers_have_the_type_for_the_target(int8_sources: Path, tmp_path: Path) -> None:
    first, tensorrt, again = (tmp_path / f"{name}.onnx" for name in ("first", "tensorrt", "again"))
    quantized(int8_sources / "m.onnx", first)
    rewritten(first, tensorrt, target="tensorrt")
    rewritten(tensorrt, again, target="portable")

    types = []
    for path in (first, tensorrt, again):
        graph = onnx.load(path).graph
        zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
        types.append({t.data_type for t in graph.initializer if t.name in zeros})
    assert types == [{TensorProto.UINT8}, {TensorProto.INT8}, {TensorProto.UINT8}]
    data = int8_sources / "data.npz"
    assert (run(first, data) == run(again, data)).all()
