"""Folders of every kind of transformer: loaded as saved, in both formats of weights, and refused when damaged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_architectures import NAMES, tiny_model

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.exporter import export
from acm_export.surgery import prepare_model
from acm_export.surgery.examples import example_inputs
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint


def load(folder: Path, name: str, **arguments: Any) -> Checkpoint:
    """Load a whole model: of Whisper, the encoder would be the default."""
    return load_checkpoint(folder, part="whole" if name == "whisper" else None, **arguments)


def same(model: Any, checkpoint: Checkpoint) -> None:
    """Compare types, tensors, ties and outputs."""
    loaded, expected = checkpoint.model, model.state_dict(keep_vars=True)
    assert type(loaded) is type(model)
    state = loaded.state_dict(keep_vars=True)
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert len({id(value) for value in state.values()}) == len({id(value) for value in expected.values()})
    prepare_model(model)
    inputs = example_inputs(checkpoint.interface)
    with torch.no_grad():
        left, right = model(**inputs), loaded(**inputs)
    assert checkpoint.interface.outputs
    assert all(torch.equal(left[name], right[name]) for name in checkpoint.interface.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_folders_of_transformers_load_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "dense")
    same(model, load(tmp_path / "dense", name))


@pytest.mark.parametrize("name", NAMES)
def test_saving_what_was_loaded_gives_the_same_model(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "dense")
    save_checkpoint(load(tmp_path / "dense", name).model, tmp_path / "again")
    same(model, load(tmp_path / "again", name))


@pytest.mark.parametrize("name", ["bert", "llama, tied", "clip", "wavlm", "t5"])
@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_weights_are_read(name: str, shards: int, tmp_path: Path) -> None:
    model = tiny_model(name)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    names = [f"pytorch_model-0000{n + 1}-of-00002.bin" for n in range(shards)] if shards > 1 else ["pytorch_model.bin"]
    placed = {key: names[index % shards] for index, key in enumerate(state)}
    for file in names:
        torch.save({key: state[key] for key, place in placed.items() if place == file}, tmp_path / file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": placed}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    same(model, load(tmp_path, name))


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"w": _Code()}, "is not a file of weights"),
        ([1], "contains list"),
        ({"w": 3}, "with other values than tensors"),
        (b"PK\x03\x04", "is truncated"),
        (b"\x80\x02", "truncated, or in the format that PyTorch wrote before version 1.6"),
    ],
)
def test_pickles_with_code_and_broken_files_are_refused(
    content: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model("bert").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_checkpoint(tmp_path)
    assert refused.value.hint
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["roberta", "llama", "t5", "dinov2", "clip", "hubert", "swin"])
def test_missing_and_changed_weights_are_errors_with_the_name(name: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    chosen = next(key for key in state if ".0." in key and key.endswith("weight") and state[key].ndim == 2)
    save_file({key: value for key, value in state.items() if key != chosen}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"contradicts config\.json: it lacks"):
        load_checkpoint(tmp_path)
    save_file(state | {chosen: torch.zeros(5, 7)}, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"is \[5, 7\]; expected"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "field"), [("llama", "intermediate_size"), ("t5", "d_ff"), ("gpt2", "n_inner")])
def test_a_size_that_would_not_fit_into_memory_is_refused_before_it_is_allocated(
    name: str, field: str, tmp_path: Path
) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: 10**12}))
    with pytest.raises(CheckpointError, match=r"contradicts config\.json"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(("name", "field"), [("gpt2", "n_layer"), ("t5", "num_layers"), ("clip", None)])
def test_more_layers_than_tensors_are_refused_before_they_are_built(
    name: str, field: str | None, tmp_path: Path
) -> None:
    tiny_model(name).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if field:
        config[field] = 10**9
    else:
        config["text_config"]["num_hidden_layers"] = 10**9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="= 1000000000, but the weights contain"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_model("llama").to(dtype)
    model.save_pretrained(tmp_path)
    same(type(model).from_pretrained(tmp_path, dtype=dtype), load_checkpoint(tmp_path))
    assert load_checkpoint(tmp_path).model.dtype == dtype


@pytest.mark.parametrize("name", ["roberta", "vit mae"])
def test_the_base_model_is_read_from_pre_trained_ones_and_the_whole_on_request(name: str, tmp_path: Path) -> None:
    import transformers

    base = tiny_model(name)
    kind = "RobertaForMaskedLM" if name == "roberta" else "ViTMAEForPreTraining"
    whole = getattr(transformers, kind)(base.config).eval()
    whole.save_pretrained(tmp_path)
    with pytest.warns(AcmWarning, match=f"reading only the .*Model of this {kind}; --part whole"):
        loaded = load_checkpoint(tmp_path).model
    assert type(loaded).__name__ == ("RobertaModel" if name == "roberta" else "ViTMAEModel")
    assert type(load_checkpoint(tmp_path, part="whole").model).__name__ == kind


EXPORTED = ("roberta", "llama, tied", "t5", "wavlm large", "clip")


@pytest.mark.parametrize("name", EXPORTED)
def test_dense_models_export_and_verify(name: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path / "dense")
    checkpoint = load(tmp_path / "dense", name)
    assert export(checkpoint, output=tmp_path / "m.onnx").report
    assert verify(tmp_path / "m.onnx", checkpoint, samples=3).passed
