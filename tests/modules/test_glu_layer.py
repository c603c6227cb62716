"""What is special about the torch ops and the layer for gated FFNs; test_acm_layer.py tests what they share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_model import assert_matches_loop, logits_of, random_inputs
from property_tests import examples
from quantized_op import assert_close_to_loop, random_quantized_inputs
from torch_op import DTYPES, NUMPY, attributes, random_layer, run_op

from acm_export.modules import ACMLayer, ACMSpec, quantized_glu_gated_learners
from acm_export.op import ACTIVATIONS, QuantizedSignature, Signature

INT8_OP = torch.ops.acm.quantized_glu_gated_learners.default


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_all_tokens_with_one_count(tokens: int, count: int, dtype: str) -> None:
    signature = Signature(4, 0, "silu", glu=True)
    feeds = random_inputs(np.random.default_rng(1), (tokens,), 24, 10, signature, NUMPY[dtype])
    feeds["gate_logits"] = logits_of(np.full(tokens, count), signature)
    assert_matches_loop(*run_op(feeds, signature, dtype), feeds, signature, dtype=dtype)


@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from(ACTIVATIONS),
    st.integers(0, 1),
    st.lists(st.integers(0, 4), max_size=2).map(tuple),
    st.integers(0, 2**32),
)
@examples(100)
def test_the_int8_op_matches_its_loop(
    n: int, minimum: int, activation: str, dynamic: int, leading: tuple[int, ...], seed: int
) -> None:
    signature = QuantizedSignature(n, min(minimum, n), activation, dynamic, glu=True)
    feeds = random_quantized_inputs(np.random.default_rng(seed), leading, 24, 10, signature)
    tensors = [torch.from_numpy(value) for value in feeds.values()]
    y, counts = quantized_glu_gated_learners(*tensors, *attributes(signature))
    assert_close_to_loop(y.numpy(), counts.numpy(), feeds, signature, steps=4)


@pytest.mark.parametrize("leading", [(), (0,), (2, 3)])
def test_opcheck_of_the_int8_op(leading: tuple[int, ...]) -> None:
    signature = QuantizedSignature(3, 1, "silu", glu=True)
    feeds = random_quantized_inputs(np.random.default_rng(0), leading, 5, 3, signature)
    tensors = [torch.from_numpy(value) for value in feeds.values()]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(INT8_OP, (*tensors, *attributes(signature)), test_utils=checks)


def test_weights_move_to_another_dtype_and_thresholds_do_not() -> None:
    layer = random_layer(glu=True).half()
    assert {name for name, p in layer.named_parameters() if p.dtype == torch.float16} == {
        "w1", "b1", "v1", "c1", "w2", "b2"
    }  # fmt: skip
    assert layer.thresholds.dtype == torch.float32


def test_only_gated_layers_store_the_multiplied_branch() -> None:
    assert {"v1", "c1"} <= random_layer(glu=True).state_dict().keys()
    ungated = ACMLayer(ACMSpec(6, 3, 5))
    assert ungated.v1 is None
    assert not {"v1", "c1"} & ungated.state_dict().keys()
