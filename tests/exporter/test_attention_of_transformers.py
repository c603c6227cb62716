"""Plain attention computes what each transformer's own does: groups of heads, biases, soft caps, masks."""

from __future__ import annotations

import pytest
import torch
from tiny_architectures import NAMES, tiny_model

from acm_export.exporter.attention import plain_attention
from acm_export.surgery import interface_of, prepare_model
from acm_export.surgery.examples import example_inputs


@pytest.mark.parametrize("name", NAMES)
def test_plain_attention_computes_the_same(name: str) -> None:
    model = tiny_model(name)
    prepare_model(model)
    interface = interface_of(model)
    inputs = example_inputs(interface)
    mask = inputs.get("attention_mask")
    with torch.no_grad():
        expected = model(**inputs)
        with plain_attention(model):
            plain = model(**inputs)
    for field in interface.outputs:
        left, right = expected[field], plain[field]
        if mask is not None and left.shape[:2] == mask.shape:  # the values of padding tokens may differ
            left, right = left[mask.bool()], right[mask.bool()]
        torch.testing.assert_close(right, left, atol=2e-4, rtol=1e-4)
