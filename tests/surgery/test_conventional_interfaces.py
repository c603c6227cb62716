"""Models without a table entry: their inputs, outputs and masks follow from signature and config."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from tiny_architectures import NAMES, tiny_model
from torch import nn

from acm_export.base.errors import CheckpointError
from acm_export.surgery import interface_of, prepare_model
from acm_export.surgery.examples import example_inputs
from acm_export.surgery.interface import InputSpec, ModelInterface
from acm_export.surgery.output_fields import output_fields

TEXT, IDS = ("input_ids", "attention_mask"), ("last_hidden_state",)
IMAGE, LOGITS, POOLED = ("pixel_values",), ("logits",), ("last_hidden_state", "pooler_output")
WAVE = ("input_values",)
MASKED_WAVE = ("input_values", "attention_mask")
CLIP = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
EXPECTED: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "vit": (IMAGE, LOGITS, None),
    "deit, two heads": (IMAGE, ("logits", "cls_logits", "distillation_logits"), None),
    "bert": ((*TEXT, "token_type_ids"), IDS, ""),
    "roberta": (TEXT, LOGITS, ""),
    "xlm-r": (TEXT, IDS, ""),
    "data2vec text": (TEXT, IDS, ""),
    "mpnet": (TEXT, IDS, ""),
    "distilbert": (TEXT, LOGITS, ""),
    "electra": ((*TEXT, "token_type_ids"), IDS, ""),
    "modernbert": (TEXT, LOGITS, ""),
    "esm": (TEXT, IDS, ""),
    "gpt2": (TEXT, LOGITS, ""),
    "llama": (TEXT, LOGITS, ""),
    "llama, tied": (TEXT, LOGITS, ""),
    "qwen2": (TEXT, LOGITS, ""),
    "gemma2": (TEXT, LOGITS, ""),
    "phi3": (TEXT, LOGITS, ""),
    "t5": ((*TEXT, "decoder_input_ids"), LOGITS, "encoder"),
    "t5 encoder": (TEXT, IDS, ""),
    "bart": ((*TEXT, "decoder_input_ids"), LOGITS, "model.encoder"),
    "hubert": (WAVE, LOGITS, "hubert.encoder"),
    "hubert large": (MASKED_WAVE, IDS, "encoder"),
    "wavlm": (WAVE, IDS, "encoder"),
    "wavlm large": (MASKED_WAVE, LOGITS, "wavlm.encoder"),
    "data2vec audio": (MASKED_WAVE, IDS, "encoder"),
    "unispeech": (WAVE, IDS, "encoder"),
    "ast": (WAVE, LOGITS, None),
    "vit mae": (IMAGE, IDS, None),
    "swin": (IMAGE, LOGITS, None),
    "beit": (IMAGE, LOGITS, None),
    "data2vec vision": (IMAGE, IDS, None),
    "dinov2": (IMAGE, POOLED, None),
    "dinov2 giant": (IMAGE, POOLED, None),
    "clip": ((*TEXT, "pixel_values"), CLIP, "text_model"),
    "clip vision": (IMAGE, ("image_embeds",), None),
    "clip text": (TEXT, POOLED, ""),
    "siglip": ((*TEXT, "pixel_values"), CLIP, "text_model"),
    "siglip vision": (IMAGE, POOLED, None),
    "depth anything": (IMAGE, ("predicted_depth",), None),
    "detr": (IMAGE, ("logits", "pred_boxes"), None),
    "yolos": (IMAGE, ("logits", "pred_boxes"), None),
    "whisper": (("input_features", "decoder_input_ids"), LOGITS, None),
    "whisper encoder": (("input_features",), IDS, None),
}


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, ModelInterface]:
    torch.manual_seed(0)
    model = tiny_model(request.param)
    prepare_model(model)
    return request.param, model, interface_of(model)


def run(model: Any, interface: ModelInterface, **inputs: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        result = model(**inputs)
    return [result[name] for name in interface.outputs]


def test_inputs_outputs_and_mask_are_those_of_the_architecture(case: tuple[str, Any, ModelInterface]) -> None:
    name, _, interface = case
    inputs, outputs, masked = EXPECTED[name]
    assert tuple(spec.name for spec in interface.inputs) == inputs
    assert set(interface.outputs) == set(outputs)
    assert interface.masked == masked


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_the_model_runs_on_example_inputs_of_two_lengths(case: tuple[str, Any, ModelInterface], scale: float) -> None:
    _, model, interface = case
    lengths = {dim: max(int(n * scale), interface.bounds[dim][0]) for dim, n in interface.lengths.items()}
    inputs = example_inputs(replace(interface, lengths=lengths), batch=3)
    results = run(model, interface, **inputs)
    assert results
    assert all(value.isfinite().all() and len(value) == 3 for value in results)
    again = run(model, interface, **inputs)  # nothing is random in evaluation
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


def test_the_longest_input_is_accepted_and_one_token_more_is_not(case: tuple[str, Any, ModelInterface]) -> None:
    name, model, interface = case
    limit = interface.bounds.get("tokens", (1, None))[1]
    if limit is None or name in ("llama", "llama, tied", "qwen2", "gemma2", "phi3", "modernbert"):
        return  # no learned positions
    for length in (limit, limit + 1):
        inputs = example_inputs(replace(interface, lengths={**interface.lengths, "tokens": length}), batch=1)
        if length == limit:
            assert all(value.isfinite().all() for value in run(model, interface, **inputs))
        else:
            with pytest.raises((IndexError, RuntimeError, ValueError)):
                run(model, interface, **inputs)


def test_example_tokens_are_not_padding(case: tuple[str, Any, ModelInterface]) -> None:
    _, _, interface = case
    for spec in interface.inputs:
        if spec.padding is not None:
            values = example_inputs(interface, batch=16)[spec.name]
            assert spec.padding not in values
            assert len(values.unique()) == (spec.below or 0) - 1


def test_the_interface_of_a_model_without_weights_is_the_same(case: tuple[str, Any, ModelInterface]) -> None:
    _, model, interface = case
    with torch.device("meta"):
        empty = interface_of(copy.deepcopy(model).to("meta"))
    assert (empty.inputs, empty.outputs, empty.masked) == (interface.inputs, interface.outputs, interface.masked)


def test_an_optional_pooler_is_not_an_output() -> None:
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24, image_size=8, patch_size=4
    )
    assert interface_of(transformers.ViTModel(config)).outputs == ("last_hidden_state",)


def test_patches_of_vit_mae_stay_in_order() -> None:
    model = tiny_model("vit mae")
    prepare_model(model)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        patches = model.embeddings(images)[0][:, 1:]
        expected = model.embeddings.patch_embeddings(images) + model.embeddings.position_embeddings[:, 1:]
    assert torch.equal(patches, expected)


class _Opaque(nn.Module):
    main_input_name = "volumes"
    config = transformers.ViTConfig()

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return volumes


def test_inputs_that_cannot_be_guessed_are_an_error_that_names_register_family() -> None:
    with pytest.raises(CheckpointError, match=r"inputs of _Opaque \(main input: 'volumes'\)") as refused:
        interface_of(_Opaque())
    assert "register_family" in str(refused.value.hint)
    with pytest.raises(CheckpointError, match="neither a config of transformers nor"):
        interface_of(nn.Linear(2, 2))


def test_a_text_model_without_a_vocabulary_is_an_error_that_names_register_family() -> None:
    config = transformers.CanineConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64
    )
    with pytest.raises(CheckpointError, match="CanineConfig has vocab_size None") as refused:
        interface_of(transformers.CanineModel(config))
    assert "register_family" in str(refused.value.hint)


class Table(nn.Module):
    """Its tensor is not a buffer, as in VideoMAE, so that it cannot be copied without values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(2, 2), torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.linear(x + self.table))


def test_a_failed_pass_without_values_is_not_printed(caplog: pytest.LogCaptureFixture) -> None:
    interface = ModelInterface(inputs=(InputSpec("x", ("batch", 2)),), outputs=(), masked=None)
    assert output_fields(Table(), interface) == ()
    assert not [record for record in caplog.records if record.name.startswith("torch._subclasses")]
