"""Checkpoint folders whose parts contradict each other, or are broken, are refused."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_vit

from acm_export.base.errors import AcmWarning, CheckpointError, UsageError
from acm_export.checkpoints import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tiny_vit(), tmp_path / "model", source={"kind": "test"})
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_layer(folder: Path, name: str = "vit.layers.0.mlp", **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["acm"]["layers"][name] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, remove: str = "", **changes: torch.Tensor) -> None:
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if k != remove}
    save_file(state | changes, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 24}, "24"), ({"intermediate_size": 25}, None), ({"num_labels": 7, "id2label": None}, None),
        ({"num_hidden_layers": 3}, r"layers\.2"), ({"num_hidden_layers": 1}, r"layers\.1"),
        ({"num_hidden_layers": 10**9}, "1000000000"), ({"num_hidden_layers": -1}, None),
        ({"num_hidden_layers": "2"}, None),
        ({"num_hidden_layers": 2.5}, None), ({"num_hidden_layers": None}, None), ({"num_hidden_layers": 1e9}, None),
        ({"hidden_size": 0}, None), ({"hidden_size": 10**30}, None), ({"hidden_size": "wide"}, None),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"), ({"num_attention_heads": 5}, None),
        ({"patch_size": 0}, "patch_size = 0"), ({"patch_size": [4, 0]}, r"patch_size = \[4, 0\]"),
        ({"image_size": 10**9}, None), ({"hidden_act": "no_such_function"}, "hidden_act = 'no_such_function'"),
        ({"hidden_act": 3}, None),
        ({"model_type": "llama"}, r"no architecture 'ViTForImageClassification' of model_type 'llama'"),
        ({"model_type": None}, "no model_type None"), ({"model_type": ["vit"]}, r"no model_type \['vit'\]"),
        ({"model_type": "my_vit"}, "no model_type 'my_vit'"), ({"num_experts": 8}, "mixture of experts"),
        ({"num_labels": 10**9}, "num_labels = 1000000000"),
        ({"depths": [10**9]}, r"depths = \[1000000000\]"),
        ({"attn_implementation": "org/kernel"}, "attn_implementation = 'org/kernel'"),
        ({"backbone_config": {"backbone": "hf-hub:org/model"}}, "outside the folder"),
        ({"backbone": "resnet18", "backbone_kwargs": {"out_indices": [1]}}, "without backbone_config"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised \(gptq\)"),
        ({"architectures": [{}]}, None), ({"architectures": "os.system"}, r"os\.system"), ({"architectures": 3}, None),
        ({"num_channels": 3}, "projection"), ({"layer_norm_eps": "small"}, None), ({"image_size": [8]}, None),
    ],
)  # fmt: skip  # a table
@pytest.mark.parametrize("kind", ["acm", "dense"])
def test_a_config_that_contradicts_the_weights_is_refused(
    changes: dict[str, Any], said: str | None, kind: str, folder: Path
) -> None:
    if kind == "dense":
        save_checkpoint(tiny_vit({}), folder, source={})
    if kind == "acm" and "intermediate_size" in changes:
        return  # both FFNs are ACM layers: nothing in the weights has that width
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_checkpoint(folder)
    assert refused.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"num_learners": 3}, {"num_learners": 0}, {"num_learners": 65}, {"num_learners": 4.0}, {"num_learners": "4"},
        {"hidden_dim": 7}, {"hidden_dim": 10**30}, {"hidden_dim": 10**9}, {"hidden_dim": 6.0}, {"hidden_dim": None},
        {"model_dim": 13}, {"min_learners": 1}, {"min_learners": -1}, {"activation": "tanh"}, {"activation": ["gelu"]},
        {"gate_hidden": [3]}, {"gate_hidden": 3}, {"gate_hidden": ["3"]}, {"gate_hidden": [10**30]},
        {"gate_activation": "tanh"}, {"color": "red"},
    ],
)  # fmt: skip  # a table
def test_a_layer_that_contradicts_the_weights_is_refused(changes: dict[str, Any], folder: Path) -> None:
    edit_layer(folder, **changes)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "section",
    [
        [],
        "x",
        {},
        {"layers": {}},
        {"schema": 1},
        {"schema": 1, "layers": []},
        {"schema": 1, "layers": {"x": {}}},
        {"schema": 1, "layers": {"vit.layers.0.mlp": [1]}},
        {"schema": 1, "layers": {}},
        {"schema": "1", "layers": {}},
        {"schema": 1, "layers": {"vit.embeddings": {"model_dim": 12, "num_learners": 4, "hidden_dim": 6}}},
        {"schema": 1, "layers": {"vit.layers.0.mlp": {"model_dim": 12, "num_learners": 4}}},
    ],
)
def test_a_bad_acm_section_is_refused(section: Any, folder: Path) -> None:
    edit_config(folder, acm=section)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_a_newer_schema_is_refused_with_both_numbers(folder: Path) -> None:
    section = json.loads((folder / "config.json").read_text())["acm"]
    edit_config(folder, acm=section | {"schema": 3})
    with pytest.raises(CheckpointError, match=r"schema 3.*reads schemas 1 to 2") as refused:
        load_checkpoint(folder)
    assert "update" in str(refused.value.hint)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 100_000])
def test_a_config_that_is_not_an_object_is_refused(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


def test_weights_that_lack_or_add_a_tensor_or_change_its_shape_are_refused(folder: Path) -> None:
    original = (folder / "model.safetensors").read_bytes()
    edit_weights(folder, remove="vit.layers.0.mlp.thresholds")
    with pytest.raises(CheckpointError, match=r"lacks vit\.layers\.0\.mlp\.thresholds"):
        load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(original)
    edit_weights(folder, extra=torch.zeros(1))
    with pytest.raises(CheckpointError, match="has extra"):
        load_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(original)
    edit_weights(folder, **{"vit.layers.0.mlp.w1": torch.zeros(12, 23)})
    with pytest.raises(CheckpointError, match=r"w1 is \[12, 23\]; expected \[12, 24\]"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vit.encoder.layer.7.output.dense.bias": torch.zeros(12)}, r"has vit\.layers\.7\.mlp\.fc2\.bias"),
        (
            {"vit.encoder.layer.1.intermediate.dense.weight": torch.zeros(24, 11)},
            r"fc1.*\[24, 11\]; expected \[24, 12\]",
        ),
        ({"classifier.weight": torch.zeros(5, 11)}, r"classifier\.weight is \[5, 11\]; expected \[5, 12\]"),
        ({"embeddings.cls_token": torch.zeros(1, 1, 12)}, "two names"),
    ],
)
def test_dense_weights_that_contradict_the_config_are_refused_with_the_name(
    changes: dict[str, torch.Tensor], said: str, folder: Path
) -> None:
    save_checkpoint(tiny_vit({}), folder, source={})
    edit_weights(folder, **changes)
    with pytest.raises(CheckpointError, match=said) as refused:
        load_checkpoint(folder)
    assert refused.value.hint


def test_dense_weights_that_the_model_does_not_use_are_named(folder: Path) -> None:
    save_checkpoint(tiny_vit({}), folder, source={})
    edit_weights(folder, extra=torch.zeros(1))
    with pytest.warns(AcmWarning, match=r"does not use: extra$"):
        load_checkpoint(folder)


def test_quantised_weights_are_refused_with_the_name_and_dtype(folder: Path) -> None:
    save_checkpoint(tiny_vit({}), folder, source={})
    edit_weights(folder, **{"vit.encoder.layer.1.intermediate.dense.weight": torch.zeros(24, 12, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match=r"quantised weights: vit.*weight is I8") as refused:
        load_checkpoint(folder)
    assert "quantize" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("vit.layers.0.mlp.thresholds", torch.float16),
        ("vit.layers.0.mlp.gate.linears.0.weight", torch.float16),
        ("vit.layers.0.mlp.w1", torch.float16),
        ("vit.layers.0.mlp.w1", torch.int64),
        ("classifier.bias", torch.bool),
    ],
)
def test_tensors_of_a_dtype_that_the_layer_cannot_use_are_refused(name: str, dtype: torch.dtype, folder: Path) -> None:
    edit_weights(folder, **{name: load_file(folder / "model.safetensors")[name].to(dtype)})
    with pytest.raises(CheckpointError, match=name.rpartition(".")[0]):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_give_a_warning_but_infinite_thresholds_do_not(folder: Path) -> None:
    edit_weights(folder, **{"vit.layers.0.mlp.thresholds": torch.tensor([0.0, 0.0, float("inf"), float("-inf")])})
    load_checkpoint(folder)
    edit_weights(folder, **{"classifier.bias": torch.full((5,), float("nan"))})
    with pytest.warns(AcmWarning, match=r"classifier\.bias \(5 of 5 values\)"):
        load_checkpoint(folder)


def test_truncated_missing_and_hostile_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"x" * 50, struct.pack("<Q", len(header)) + header):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="truncated"):
            load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(folder)
    with pytest.raises(UsageError, match="there is no folder"):
        load_checkpoint(tmp_path / "missing")
    (tmp_path / "model.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(tmp_path / "model.pth")
    assert "convert" in str(refused.value.hint)


def test_a_model_whose_code_is_in_the_folder_is_refused(folder: Path) -> None:
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "evil.C"})
    with pytest.raises(CheckpointError, match=r"auto_map.*runs no code"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", ["acm", "dense"])
def test_code_beside_a_checkpoint_does_not_run(kind: str, folder: Path) -> None:
    if kind == "dense":
        save_checkpoint(tiny_vit({}), folder, source={})
    marker = folder.parent / "ran"
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass C: pass\n")
    edit_config(folder, auto_map={"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.C"})
    load_checkpoint(folder)
    assert not marker.exists()
