"""Folders whose layers are gated FFNs, and folders from before there were any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_models import tiny_vit

from acm_export.base.errors import CheckpointError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.modules import ACMSpec, acm_layers

if TYPE_CHECKING:
    from pathlib import Path

PLACE = "vit.layers.0.mlp"
GATED = ACMSpec(12, 4, 6, activation="silu", glu=True)


def test_a_gated_layer_is_saved_and_loaded(tmp_path: Path) -> None:
    model = tiny_vit({PLACE: GATED})
    save_checkpoint(model, tmp_path / "acm", source={})
    loaded = load_checkpoint(tmp_path / "acm").model
    (layer,) = [layer for name, layer in acm_layers(loaded) if name == PLACE]
    assert layer.spec == GATED
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


def test_layers_of_older_folders_are_not_gated(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit({PLACE: ACMSpec(12, 4, 6)}), tmp_path / "acm", source={})
    config = json.loads((tmp_path / "acm" / "config.json").read_text())
    del config["acm"]["layers"][PLACE]["glu"]
    (tmp_path / "acm" / "config.json").write_text(json.dumps(config))
    assert not any(layer.spec.glu for _, layer in acm_layers(load_checkpoint(tmp_path / "acm").model))


def test_a_folder_that_lacks_the_multiplied_branch_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tiny_vit({PLACE: ACMSpec(12, 4, 6)}), tmp_path / "acm", source={})
    config = json.loads((tmp_path / "acm" / "config.json").read_text())
    config["acm"]["layers"][PLACE]["glu"] = True
    (tmp_path / "acm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"{PLACE}\.(v1|c1)"):
        load_checkpoint(tmp_path / "acm")
