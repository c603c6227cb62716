"""Every family end to end: saved folders, export with its dynamic axes, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from exported_files import run
from safetensors.torch import load_file, save_file
from tiny_families import MAKE, acm_model, dense_model, install_sites, interface, sites_of, whisper_config

from acm_export.base.errors import AcmWarning, CheckpointError, UsageError
from acm_export.calibration.calibrate import calibrate
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.exporter import example_inputs, export
from acm_export.modules import acm_layers
from acm_export.onnx_file.inspection import stored_thresholds
from acm_export.onnx_file.model_file import read_model
from acm_export.onnx_file.set_budget import set_budget
from acm_export.runtimes.session import TappedSession
from acm_export.surgery import model_flops, spec_for
from acm_export.verification.file import verify
from acm_export.verification.measurement import Accumulator

if TYPE_CHECKING:
    from pathlib import Path


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The outputs that an export of the model returns."""
    with torch.no_grad():
        result = model(**inputs)
    return [result[name] for name in interface(model).outputs]


def same(model: Any, other: Any) -> None:
    inputs = example_inputs(interface(model))
    for left, right in zip(outputs(model, inputs), outputs(other, inputs), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", MAKE)
def test_dense_folders_of_transformers_are_read(name: str, tmp_path: Path) -> None:
    model = dense_model(name)
    model.save_pretrained(tmp_path / "dense")
    loaded = load_checkpoint(tmp_path / "dense").model
    assert type(loaded) is type(model)
    same(model, loaded)


@pytest.mark.parametrize("name", MAKE)
def test_acm_models_load_bit_for_bit_as_saved(name: str, tmp_path: Path) -> None:
    model = acm_model(name, "ffn,qkvo")
    save_checkpoint(model, tmp_path / "acm", source={})
    loaded = load_checkpoint(tmp_path / "acm").model
    state = loaded.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert len(list(acm_layers(loaded))) == 10
    same(model, loaded)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("deit", marks=pytest.mark.slow),
        "bert",
        pytest.param("bert sequences", marks=pytest.mark.slow),
        "wav2vec2",
        pytest.param("wav2vec2 ctc, XLS-R", marks=pytest.mark.slow),
        "whisper",
    ],
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, its file and the folder that it was read from."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("family")
    save_checkpoint(acm_model(request.param), folder / "acm", source={})
    checkpoint = load_checkpoint(folder / "acm")
    result = export(checkpoint, output=folder / "m.onnx", with_counts=True)  # verifies
    return checkpoint.model, result, folder


def test_the_file_records_the_flops_of_the_model(exported: Any) -> None:
    model, result, _ = exported
    one = {name: value[:1] for name, value in example_inputs(interface(model)).items()}
    manifest, flops = result.manifest, model_flops(model, one)
    assert manifest.rest_flops == flops.rest + flops.attention_core + flops.dense_sites
    assert (manifest.all_learners_flops, manifest.fixed_flops) == (flops.learners, flops.total - flops.learners)
    assert manifest.model_flops(0.5) == flops.at(0.5)


def test_the_file_takes_any_batch_and_any_length_that_the_model_takes(exported: Any) -> None:
    model, result, _ = exported
    specs = interface(model).inputs
    graph = onnx.load(result.path).graph
    declared = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert declared == {spec.name: list(spec.shape) for spec in specs}
    longest = example_inputs(interface(model), batch=5, seed=1)
    lengths = {spec.name: len(spec.shape) > 1 and spec.shape[1] in ("tokens", "samples") for spec in specs}
    for part in (1.0, 0.5, 0.15):
        inputs = {n: v[:, : int(v.shape[1] * part)] if lengths[n] else v for n, v in longest.items()}
        ran = run(result.path, **inputs)
        for name, expected in zip(interface(model).outputs, outputs(model, inputs), strict=True):
            assert ran[name].shape == expected.shape
            assert np.abs(ran[name] - expected.numpy()).max() <= 1e-4 * expected.abs().max()


def test_the_graph_has_no_data_dependent_shapes(exported: Any) -> None:
    kinds = {node.op_type for node in onnx.load(exported[1].path).graph.node}
    assert not kinds & {"NonZero", "If", "Loop", "Compress", "Unique"}
    assert "ReduceL2" not in kinds  # weight norm is folded


def test_a_file_is_verified_on_data_of_any_dtype_width(exported: Any) -> None:
    model, result, folder = exported
    inputs = {name: value.numpy() for name, value in example_inputs(interface(model), seed=2).items()}
    narrow = {name: v.astype(np.int32 if v.dtype.kind == "i" else np.float64) for name, v in inputs.items()}
    np.savez(folder / "d.npz", **narrow)
    assert verify(result.path, load_checkpoint(folder / "acm"), data=folder / "d.npz").passed
    np.savez(
        folder / "wrong.npz", **{n: v.astype(np.float32 if v.dtype.kind == "i" else int) for n, v in inputs.items()}
    )
    with pytest.raises(UsageError, match="the model takes"):
        verify(result.path, load_checkpoint(folder / "acm"), data=folder / "wrong.npz")


@pytest.mark.slow
def test_the_file_is_calibrated_to_budgets_without_padding(exported: Any) -> None:
    model, result, folder = exported
    data = {name: value.numpy() for name, value in example_inputs(interface(model), batch=48, seed=4).items()}
    np.savez(folder / "c.npz", **data)
    calibrate(result.path, folder / "c.npz", (0.5,), folder / "c.onnx", solver="uniform", batch=16)
    manifest = set_budget(folder / "c.onnx", budget=0.5, output=folder / "half.onnx")
    session = TappedSession(folder / "half.onnx")
    stored = stored_thresholds(read_model(folder / "half.onnx"), manifest, folder)
    _, counts, masks = session.run_with_masks(data, np.concatenate([stored[e.name] for e in manifest.layers]))
    total = Accumulator(session.layers)
    total.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, 48)
    assert abs(total.result().budget - 0.5) < 0.05


@pytest.mark.parametrize("architecture", ["WhisperModel", "WhisperForConditionalGeneration"])
def test_whispers_encoder_is_loaded_from_the_whole_model(architecture: str, tmp_path: Path) -> None:
    whole = getattr(transformers, architecture)(whisper_config()).eval()
    whole.save_pretrained(tmp_path / "dense")
    with pytest.warns(AcmWarning, match=f"reading only the WhisperEncoder of this {architecture}"):
        loaded = load_checkpoint(tmp_path / "dense").model
    assert type(loaded).__name__ == "WhisperEncoder"
    same(whole.get_encoder(), loaded)


@pytest.mark.parametrize(
    ("name", "architecture", "part"),
    [
        ("bert", "BertForMaskedLM", "bert"),
        ("bert", "BertForPreTraining", "bert"),
        ("wav2vec2", "Wav2Vec2ForPreTraining", "wav2vec2"),
    ],
)
def test_base_models_are_read_from_pre_trained_ones(name: str, architecture: str, part: str, tmp_path: Path) -> None:
    whole = getattr(transformers, architecture)(dense_model(name).config).eval()
    whole.save_pretrained(tmp_path / "dense")
    with pytest.warns(AcmWarning, match=f"reading only the .* of this {architecture}"):
        loaded = load_checkpoint(tmp_path / "dense").model
    same(getattr(whole, part), loaded)


@pytest.mark.parametrize("name", ["wav2vec2", "wav2vec2 ctc"])
def test_a_parameter_that_only_training_uses_may_be_missing(name: str, tmp_path: Path) -> None:
    model = dense_model(name)
    model.save_pretrained(tmp_path / "dense")
    weights = tmp_path / "dense" / "model.safetensors"
    state = {key: value for key, value in load_file(weights).items() if "masked_spec_embed" not in key}
    assert len(state) == len(model.state_dict()) - 1
    save_file(state, weights, metadata={"format": "pt"})
    loaded = load_checkpoint(tmp_path / "dense").model
    same(model, loaded)
    (embedding,) = (value for key, value in loaded.named_parameters() if "masked_spec_embed" in key)
    assert not embedding.any()


@pytest.mark.parametrize("name", ["bert", "deit base"])
def test_an_acm_model_without_a_pooler_loads_as_saved(name: str, tmp_path: Path) -> None:
    base = type(dense_model(name))(dense_model(name).config, add_pooling_layer=False).eval()
    install_sites(base, {site: spec_for(site, 4) for site in sites_of(base)})
    save_checkpoint(base, tmp_path / "acm", source={})
    loaded = load_checkpoint(tmp_path / "acm").model
    assert loaded.pooler is None
    same(base, loaded)


def test_a_whisper_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    transformers.WhisperModel(whisper_config()).save_pretrained(tmp_path / "dense")
    weights = tmp_path / "dense" / "model.safetensors"
    save_file({n: t for n, t in load_file(weights).items() if not n.startswith("encoder.layers.1.fc1")}, weights)
    with pytest.raises(CheckpointError, match=r"lacks .*layers\.1\.fc1"):
        load_checkpoint(tmp_path / "dense")


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    renamed = {
        "bert": ("LayerNorm.weight", "LayerNorm.gamma"),
        "wav2vec2": ("parametrizations.weight.original0", "weight_g"),
    }
    for name, (new, old) in renamed.items():
        model = dense_model(name)
        model.save_pretrained(tmp_path / name)
        weights = tmp_path / name / "model.safetensors"
        state = {key.replace(new, old): value for key, value in load_file(weights).items()}
        if name == "bert":
            state["embeddings.position_ids"] = torch.arange(40)[None]
        save_file(state, weights, metadata={"format": "pt"})
        same(model, load_checkpoint(tmp_path / name).model)
