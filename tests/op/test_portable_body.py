"""The portable body in ONNX Runtime, compared with the float64 loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from op_model import assert_matches_loop, logits_of, one_node_model, op_node, random_inputs, run_body, session_of
from op_strategies import draw_routing
from property_tests import examples

from acm_export.base.errors import OpError
from acm_export.op import ACTIVATIONS, DOMAIN, GLU_INPUTS, INPUTS, VERSION, Signature
from acm_export.op.body import portable_body
from acm_export.op.routing import learner_counts

INF, NAN = float("inf"), float("nan")
LEADING = st.one_of(
    st.sampled_from([(), (0,), (1,), (0, 3), (3, 0), (2, 0, 2), (1, 1, 1)]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
)


@st.composite
def cases(draw: st.DrawFn) -> Any:
    """Inputs, signature and opset."""
    n = draw(st.integers(1, 6))
    signature = Signature(n, draw(st.integers(0, n)), draw(st.sampled_from(ACTIVATIONS)), glu=draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    feeds = random_inputs(rng, draw(LEADING), draw(st.integers(1, 9)), draw(st.integers(1, 7)), signature, dtype)
    draw_routing(draw, feeds, rng)
    return feeds, signature, draw(st.integers(17, 22)), draw(st.booleans())


@given(cases())
@examples(250)
def test_the_body_matches_the_float64_loop(case: Any) -> None:
    feeds, signature, opset, constants = case
    y, counts = run_body(feeds, signature, opset, constants=constants)
    assert y.dtype == feeds["x"].dtype
    assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21, 22])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("glu", [False, True])
def test_every_activation_in_every_opset(activation: str, opset: int, glu: bool) -> None:
    for dtype in (np.float32, np.float16):
        signature = Signature(3, 1, activation, glu=glu)
        feeds = random_inputs(np.random.default_rng(opset), (2, 5), 7, 5, signature, dtype)
        feeds["x"] *= dtype(3)
        y, counts = run_body(feeds, signature, opset)
        assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("minimum", [0, 1, 63, 64])
@pytest.mark.parametrize("glu", [False, True])
def test_sixty_four_learners(minimum: int, glu: bool) -> None:
    signature = Signature(64, minimum, "gelu", glu=glu)
    feeds = random_inputs(np.random.default_rng(minimum), (70,), 5, 2, signature)
    feeds["gate_logits"] = logits_of(np.arange(70) % (65 - minimum) + minimum, signature)
    y, counts = run_body(feeds, signature)
    assert sorted(set(counts.tolist())) == list(range(minimum, 65))
    assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("count", [0, 1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("glu", [False, True])
def test_all_tokens_with_one_count(count: int, dtype: Any, glu: bool) -> None:
    signature = Signature(4, 0, "gelu", glu=glu)
    feeds = random_inputs(np.random.default_rng(1), (2, 3), 5, 3, signature, dtype)
    feeds["gate_logits"] = logits_of(np.full((2, 3), count), signature)
    y, counts = run_body(feeds, signature)
    assert (counts == count).all()
    assert_matches_loop(y, counts, feeds, signature)


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 3))
def test_tokens_keep_their_order(wanted: list[int], minimum: int) -> None:
    signature = Signature(3, minimum, "identity")
    feeds = random_inputs(np.random.default_rng(2), (len(wanted),), 3, 2, signature)
    feeds["gate_logits"] = logits_of(np.maximum(wanted, minimum), signature).reshape(len(wanted), signature.num_choices)
    y, counts = run_body(feeds, signature)
    assert counts.tolist() == np.maximum(wanted, minimum).tolist()
    assert_matches_loop(y, counts, feeds, signature)


@given(st.integers(0, 2**32), st.integers(0, 3), st.sampled_from(["plain", "subnormal", "huge"]))
def test_counts_equal_numpys(seed: int, minimum: int, kind: str) -> None:
    signature = Signature(4, minimum, "relu")
    rng = np.random.default_rng(seed)
    feeds = random_inputs(rng, (64,), 2, 1, signature)
    with np.errstate(over="ignore", invalid="ignore"):
        feeds["gate_logits"] *= np.float32({"plain": 1, "subnormal": 1e-42, "huge": 3e38}[kind])
        gaps = feeds["gate_logits"][:, :1] - feeds["gate_logits"][:, -1:]
    feeds["thresholds"] = rng.choice(np.concatenate([gaps.ravel(), np.zeros(4, np.float32)]), 4)
    np.testing.assert_array_equal(
        run_body(feeds, signature)[1], learner_counts(feeds["gate_logits"], feeds["thresholds"], minimum)
    )


def test_one_session_serves_any_number_of_tokens() -> None:
    signature = Signature(4, 1, "gelu")
    feeds = random_inputs(np.random.default_rng(3), (1, 1), 6, 4, signature)
    session = session_of(one_node_model(feeds, signature))
    for leading in [(2, 5), (0, 5), (1, 1), (3, 0), (4, 7)]:
        other = random_inputs(np.random.default_rng(4), leading, 6, 4, signature)
        feeds |= {"x": other["x"], "gate_logits": other["gate_logits"]}
        y, counts = session.run(None, {"x": feeds["x"], "gate_logits": feeds["gate_logits"]})
        assert_matches_loop(y, counts, feeds, signature)


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("minimum", [0, 1])
@pytest.mark.parametrize("glu", [False, True])
def test_weights_of_idle_learners_do_not_affect_the_output(bad: float, minimum: int, glu: bool) -> None:
    signature = Signature(3, minimum, "gelu", glu=glu)
    feeds = random_inputs(np.random.default_rng(5), (9,), 4, 3, signature)
    feeds["gate_logits"] = logits_of(np.arange(9) % (4 - minimum) + minimum, signature)
    feeds["w1"][:, 6:], feeds["b1"][6:], feeds["w2"][6:], feeds["b2"][3] = bad, bad, bad, bad
    if glu:
        feeds["v1"][:, 6:], feeds["c1"][6:] = bad, bad
    y, counts = run_body(feeds, signature)
    assert np.isfinite(y[counts < 3]).all()
    assert not np.isfinite(y[counts == 3]).any()
    feeds |= {"x": feeds["x"][counts < 3], "gate_logits": feeds["gate_logits"][counts < 3]}
    assert_matches_loop(y[counts < 3], counts[counts < 3], feeds, signature)


@pytest.mark.parametrize("minimum", [0, 2])
@pytest.mark.parametrize("glu", [False, True])
def test_each_learner_processes_only_its_own_tokens(minimum: int, glu: bool, tmp_path: Path) -> None:
    signature, model_dim, hidden = Signature(4, minimum, "gelu", glu=glu), 11, 7
    wanted = [4, 2, 2, 3, 2, 4, 2] if minimum else [4, 0, 1, 3, 0, 4, 0]
    feeds = random_inputs(np.random.default_rng(6), (7,), model_dim, hidden, signature)
    feeds["gate_logits"] = logits_of(wanted, signature)
    session = session_of(one_node_model(feeds, signature), profile=str(tmp_path / "profile"))
    session.run(None, {"x": feeds["x"], "gate_logits": feeds["gate_logits"]})
    work = 0
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["args"].get("op_name") in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul"):
            rows, inner = _shapes(event["args"]["input_type_shape"])[0]
            work += rows * inner * _shapes(event["args"]["output_type_shape"])[0][1]
    assert work == sum(wanted) * (3 if glu else 2) * model_dim * hidden


def _shapes(types: list[dict[str, list[int]]]) -> list[list[int]]:
    return [shape for entry in types for shape in entry.values()]


def test_one_file_may_have_several_signatures() -> None:
    signatures = [Signature(3, 0, "gelu"), Signature(3, 1, "gelu"), Signature(3, 0, "relu"), Signature(2, 2, "silu")]
    signatures += [Signature(3, 0, "gelu", glu=True), Signature(2, 2, "silu", glu=True)]
    inputs, outputs, weights, nodes, feeds = [], [], [], [], {}
    for index, signature in enumerate(signatures):
        layer = random_inputs(np.random.default_rng(index), (5,), 4, 3, signature)
        feeds[index] = layer
        nodes.append(op_node(signature, str(index)))
        inputs += [helper.make_tensor_value_info(f"{name}{index}", 1, layer[name].shape) for name in INPUTS[:2]]
        weights += [numpy_helper.from_array(layer[name], f"{name}{index}") for name in signature.inputs[2:]]
        outputs += [helper.make_tensor_value_info(f"y{index}", 1, [5, 4])]
        outputs += [helper.make_tensor_value_info(f"counts{index}", 6, [5])]
    model = helper.make_model(
        helper.make_graph(nodes, "several", inputs, outputs, weights),
        ir_version=10,
        functions=[portable_body(s, 20) for s in signatures],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, VERSION)],
    )
    onnx.checker.check_model(model)
    given_inputs = {f"{name}{i}": layer[name] for i, layer in feeds.items() for name in INPUTS[:2]}
    results = session_of(model).run(None, given_inputs)
    for index, signature in enumerate(signatures):
        assert_matches_loop(results[2 * index], results[2 * index + 1], feeds[index], signature)


@pytest.mark.parametrize("minimum", [0, 1, 3])
@pytest.mark.parametrize(
    ("glu", "name", "inputs"), [(False, "GatedLearners", INPUTS), (True, "GLUGatedLearners", GLU_INPUTS)]
)
def test_the_body_is_a_function_of_standard_operators(
    minimum: int, glu: bool, name: str, inputs: tuple[str, ...]
) -> None:
    body = portable_body(Signature(3, minimum, "gelu", glu=glu), 20)
    assert (body.domain, body.name, body.overload) == (DOMAIN, f"{name}_n3_min{minimum}_gelu", "")
    assert {node.domain for node in body.node} == {""}
    assert [entry.version for entry in body.opset_import] == [20]
    assert tuple(body.input) == inputs


def test_bodies_of_different_signatures_have_different_names() -> None:
    kinds = [(n, m, a) for n in range(1, 5) for m in range(n + 1) for a in ACTIVATIONS]
    signatures = [Signature(*kind, glu=glu) for kind in kinds for glu in (False, True)]
    assert len({portable_body(s, 20).name for s in signatures}) == len(signatures)


def test_an_opset_before_seventeen_is_refused() -> None:
    with pytest.raises(OpError, match=r"17.*16"):
        portable_body(Signature(2, 0, "gelu"), 16)
