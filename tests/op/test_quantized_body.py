"""The portable body of the int8 operator in ONNX Runtime: its integers, edge cases, and the kernels that run it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_model import logits_of, session_of
from op_strategies import draw_routing
from property_tests import examples
from quantized_op import assert_close_to_loop, assert_integers_hold, quantized_model, random_quantized_inputs

from acm_export.base.errors import OpError
from acm_export.op import ACTIVATIONS, QuantizedSignature
from acm_export.op.quantized_body import quantized_body

if TYPE_CHECKING:
    from pathlib import Path

INF, NAN = float("inf"), float("nan")
LEADING = st.one_of(
    st.sampled_from([(), (0,), (1,), (0, 3), (3, 0), (1, 1, 1)]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
)


def run(feeds: Any, signature: QuantizedSignature, opset: int = 20, **options: bool) -> dict[str, Any]:
    """Outputs by name."""
    model = quantized_model(feeds, signature, opset, **options)
    session = session_of(model)
    given = {value.name: feeds[value.name] for value in model.graph.input}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


@st.composite
def cases(draw: st.DrawFn) -> Any:
    """Inputs, signature and opset."""
    n = draw(st.integers(1, 6))
    activation = draw(st.sampled_from(ACTIVATIONS))
    dynamic, glu = draw(st.integers(0, 1)), draw(st.booleans())
    signature = QuantizedSignature(n, draw(st.integers(0, n)), activation, dynamic, glu=glu)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    feeds = random_quantized_inputs(
        rng, draw(LEADING), draw(st.integers(1, 70)), draw(st.integers(1, 40)), signature, dtype
    )
    draw_routing(draw, feeds, rng)
    return feeds, signature, draw(st.integers(17, 22)), draw(st.booleans())


@given(cases())
@examples(200)
def test_the_integers_are_those_of_a_loop_over_tokens(case: Any) -> None:
    feeds, signature, opset, constants = case
    assert_integers_hold(run(feeds, signature, opset, constants=constants, taps=True), feeds, signature)


@given(cases())
@examples(60)
def test_taps_do_not_change_the_output(case: Any) -> None:
    feeds, signature, opset, _ = case
    plain, tapped = run(feeds, signature, opset), run(feeds, signature, opset, taps=True)
    np.testing.assert_array_equal(plain["y"], tapped["y"])


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("minimum", [0, 2, 4])
@pytest.mark.parametrize("glu", [False, True])
def test_the_body_computes_what_the_reference_computes(minimum: int, dynamic: int, glu: bool) -> None:
    signature = QuantizedSignature(4, minimum, "gelu", dynamic, glu=glu)
    feeds = random_quantized_inputs(np.random.default_rng(minimum), (3, 17), 96, 48, signature)
    ran = run(feeds, signature)
    assert_close_to_loop(ran["y"], ran["counts"], feeds, signature, steps=4)


@pytest.mark.parametrize("minimum", [0, 63, 64])
def test_sixty_four_learners(minimum: int) -> None:
    signature = QuantizedSignature(64, minimum, "gelu")
    feeds = random_quantized_inputs(np.random.default_rng(minimum), (70,), 5, 2, signature)
    feeds["gate_logits"] = logits_of(np.arange(70) % (65 - minimum) + minimum, signature)
    assert_integers_hold(run(feeds, signature, taps=True), feeds, signature)


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_bad_token_leaves_the_others_unchanged(bad: float, dynamic: int) -> None:
    signature = QuantizedSignature(3, 1, "gelu", dynamic)
    feeds = random_quantized_inputs(np.random.default_rng(0), (9,), 33, 7, signature)
    feeds["gate_logits"] = logits_of(np.arange(9) % 3 + 1, signature)
    good = run(feeds, signature)
    feeds["x"][4, 5] = bad
    ran = run(feeds, signature)
    np.testing.assert_array_equal(ran["counts"], good["counts"])
    others = np.arange(9) != 4
    np.testing.assert_array_equal(ran["y"][others], good["y"][others])


def test_infinities_are_clamped_with_fixed_scales() -> None:
    signature = QuantizedSignature(2, 0, "relu")
    feeds = random_quantized_inputs(np.random.default_rng(1), (6,), 16, 8, signature)
    feeds["gate_logits"] = logits_of(np.full(6, 2), signature)
    feeds["x"][2, 3], feeds["x"][3, 1] = INF, -INF
    ran = run(feeds, signature, taps=True)
    assert ran["rows_q"][2, 3] == 255
    assert ran["rows_q"][3, 1] == 0
    assert np.isfinite(ran["y"]).all()


@pytest.mark.parametrize("dynamic", [0, 1])
def test_zero_tokens_and_zero_weights(dynamic: int) -> None:
    signature = QuantizedSignature(2, 1, "gelu", dynamic)
    feeds = random_quantized_inputs(np.random.default_rng(2), (5,), 8, 4, signature)
    feeds["x"][:] = 0
    feeds["b1"][:] = 0
    ran = run(feeds, signature, taps=True)
    assert_integers_hold(ran, feeds, signature)


def test_exact_halves_round_to_even_after_one_multiplication() -> None:
    signature = QuantizedSignature(1, 1, "identity")
    feeds = random_quantized_inputs(np.random.default_rng(3), (200,), 64, 3, signature)
    multiplier = np.float32(1) / np.float32(0.11)
    feeds["x_mult"][:] = multiplier
    halves = np.random.default_rng(4).integers(-120, 120, (200, 64)).astype(np.float32) + np.float32(0.5)
    feeds["x"] = halves * np.float32(0.11)
    expected = np.clip(np.rint(feeds["x"] * multiplier), -128, 127)
    divided = np.clip(np.rint(feeds["x"] / np.float32(0.11)), -128, 127)
    assert (expected != divided).any()  # the inputs tell multiplication from division
    np.testing.assert_array_equal(run(feeds, signature, taps=True)["rows_q"].astype(int) - 128, expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("minimum", [0, 1, 4])
@pytest.mark.parametrize("glu", [False, True])
def test_every_product_runs_in_the_fused_int8_kernel(minimum: int, glu: bool, activation: str, tmp_path: Path) -> None:
    """One kernel per product, bias and scale included, and no product in float or in a slow integer kernel."""
    signature = QuantizedSignature(4, minimum, activation, glu=glu)
    kernels = optimized_kernels(signature, tmp_path)
    gated = 4 - minimum
    assert kernels["MatMulIntegerToFloat"] == 4 + 4 * glu + gated + (minimum > 0)
    assert not {"MatMulInteger", "MatMul", "Gemm", "QGemm", "DequantizeLinear", "BiasGelu"} & kernels.keys()
    assert kernels["QuantizeLinear"] == 1 + 4
    assert kernels["Mul"] == 1 + 4 * (activation == "silu" and "QuickGelu" not in kernels) + 4 * glu


@pytest.mark.parametrize("minimum", [0, 4])
@pytest.mark.parametrize("glu", [False, True])
def test_dynamic_products_also_run_in_the_fused_kernel(minimum: int, glu: bool, tmp_path: Path) -> None:
    kernels = optimized_kernels(QuantizedSignature(4, minimum, "gelu", dynamic=1, glu=glu), tmp_path)
    assert kernels["MatMulIntegerToFloat"] == 8 + 4 * glu
    assert not {"MatMulInteger", "MatMul", "Gemm", "BiasGelu"} & kernels.keys()


def test_a_layer_of_four_learners_takes_at_most_70_kernels(tmp_path: Path) -> None:
    assert sum(optimized_kernels(QuantizedSignature(4, 0, "gelu"), tmp_path).values()) <= 70


def optimized_kernels(signature: QuantizedSignature, folder: Path) -> Counter[str]:
    """Number of nodes of each type after ONNX Runtime's optimisation."""
    feeds = random_quantized_inputs(np.random.default_rng(0), (2, 9), 64, 32, signature)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    content = quantized_model(feeds, signature).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_one_session_serves_any_number_of_tokens() -> None:
    signature = QuantizedSignature(4, 1, "gelu")
    feeds = random_quantized_inputs(np.random.default_rng(3), (1, 1), 6, 4, signature)
    session = session_of(quantized_model(feeds, signature, taps=True))
    names = [o.name for o in session.get_outputs()]
    for leading in [(2, 5), (0, 5), (1, 1), (3, 0), (4, 7)]:
        other = random_quantized_inputs(np.random.default_rng(4), leading, 6, 4, signature)
        feeds |= {"x": other["x"], "gate_logits": other["gate_logits"]}
        values = session.run(None, {"x": feeds["x"], "gate_logits": feeds["gate_logits"]})
        assert_integers_hold(dict(zip(names, values, strict=True)), feeds, signature)


def test_old_opsets_are_refused() -> None:
    with pytest.raises(OpError, match="opset 17 or later, not 16"):
        quantized_body(QuantizedSignature(2, 0, "gelu"), 16)
