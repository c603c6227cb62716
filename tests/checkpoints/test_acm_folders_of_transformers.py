"""ACM folders of every kind of transformer, and of their parts, load bit for bit as saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_architectures import NAMES, tiny_model
from tiny_families import install_sites, sites_of
from tiny_models import randomize

from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.modules import acm_layers
from acm_export.surgery import parts_of, prepare_model, spec_for
from acm_export.surgery.examples import example_inputs

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint

PARTS = [
    (name, part) for name in ("whisper", "t5", "bart", "clip", "siglip") for part in parts_of(tiny_model(name))[1:]
]


def acm_model(name: str) -> Any:
    model = tiny_model(name)
    prepare_model(model)
    install_sites(model, {site: spec_for(site, 4) for site in sites_of(model)})
    randomize(model)
    return model


def outputs(checkpoint: Checkpoint, model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**example_inputs(checkpoint.interface))
    return [result[field] for field in checkpoint.interface.outputs]


@pytest.mark.parametrize("name", NAMES)
def test_acm_models_load_bit_for_bit_as_saved(name: str, tmp_path: Path) -> None:
    model = acm_model(name)
    save_checkpoint(model, tmp_path / "acm")
    loaded = load_checkpoint(tmp_path / "acm")
    assert type(loaded.model) is type(model)  # of Whisper too: an ACM folder is read as it is
    state, expected = loaded.model.state_dict(keep_vars=True), model.state_dict(keep_vars=True)
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert len({id(value) for value in state.values()}) == len({id(value) for value in expected.values()})
    assert dict(acm_layers(loaded.model)).keys() == dict(acm_layers(model)).keys()
    assert all(map(torch.equal, outputs(loaded, model), outputs(loaded, loaded.model)))


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_part_of_an_acm_folder_is_read_saved_and_read_again(name: str, part: str, tmp_path: Path) -> None:
    save_checkpoint(acm_model(name), tmp_path / "acm")
    taken = load_checkpoint(tmp_path / "acm", part=part)
    assert list(acm_layers(taken.model))
    save_checkpoint(taken.model, tmp_path / part)
    again = load_checkpoint(tmp_path / part)
    assert dict(acm_layers(again.model)).keys() == dict(acm_layers(taken.model)).keys()
    assert all(map(torch.equal, outputs(taken, taken.model), outputs(taken, again.model)))
