"""The Hugging Face folder with an ``acm`` section: written atomically and read back bit for bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_families import acm_model, interface
from tiny_models import VIT_SPECS, install_specs, tiny_vit

from acm_export.base.errors import CheckpointError, OutputError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.modules import acm_layers
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny_vit(), tmp_path / "model", source={"kind": "test"})
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_loads_bit_for_bit_as_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny_vit().to(dtype)
    for _, layer in acm_layers(model):
        layer.thresholds.uniform_(-1, 1)
    save_checkpoint(model, tmp_path / "model", source={"name": "x"})
    checkpoint = load_checkpoint(tmp_path / "model")
    before, after = model.state_dict(), checkpoint.model.state_dict()
    assert list(before) == list(after)
    for name, value in before.items():
        assert after[name].dtype == value.dtype, name
        assert torch.equal(after[name], value), name
    images = torch.randn(2, 1, 8, 8).to(dtype)
    assert torch.equal(checkpoint.model(images).logits, model(images).logits)
    assert checkpoint.source == {"name": "x"}
    assert not checkpoint.model.training
    assert {name: layer.spec for name, layer in acm_layers(checkpoint.model)} == VIT_SPECS


def test_saving_what_was_loaded_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folder)
    save_checkpoint(checkpoint.model, tmp_path / "again", source=checkpoint.source)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert load_checkpoint(tmp_path / "again").sha256 == checkpoint.sha256


def test_the_config_describes_the_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("vit", ["ViTForImageClassification"])
    assert config["acm"]["schema"] == 2
    assert config["acm"]["source"] == {"kind": "test"}
    assert config["acm"]["layers"]["vit.layers.1.attention.q_proj"] == {
        "model_dim": 12,
        "num_learners": 4,
        "hidden_dim": 3,
        "min_learners": 1,
        "activation": "identity",
        "gate_hidden": [8],
        "gate_activation": "relu",
        "glu": False,
        "channels_first": False,
        "emptied": [],
    }
    assert "vit.layers.0.mlp.thresholds" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["vit", "bert", "bert sequences", "wav2vec2", "whisper"])
@pytest.mark.parametrize("schema", [1, 2])
def test_modules_that_became_identities_load_as_identities(name: str, schema: int, tmp_path: Path) -> None:
    model = acm_model(name)
    save_checkpoint(model, tmp_path / "model", source={})
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    entries = config["acm"]["layers"].values()
    assert any(entry["emptied"] for entry in entries) == name.startswith(("bert", "whisper"))
    if schema == 1:  # it had neither of these
        for entry in entries:
            assert (entry.pop("glu"), entry.pop("channels_first")) == (False, False)
            del entry["emptied"]
        config["acm"]["schema"] = 1
        path.write_text(json.dumps(config))
    loaded = load_checkpoint(tmp_path / "model").model
    assert str(loaded) == str(model)
    assert [layer.emptied for _, layer in acm_layers(loaded)] == [layer.emptied for _, layer in acm_layers(model)]
    inputs = example_inputs(interface(model))
    assert torch.equal(loaded(**inputs)[0], model(**inputs)[0])


@pytest.mark.parametrize(
    "emptied",
    [
        None,
        "vit.layers.0.norm",
        [3],
        ["vit.layers.0.nowhere"],
        ["vit.layers.0"],
        ["vit.layers.0.mlp"],
    ],
)
def test_wrong_names_of_emptied_modules_are_refused(emptied: object, folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["acm"]["layers"]["vit.layers.0.mlp"]["emptied"] = emptied
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"vit\.layers\.0\.mlp.*(emptied|not a module|overlap)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("writer", ["transformers", "acm_export"])
@pytest.mark.parametrize("base", [False, True])
def test_a_dense_folder_is_read(writer: str, base: bool, tmp_path: Path) -> None:
    model = transformers.ViTModel(tiny_vit({}).config) if base else tiny_vit({})
    model.eval()
    if writer == "transformers":
        model.save_pretrained(tmp_path / "dense")
    else:
        save_checkpoint(model, tmp_path / "dense", source={})
    loaded = load_checkpoint(tmp_path / "dense").model
    assert type(loaded) is type(model)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_base_model_saved_without_its_pooler_is_read(tmp_path: Path) -> None:
    model = transformers.ViTModel(tiny_vit({}).config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "dense")
    loaded = load_checkpoint(tmp_path / "dense").model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(images).last_hidden_state, model(images).last_hidden_state)


@pytest.mark.parametrize("names", ["stored", "modules"])
def test_heads_that_the_architecture_does_not_have_are_ignored(names: str, tmp_path: Path) -> None:
    model = tiny_vit({})
    model.save_pretrained(tmp_path / "dense")
    weights = tmp_path / "dense" / "model.safetensors"
    state = load_file(weights) if names == "stored" else model.state_dict()
    save_file(state | {"vit.pooler.dense.bias": torch.zeros(12)}, weights, metadata={"format": "pt"})
    loaded = load_checkpoint(tmp_path / "dense").model
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(images).logits, model(images).logits)
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    (tmp_path / "dense" / "config.json").write_text(json.dumps(config | {"architectures": ["ViTModel"]}))
    save_file(state, weights, metadata={"format": "pt"})
    base = load_checkpoint(tmp_path / "dense").model
    assert torch.equal(base(images).last_hidden_state, model.vit(images).last_hidden_state)


def test_an_acm_base_model_without_a_head_loads_as_saved(tmp_path: Path) -> None:
    model = transformers.ViTModel(tiny_vit({}).config).eval()
    specs = {name.removeprefix("vit."): spec for name, spec in VIT_SPECS.items()}
    install_specs(model, specs)
    save_checkpoint(model, tmp_path / "base", source={})
    loaded = load_checkpoint(tmp_path / "base").model
    assert {name: layer.spec for name, layer in acm_layers(loaded)} == specs
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(images).last_hidden_state, model(images).last_hidden_state)


def test_preprocessor_files_are_copied_with_the_model(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("x")
    save_checkpoint(tiny_vit(), tmp_path / "model", source={}, processor_from=tmp_path)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


def test_an_earlier_checkpoint_is_replaced(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    save_checkpoint(tiny_vit(), folder, source={})
    assert (folder / "model.safetensors").read_bytes() != before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    load_checkpoint(folder)


def test_a_folder_with_other_files_is_refused_and_unchanged(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        save_checkpoint(tiny_vit(), folder, source={})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_impossible_outputs_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    for target, said in [("missing/model", "missing"), ("file", "file"), ("link", "link"), ("file/model", "file")]:
        with pytest.raises(OutputError, match=said):
            save_checkpoint(tiny_vit(), tmp_path / target, source={})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link", "model"]
    assert (tmp_path / "file").read_text() == "x"
