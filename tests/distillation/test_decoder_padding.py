"""The padding of an encoder does not concern the decoder, even where both have equally many tokens."""

from __future__ import annotations

import torch
from tiny_architectures import tiny_model

from acm_export.distillation.record import PaddingListener, SiteRecorder
from acm_export.surgery import find_sites, interface_of


def test_every_token_of_a_decoder_is_recorded() -> None:
    torch.manual_seed(0)
    model = tiny_model("t5")
    interface = interface_of(model)
    sites = [site for site in find_sites(model, interface).sites if site.kind == "ffn"]
    inputs = {
        "input_ids": torch.randint(1, 20, (2, 6)),
        "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "decoder_input_ids": torch.randint(1, 20, (2, 6)),
    }
    with torch.no_grad(), SiteRecorder(model, interface, sites) as recorder:
        _, tensors = recorder.run(inputs)
    counts = {place: len(found.x) for place, found in tensors.items()}
    assert {counts[place] for place in counts if place.startswith("encoder.")} == {10}
    assert {counts[place] for place in counts if place.startswith("decoder.")} == {12}
    with torch.no_grad(), PaddingListener(model, interface) as padding:
        model(**inputs)
    assert padding.valid_at("decoder.block.0") is None
    assert padding.valid_at("encoder.block.0") is padding.valid
    assert padding.valid_at("encoders") is None
