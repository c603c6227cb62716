"""Tests of timm's models, run by tests/checkpoints/test_timm_folders.py in a process that sees timm and torchvision.

timm needs torchvision, whose compiled operators need the CUDA build of PyTorch. timm uses none of them, but importing
torchvision declares two, which are therefore declared here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402  after its operators are declared

from acm_export.base.errors import CheckpointError  # noqa: E402
from acm_export.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from acm_export.cli import main  # noqa: E402
from acm_export.exporter import export  # noqa: E402
from acm_export.surgery import find_sites, interface_of  # noqa: E402
from acm_export.surgery.examples import example_inputs  # noqa: E402

SMALL = {"num_classes": 5, "depth": 2, "embed_dim": 12, "num_heads": 3}
SWIN = {"num_classes": 5, "depths": (1, 1), "embed_dim": 12, "num_heads": (3, 3)}
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {**SMALL, "img_size": 32},
    "vit_base_patch16_siglip_224": {**SMALL, "img_size": 32, "num_classes": 0},
    "vit_small_patch14_dinov2": {**SMALL, "img_size": 28},
    "vit_tiny_r_s16_p8_224": {**SMALL, "img_size": 64, "in_chans": 1},
    "deit_tiny_distilled_patch16_224": {**SMALL, "img_size": 32},
    "deit3_small_patch16_224": {**SMALL, "img_size": 32},
    "swin_tiny_patch4_window7_224": {**SWIN, "img_size": 56},
    "swinv2_tiny_window8_256": {**SWIN, "img_size": 64},
    "eva02_tiny_patch14_224": {**SMALL, "img_size": 28},
    "beit_base_patch16_224": {**SMALL, "img_size": 32},
}


def outputs(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = timm.create_model("vit_tiny_patch16_224", **MODELS["vit_tiny_patch16_224"])
    arguments = MODELS["vit_tiny_patch16_224"]
    timm.models.save_for_hf(model, str(tmp_path / "timm"), model_args=arguments, safe_serialization=True)
    return tmp_path / "timm"


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_that_timm_saved_is_read_saved_and_read_again(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name, **MODELS[name]).eval()
    timm.models.save_for_hf(model, str(tmp_path / "timm"), model_args=MODELS[name])
    checkpoint = load_checkpoint(tmp_path / "timm")
    inputs = example_inputs(checkpoint.interface)
    assert {key: value.shape[-1] for key, value in inputs.items()} == {"x": MODELS[name]["img_size"]}
    assert torch.equal(outputs(checkpoint.model, inputs), outputs(model, inputs))
    save_checkpoint(checkpoint.model, tmp_path / "again")
    assert torch.equal(outputs(load_checkpoint(tmp_path / "again").model, inputs), outputs(model, inputs))


def test_pickled_weights_of_timm_are_read(folder: Path) -> None:
    expected = load_checkpoint(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    inputs = example_inputs(expected.interface)
    assert torch.equal(outputs(load_checkpoint(folder).model, inputs), outputs(expected.model, inputs))


def test_a_model_of_timm_exports_and_verifies(folder: Path, tmp_path: Path) -> None:
    assert export(folder, output=tmp_path / "m.onnx").report


def test_a_model_built_by_create_model_is_saved_with_its_arguments(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    with pytest.raises(CheckpointError, match="not built with timm's defaults") as refused:
        save_checkpoint(model, tmp_path / "saved")
    assert "model_args" in str(refused.value.hint)
    model.model_args = SMALL
    save_checkpoint(model, tmp_path / "saved")
    checkpoint = load_checkpoint(tmp_path / "saved")
    inputs = example_inputs(checkpoint.interface)
    assert torch.equal(outputs(checkpoint.model, inputs), outputs(model, inputs))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "vit_huge"}, "has no architecture 'vit_huge'"),
        ({"architecture": 3}, "has no architecture 3"),
        ({"model_args": {"no_such_argument": 1}}, "does not describe a vit_tiny"),
        ({"model_args": [1]}, "expected an object"),
        ({"model_args": {**SMALL, "checkpoint_path": "other.pth"}}, "outside the folder"),
        ({"model_args": {**SMALL, "depth": 10**9}}, "depth = 1000000000"),
        ({"num_classes": 6}, None),
        ({"model_args": {**SMALL, "img_size": 32, "embed_dim": 10**6 * 3}}, "contradicts config.json"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(changes: Any, said: str | None, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    if "num_classes" in changes:
        config["model_args"].pop("num_classes")
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=said) as refused:
        load_checkpoint(folder)
    assert refused.value.hint


def test_missing_and_unknown_weights_are_errors_with_the_name(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "head.bias"}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks head\.bias"):
        load_checkpoint(folder)
    save_file(state | {"extra.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has extra\.weight"):
        load_checkpoint(folder)


def test_the_page_about_modules_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "modules.md").read_text()
    (code,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "timm" in block
    ]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  our own page
    assert names["exported"].report.passed


def test_the_command_line_takes_a_folder_of_timm(folder: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.standard_normal((20, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images, labels=generator.integers(0, 5, 20))
    steps = ["--steps", "2,1,1", "--batch", "4", "--learners", "3"]
    data, acm, file = str(tmp_path / "data.npz"), str(tmp_path / "acm"), str(tmp_path / "m.onnx")
    for line in (
        ["acmize", str(folder), "--dry-run"],
        ["acmize", str(folder), "--data", data, "-o", acm, *steps],
        ["export", acm, "-o", file],
        ["verify", file, "--checkpoint", acm],
        ["calibrate", file, "--data", data, "--budgets", "0.5", "-o", str(tmp_path / "c.onnx")],
    ):
        done = CliRunner().invoke(main, line)
        assert done.exit_code == 0, (line, done.output, done.exception)
        if line[0] == "acmize" and "-o" in line:
            assert "accuracy" in done.stdout


@pytest.mark.parametrize("name", MODELS)
def test_every_ffn_of_timm_is_a_site(name: str) -> None:
    model = timm.create_model(name, **MODELS[name]).eval()
    interface = interface_of(model)
    found = find_sites(model, interface)
    mlps = [key for key, module in model.named_modules() if key.endswith(".mlp") and "blocks" in key and module]
    assert [site.place for site in found.sites if site.kind == "ffn"] == mlps
