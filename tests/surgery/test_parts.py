"""Parts of models: encoders, teacher-forced decoders and towers compute what they compute inside the whole model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from tiny_architectures import tiny_model

from acm_export.base.errors import AcmWarning, UsageError
from acm_export.checkpoints import load_checkpoint, save_checkpoint
from acm_export.cli import main
from acm_export.exporter import export
from acm_export.surgery import interface_of, parts_of, take_part
from acm_export.surgery.examples import example_inputs
from acm_export.verification.file import verify

if TYPE_CHECKING:
    from pathlib import Path

SEQUENCE_MODELS = ("whisper", "t5", "bart")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("whisper", ("whole", "encoder", "decoder")),
        ("t5", ("whole", "encoder", "decoder")),
        ("clip", ("whole", "vision", "text")),
        ("siglip", ("whole", "vision", "text")),
        ("detr", ("whole",)),  # its queries are weights
        ("bert", ("whole",)),
        ("llama", ("whole",)),
    ],
)
def test_every_model_lists_its_parts(name: str, parts: tuple[str, ...]) -> None:
    model = tiny_model(name)
    assert parts_of(model) == parts
    with pytest.raises(UsageError, match=f"has no part 'tower'; it has {', '.join(parts)}"):
        take_part(model, "tower")


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_encoder_and_decoder_give_what_the_whole_model_gives(name: str) -> None:
    whole = tiny_model(name)
    inputs = example_inputs(interface_of(whole))
    with torch.no_grad():
        expected = whole(**inputs).logits
    encoder = take_part(copy.deepcopy(whole), "encoder")
    decoder = take_part(copy.deepcopy(whole), "decoder")
    main_input = whole.main_input_name
    mask = {key: inputs[key] for key in ("attention_mask",) if key in inputs}
    with torch.no_grad():
        states = encoder(inputs[main_input], **mask).last_hidden_state
        logits = decoder(inputs["decoder_input_ids"], states, **mask)["logits"]
    assert torch.allclose(logits, expected, atol=1e-5)
    assert interface_of(decoder).outputs == ("logits",)
    assert not [key for key, _ in decoder.named_parameters() if ".encoder." in key]


def test_a_token_of_the_decoder_does_not_see_later_ones() -> None:
    decoder = take_part(tiny_model("whisper"), "decoder")
    inputs = example_inputs(interface_of(decoder))
    changed = {**inputs, "decoder_input_ids": inputs["decoder_input_ids"].clone()}
    changed["decoder_input_ids"][:, -1] = (changed["decoder_input_ids"][:, -1] + 1) % 20
    with torch.no_grad():
        before, after = decoder(**inputs)["logits"], decoder(**changed)["logits"]
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.equal(before[:, -1], after[:, -1])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_towers_give_the_embeddings_of_the_whole_model(name: str) -> None:
    whole = tiny_model(name)
    inputs = example_inputs(interface_of(whole))
    with torch.no_grad():
        expected = whole(**inputs)
    for part, field in (("vision", "image_embeds"), ("text", "text_embeds")):
        tower = take_part(copy.deepcopy(whole), part)
        interface = interface_of(tower)
        with torch.no_grad():
            output = tower(**{spec.name: inputs[spec.name] for spec in interface.inputs})
        embedding = output[field if name == "clip" else "pooler_output"]
        normalised = embedding / embedding.norm(dim=-1, keepdim=True)
        assert torch.allclose(normalised, expected[field], atol=1e-5)
        assert set(interface.outputs) >= {field if name == "clip" else "pooler_output"}


@pytest.mark.parametrize(
    ("name", "part"),
    [("whisper", "decoder"), ("whisper", "encoder"), ("t5", "decoder"), ("bart", "encoder"), ("clip", "vision")],
)
def test_a_part_is_saved_loaded_exported_and_verified(name: str, part: str, tmp_path: Path) -> None:
    tiny_model(name).save_pretrained(tmp_path / "whole")
    checkpoint = load_checkpoint(tmp_path / "whole", part=part)
    save_checkpoint(checkpoint.model, tmp_path / part)
    again = load_checkpoint(tmp_path / part)
    inputs = example_inputs(checkpoint.interface)
    with torch.no_grad():
        left, right = checkpoint.model(**inputs), again.model(**inputs)
    assert type(again.model) is type(checkpoint.model)
    assert again.interface.outputs == checkpoint.interface.outputs
    assert all(torch.equal(left[field], right[field]) for field in again.interface.outputs)
    assert type(load_checkpoint(tmp_path / part, part=part).model) is type(again.model)
    assert export(tmp_path / "whole", output=tmp_path / "m.onnx", part=part).report
    assert verify(tmp_path / "m.onnx", tmp_path / "whole", part=part, samples=2).passed


def test_the_verbs_take_a_part(tmp_path: Path) -> None:
    tiny_model("clip").save_pretrained(tmp_path / "clip")
    file = str(tmp_path / "m.onnx")
    shown = CliRunner().invoke(main, ["export", str(tmp_path / "clip"), "--part", "text", "-o", file])
    assert shown.exit_code == 0, shown.output
    verified = CliRunner().invoke(main, ["verify", file, "--checkpoint", str(tmp_path / "clip"), "--part", "text"])
    assert verified.exit_code == 0, verified.output
    wrong = CliRunner().invoke(main, ["export", str(tmp_path / "clip"), "--part", "decoder", "-o", file])
    assert wrong.exit_code == 2
    assert "it has whole, vision, text" in wrong.stderr


def test_the_encoder_is_whispers_default_part(tmp_path: Path) -> None:
    tiny_model("whisper").save_pretrained(tmp_path)
    with pytest.warns(AcmWarning, match="only the WhisperEncoder of this WhisperForConditionalGeneration; --part"):
        assert type(load_checkpoint(tmp_path).model).__name__ == "WhisperEncoder"
    assert type(load_checkpoint(tmp_path, part="whole").model).__name__ == "WhisperForConditionalGeneration"


def test_a_part_of_a_loaded_checkpoint_or_module_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names a part of a checkpoint folder"):
        export(tiny_model("clip"), output=tmp_path / "m.onnx", part="text")
