"""The torch ops and the layer for gated FFNs, compared with the loops over tokens."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_model import Feeds, assert_matches_loop, logits_of, random_inputs
from property_tests import examples
from quantized_op import assert_close_to_loop, random_quantized_inputs
from torch.utils.flop_counter import FlopCounterMode

from acm_export.base.errors import OpError
from acm_export.modules import ACMLayer, ACMSpec, glu_gated_learners, quantized_glu_gated_learners
from acm_export.modules.flops import learner_flops
from acm_export.op import ACTIVATIONS, QuantizedSignature, Signature

INF, NAN = float("inf"), float("nan")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
OP = torch.ops.acm.glu_gated_learners.default
INT8_OP = torch.ops.acm.quantized_glu_gated_learners.default


def to_torch(feeds: Feeds, dtype: torch.dtype) -> list[torch.Tensor]:
    float32 = ("gate_logits", "thresholds")
    return [
        torch.from_numpy(v.astype(np.float32)).to(torch.float32 if k in float32 else dtype) for k, v in feeds.items()
    ]


def arguments(signature: Signature) -> tuple[Any, ...]:
    return tuple(signature.attributes.values())


def assert_op_matches(feeds: Feeds, signature: Signature, dtype: str) -> None:
    y, counts = glu_gated_learners(*to_torch(feeds, DTYPES[dtype]), *arguments(signature))
    assert y.dtype == DTYPES[dtype]
    assert_matches_loop(y.float().numpy(), counts.numpy(), feeds, signature, dtype=dtype)


def random_layer(**changes: Any) -> ACMLayer:
    values = {"model_dim": 6, "num_learners": 3, "hidden_dim": 5, "activation": "silu", "glu": True} | changes
    layer = ACMLayer(ACMSpec(**values)).eval()
    with torch.no_grad():
        for parameter in (layer.b1, layer.c1, layer.b2):
            parameter.normal_()
    return layer.requires_grad_(requires_grad=False)


@given(
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from(ACTIVATIONS),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, INF, -INF]),
    st.sampled_from([0.0, NAN, INF, -INF]),
)
@examples(150)
def test_the_op_matches_the_loop(
    dtype: str,
    n: int,
    minimum: int,
    activation: str,
    leading: tuple[int, ...],
    sizes: tuple[int, int],
    seed: int,
    tau: float,
    logit: float,
) -> None:
    signature, rng = Signature(n, min(minimum, n), activation, glu=True), np.random.default_rng(seed)
    feeds = random_inputs(rng, leading, *sizes, signature, NUMPY[dtype])
    feeds["thresholds"][rng.integers(n)] = tau
    if feeds["gate_logits"].size:
        feeds["gate_logits"].flat[rng.integers(feeds["gate_logits"].size)] = logit
    assert_op_matches(feeds, signature, dtype)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_all_tokens_with_one_count(tokens: int, count: int, dtype: str) -> None:
    signature = Signature(4, 0, "silu", glu=True)
    feeds = random_inputs(np.random.default_rng(1), (tokens,), 24, 10, signature, NUMPY[dtype])
    feeds["gate_logits"] = logits_of(np.full(tokens, count), signature)
    assert_op_matches(feeds, signature, dtype)


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
    y, counts = quantized_glu_gated_learners(*tensors, *arguments(signature))
    assert_close_to_loop(y.numpy(), counts.numpy(), feeds, signature, steps=4)


@pytest.mark.parametrize("leading", [(), (0,), (2, 3)])
def test_opcheck(leading: tuple[int, ...]) -> None:
    signature = Signature(3, 1, "silu", glu=True)
    feeds = random_inputs(np.random.default_rng(0), leading, 5, 3, signature)
    torch.library.opcheck(OP, (*to_torch(feeds, torch.float32), *arguments(signature)))
    int8 = QuantizedSignature(3, 1, "silu", glu=True)
    tensors = [
        torch.from_numpy(v) for v in random_quantized_inputs(np.random.default_rng(0), leading, 5, 3, int8).values()
    ]
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(INT8_OP, (*tensors, *arguments(int8)), test_utils=checks)


def test_torch_export_keeps_one_op_with_a_dynamic_batch() -> None:
    layer = random_layer()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(layer, (torch.randn(2, 7, 6),), dynamic_shapes=shapes)
    assert len([node for node in program.graph.nodes if node.target is OP]) == 1
    x = torch.randn(5, 7, 6)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("minimum", [0, 3])
def test_the_dense_counterpart_equals_all_learners_and_costs_as_much(activation: str, minimum: int) -> None:
    layer = random_layer(activation=activation, min_learners=minimum)
    dense, x = layer.dense(), torch.randn(2, 5, 6)
    layer.thresholds.fill_(-INF)
    with FlopCounterMode(display=False) as counter:
        expected = dense(x)
    torch.testing.assert_close(expected, layer(x))
    assert counter.get_total_flops() == 10 * 3 * learner_flops(layer.spec) == 10 * 3 * 6 * 6 * 5


def test_weights_move_to_another_dtype_and_thresholds_do_not() -> None:
    layer = random_layer().half()
    assert {name for name, p in layer.named_parameters() if p.dtype == torch.float16} == {
        "w1", "b1", "v1", "c1", "w2", "b2"
    }  # fmt: skip
    assert layer.thresholds.dtype == torch.float32


def test_only_gated_layers_store_the_multiplied_branch() -> None:
    assert {"v1", "c1"} <= random_layer().state_dict().keys()
    ungated = ACMLayer(ACMSpec(6, 3, 5))
    assert ungated.v1 is None
    assert not {"v1", "c1"} & ungated.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("v1", lambda t: t.half(), r"v1.*float16.*float32"),
        ("c1", lambda t: t.double(), r"c1.*float64.*float32"),
        ("v1", lambda t: t[:4], r"5 in x but 4 in v1"),
        ("c1", lambda t: t[:6], r"9 in w1 but 6 in c1"),
    ],
)
def test_contradictory_tensors_are_refused_with_both_values(name: str, change: Any, said: str) -> None:
    signature = Signature(3, 0, "silu", glu=True)
    feeds = random_inputs(np.random.default_rng(0), (4,), 5, 3, signature)
    tensors = dict(zip(feeds, to_torch(feeds, torch.float32), strict=True))
    tensors[name] = change(tensors[name])
    with pytest.raises(OpError, match=said):
        glu_gated_learners(*tensors.values(), *arguments(signature))


def test_a_spec_whose_kind_is_not_true_or_false_is_refused() -> None:
    with pytest.raises(OpError, match="glu is 'yes'"):
        ACMSpec(6, 3, 5, glu="yes")  # type: ignore[arg-type]
