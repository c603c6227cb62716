"""The torch ops and the layer around them, compared with the float64 loop."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_model import assert_matches_loop, logits_of, random_inputs
from op_strategies import BOTH_KINDS, USUAL
from property_tests import examples
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch_op import DTYPES, NUMPY, OPS, RUN, attributes, random_layer, run_op, to_torch

from acm_export.base.errors import OpError
from acm_export.modules import ACMLayer, ACMSpec, acm_layers
from acm_export.modules.flops import learner_flops
from acm_export.op import ACTIVATIONS, INPUTS, Signature

INF, NAN = float("inf"), float("nan")


@BOTH_KINDS
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
    glu: bool,
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
    signature, rng = Signature(n, min(minimum, n), activation, glu=glu), np.random.default_rng(seed)
    feeds = random_inputs(rng, leading, *sizes, signature, NUMPY[dtype])
    feeds["thresholds"][rng.integers(n)] = tau
    if feeds["gate_logits"].size:
        feeds["gate_logits"].flat[rng.integers(feeds["gate_logits"].size)] = logit
    assert_matches_loop(*run_op(feeds, signature, dtype), feeds, signature, dtype=dtype)


@pytest.mark.parametrize("minimum", [0, 63, 64])
def test_sixty_four_learners(minimum: int) -> None:
    signature = Signature(64, minimum, "silu")
    feeds = random_inputs(np.random.default_rng(0), (70,), 4, 2, signature)
    feeds["gate_logits"] = logits_of(np.arange(70) % (65 - minimum) + minimum, signature)
    assert_matches_loop(*run_op(feeds, signature, "float32"), feeds, signature)


@BOTH_KINDS
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("leading", [(), (0,), (4,), (2, 3)])
def test_opcheck(dtype: str, leading: tuple[int, ...], glu: bool) -> None:
    signature = Signature(3, 1, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(0), leading, 5, 3, signature)
    torch.library.opcheck(OPS[glu], (*to_torch(feeds, DTYPES[dtype]), *attributes(signature)))


@pytest.mark.parametrize("transposed", ["x", "gate_logits", "w1", "w2"])
def test_opcheck_with_non_contiguous_inputs(transposed: str) -> None:
    signature, op = Signature(3, 0, "gelu"), OPS[False]
    feeds = random_inputs(np.random.default_rng(0), (4,), 5, 3, signature)
    tensors = dict(zip(INPUTS, to_torch(feeds, torch.float32), strict=True))
    tensors[transposed] = tensors[transposed].T.contiguous().T
    torch.library.opcheck(op, (*tensors.values(), *attributes(signature)))
    compiled = torch.compile(
        lambda *values: op(*values, *attributes(signature))[0] + 1, fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(*tensors.values()), op(*tensors.values(), *attributes(signature))[0] + 1)


@BOTH_KINDS
def test_torch_export_keeps_one_op_with_a_dynamic_batch(glu: bool) -> None:
    layer = random_layer(glu=glu, activation=USUAL[glu])
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(layer, (torch.randn(2, 7, 6),), dynamic_shapes=shapes)
    ours = [node for node in program.graph.nodes if node.target is OPS[glu]]
    assert len(ours) == 1
    assert not [node for node in program.graph.nodes if "sort" in str(node.target)]
    x = torch.randn(5, 7, 6)
    torch.testing.assert_close(program.module()(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_computes_the_same_without_a_graph_break(backend: str) -> None:
    layer = random_layer(gate_hidden=(4,), gate_activation="relu")
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for tokens in (7, 3):
        x = torch.randn(2, tokens, 6)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("move", ["half", "bfloat16", "double", "to"])
def test_gate_and_thresholds_stay_float32_bit_for_bit(move: str) -> None:
    layer = random_layer(gate_hidden=(4,))
    kept = {k: v.clone() for k, v in layer.state_dict().items() if k == "thresholds" or k.startswith("gate.")}
    assert len(kept) == 5
    layer.to(torch.bfloat16) if move == "to" else getattr(layer, move)()
    assert layer.w1.dtype != torch.float32
    for name, before in kept.items():
        after = layer.state_dict()[name]
        assert after.dtype == torch.float32
        assert torch.equal(before, after)


def test_thresholds_and_gate_are_float32_under_another_default_dtype() -> None:
    torch.set_default_dtype(torch.float16)
    try:
        layer = ACMLayer(ACMSpec(4, 2, 3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.thresholds.dtype == torch.float32
    assert layer.gate.linears[0].weight.dtype == torch.float32
    assert layer(torch.randn(2, 4).half()).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_gate_computes_in_float32_for_inputs_of_any_dtype(dtype: torch.dtype) -> None:
    layer = random_layer()
    x = torch.randn(4, 6).to(dtype)
    expected = layer.gate(x.float())
    layer.to(dtype)
    assert torch.equal(layer.gate(x), expected)
    assert torch.equal(layer.run(x, layer.gate(x))[1], layer.run(x, expected)[1])


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_a_gate_applies_its_activation_only_between_its_linear_maps(activation: str) -> None:
    layer = random_layer(gate_hidden=(4, 7), gate_activation=activation)
    functions = {"identity": lambda v: v, "relu": torch.relu, "gelu": nn.functional.gelu}
    act, (a, b, c) = functions[activation], layer.gate.linears
    x = torch.randn(3, 6)
    assert torch.equal(layer.gate(x), c(act(b(act(a(x))))))


@BOTH_KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("minimum", [0, 2, 3])
def test_the_dense_counterpart_equals_all_learners_and_costs_as_much(activation: str, minimum: int, glu: bool) -> None:
    layer = random_layer(activation=activation, min_learners=minimum, glu=glu)
    dense, x = layer.dense(), torch.randn(2, 5, 6)
    layer.thresholds.fill_(-INF)
    with FlopCounterMode(display=False) as counter:
        found = dense(x)
    torch.testing.assert_close(found, layer(x))
    assert not list(acm_layers(dense))
    assert counter.get_total_flops() == 10 * 3 * learner_flops(layer.spec) == 10 * 3 * (6 if glu else 4) * 6 * 5


def test_the_dense_counterpart_keeps_the_dtype() -> None:
    assert random_layer().half().dense()(torch.randn(2, 6).half()).dtype == torch.float16


@given(st.integers(0, 2**32))
@examples(20)
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(seed: int) -> None:
    torch.manual_seed(seed)
    layer = random_layer(gate_hidden=(4,))
    batch = torch.randn(5, 3, 6)
    together, alone = layer(batch), torch.cat([layer(sample[None]) for sample in batch])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_the_last_learner_of_the_batch_is_not_dropped() -> None:
    layer, x = random_layer(), torch.randn(4, 6)
    logits = torch.from_numpy(logits_of([3, 3, 2, 0], Signature(3, 0, "gelu")))
    layer.thresholds.zero_()
    y, counts = layer.run(x, logits)
    assert counts.tolist() == [3, 3, 2, 0]
    torch.testing.assert_close(y[:2], layer.dense()(x[:2]))


@pytest.mark.parametrize("minimum", [0, 1])
def test_weights_of_idle_learners_do_not_affect_the_output(minimum: int) -> None:
    layer, x = random_layer(min_learners=minimum), torch.randn(6, 6)
    layer.thresholds.zero_()
    expected = layer.run(x, torch.from_numpy(logits_of([1, 2, 1, 2, 1, 2], Signature(3, minimum, "gelu"))))[0]
    layer.w1[:, 10:], layer.b1[10:], layer.w2[10:], layer.b2[3] = NAN, NAN, NAN, NAN
    y = layer.run(x, torch.from_numpy(logits_of([1, 2, 1, 2, 1, 2], Signature(3, minimum, "gelu"))))[0]
    assert torch.equal(y, expected)
    assert layer.dense()(x).isnan().all()


@pytest.mark.parametrize(
    ("glu", "name", "change", "said"),
    [
        (False, "x", lambda t: t.double(), r"float64.*float32"),
        (False, "w1", lambda t: t.half(), r"w1.*float16.*float32"),
        (False, "b2", lambda t: t.bfloat16(), r"b2.*bfloat16.*float32"),
        (False, "gate_logits", lambda t: t.half(), r"gate_logits.*float16.*float32"),
        (False, "thresholds", lambda t: t.double(), r"thresholds.*float64.*float32"),
        (False, "x", lambda t: t[:, :4], r"D is 4 in x but 5 in w1"),
        (False, "x", lambda t: t[:2], r"2 in x but 4 in gate_logits"),
        (False, "x", lambda t: t[None], r"rank 3.*rank 2"),
        (False, "gate_logits", lambda t: t[:, :2], r"size 2.*= 4"),
        (False, "thresholds", lambda t: t[:2], r"size 2.*= 3"),
        (False, "b2", lambda t: t[:3], r"size 3.*= 4"),
        (False, "b1", lambda t: t[:8], r"9 in w1 but 8 in b1"),
        (False, "w2", lambda t: t.T, r"5.*9"),
        (True, "v1", lambda t: t.half(), r"v1.*float16.*float32"),
        (True, "c1", lambda t: t.double(), r"c1.*float64.*float32"),
        (True, "v1", lambda t: t[:4], r"5 in x but 4 in v1"),
        (True, "c1", lambda t: t[:6], r"9 in w1 but 6 in c1"),
    ],
)
def test_contradictory_tensors_are_refused_with_both_values(glu: bool, name: str, change: Any, said: str) -> None:
    signature = Signature(3, 0, USUAL[glu], glu=glu)
    feeds = random_inputs(np.random.default_rng(0), (4,), 5, 3, signature)
    tensors = dict(zip(feeds, to_torch(feeds, torch.float32), strict=True))
    tensors[name] = change(tensors[name])
    with pytest.raises(OpError, match=said):
        RUN[glu](*tensors.values(), *attributes(signature))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_learners": 0}, "0"),
        ({"num_learners": 65}, "65"),
        ({"min_learners": 4}, "4"),
        ({"activation": "tanh"}, "tanh"),
        ({"gate_activation": "tanh"}, "tanh"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"model_dim": -1}, "model_dim is -1"),
        ({"gate_hidden": (3, 0)}, "gate_hidden"),
        ({"channels_first": "no"}, "channels_first is 'no'; it must be true or false"),
        ({"glu": "yes"}, "glu is 'yes'"),
    ],
)
def test_an_invalid_spec_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(OpError, match=said):
        ACMSpec(**({"model_dim": 6, "num_learners": 3, "hidden_dim": 5} | changes))


def test_layers_are_found_in_order_and_survive_a_copy() -> None:
    model = nn.Sequential(random_layer(), nn.ReLU(), nn.Sequential(random_layer()))
    assert [name for name, _ in acm_layers(model)] == ["0", "2.0"]
    x = torch.randn(2, 6)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_a_mask_of_other_tokens_is_ignored() -> None:
    layer = ACMLayer(ACMSpec(6, 3, 5))
    x = torch.randn(2, 4, 6)
    expected = layer.gate_logits(x)
    layer.valid = torch.zeros(2, 7, dtype=torch.bool)
    assert torch.equal(layer.gate_logits(x), expected)
