"""The int8 torch op on a CPU, compared with the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_int8 import Feeds, exact_int8_inputs, exact_y, random_int8_inputs
from op_model import logits_of
from property_tests import examples

from acm_export.base.errors import OpError
from acm_export.modules import quantized_gated_learners
from acm_export.op import ACTIVATIONS
from acm_export.op.quantized_reference import quantized_gated_learners as reference
from acm_export.op.quantized_signature import QUANTIZED_INPUTS, QuantizedSignature

INF, NAN = float("inf"), float("nan")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROUNDING = {"float32": 2.0**-22, "float16": 2.0**-10, "bfloat16": 2.0**-7}
OP = torch.ops.acm.quantized_gated_learners.default


def numpy_dtype(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name).type


def to_torch(feeds: Feeds) -> list[torch.Tensor]:
    x = torch.from_numpy(feeds["x"].astype(np.float32)).to(DTYPES[str(feeds["x"].dtype)])
    return [x, *(torch.from_numpy(feeds[name]) for name in QUANTIZED_INPUTS[1:])]


def attributes(signature: QuantizedSignature) -> tuple[int, int, str, int]:
    return signature.num_learners, signature.min_learners, signature.activation, signature.dynamic


def run_op(feeds: Feeds, signature: QuantizedSignature) -> tuple[Any, Any]:
    y, counts = quantized_gated_learners(*to_torch(feeds), *attributes(signature))
    assert y.dtype == DTYPES[str(feeds["x"].dtype)]
    assert counts.dtype == torch.int32
    return y.float().numpy(), counts.numpy()


def assert_matches_reference(feeds: Feeds, signature: QuantizedSignature) -> None:
    """Counts are equal; y differs by rounding, or in few places by single steps of hidden values."""
    y, counts = run_op(feeds, signature)
    expected, expected_counts = reference(**feeds, signature=signature)
    np.testing.assert_array_equal(counts, expected_counts)
    assert y.shape == expected.shape
    error = np.abs(y - expected)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    rounding = 4 * ROUNDING[str(feeds["x"].dtype)] * scale
    step = 127 * float(feeds["s2"].max()) * (float(error.size > 0) + 2 * signature.dynamic)
    assert error.max(initial=0) <= rounding + 2 * step
    if error.size > 50:
        assert np.mean(error > rounding) < 0.1


@given(
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, INF, -INF]),
    st.sampled_from([0.0, NAN, INF, -INF]),
)
@examples(150)
def test_the_op_matches_the_reference(
    dtype: str,
    n: int,
    minimum: int,
    activation: str,
    dynamic: bool,
    leading: tuple[int, ...],
    seed: int,
    tau: float,
    logit: float,
) -> None:
    signature = QuantizedSignature(n, min(minimum, n), activation, int(dynamic))
    rng = np.random.default_rng(seed)
    feeds = random_int8_inputs(rng, leading, 5, 3, signature, numpy_dtype(dtype))
    feeds["thresholds"][rng.integers(n)] = tau
    if feeds["gate_logits"].size:
        feeds["gate_logits"].flat[rng.integers(feeds["gate_logits"].size)] = logit
    assert_matches_reference(feeds, signature)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_y_is_exact_where_the_activation_is(dtype: str, activation: str) -> None:
    for seed in range(20):
        signature = QuantizedSignature(3, seed % 4, activation)
        feeds = exact_int8_inputs(np.random.default_rng(seed), (40,), 50, 36, signature, numpy_dtype(dtype))
        np.testing.assert_array_equal(run_op(feeds, signature)[0], exact_y(feeds, signature).astype(np.float32))


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("minimum", [0, 63, 64])
def test_sixty_four_learners(minimum: int, dynamic: int) -> None:
    signature = QuantizedSignature(64, minimum, "silu", dynamic)
    feeds = random_int8_inputs(np.random.default_rng(0), (70,), 4, 2, signature)
    feeds["gate_logits"] = logits_of(np.arange(70) % (65 - minimum) + minimum, signature)
    assert_matches_reference(feeds, signature)


def test_sums_that_float32_cannot_hold_are_exact() -> None:
    signature, width = QuantizedSignature(1, 1, "identity"), 130_000
    feeds = random_int8_inputs(np.random.default_rng(0), (1,), 1, width, signature)
    feeds["x"][:], feeds["b1"][:], feeds["h_zero"][:] = 0, 1e4, 0
    feeds["w2"][:] = np.where(np.arange(width) < 126_543, 127, 126)[:, None]
    total = int(feeds["w2"].astype(np.int64).sum()) * 127
    feeds["s2"][:], feeds["b2"][:] = 1, -np.float32(total)
    assert run_op(feeds, signature)[0].item() == 0  # a float32 sum would be off by multiples of 128


@pytest.mark.parametrize("dynamic", [0, 1])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_token_that_is_not_finite_changes_no_other(value: float, dynamic: int) -> None:
    signature = QuantizedSignature(3, 1, "gelu", dynamic)
    feeds = random_int8_inputs(np.random.default_rng(1), (20,), 12, 8, signature)
    expected, expected_counts = run_op(feeds, signature)
    feeds["x"][3, ::2] = value
    y, counts = run_op(feeds, signature)
    others = np.arange(20) != 3
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_array_equal(y[others], expected[others])


def test_infinities_are_clamped() -> None:
    signature = QuantizedSignature(2, 2, "relu")
    feeds = random_int8_inputs(np.random.default_rng(2), (6,), 12, 8, signature)
    feeds["x"][0], feeds["x"][1] = INF, -INF
    assert_matches_reference(feeds, signature)


def test_a_token_depends_on_no_other_with_dynamic_scales() -> None:
    signature = QuantizedSignature(3, 0, "gelu", dynamic=1)
    feeds = random_int8_inputs(np.random.default_rng(3), (20,), 12, 8, signature)
    feeds["x"] *= np.exp(np.random.default_rng(4).uniform(-6, 6, (20, 1))).astype(np.float32)
    together, _ = run_op(feeds, signature)
    for token in range(20):
        alone, _ = run_op(feeds | {name: feeds[name][[token]] for name in ("x", "gate_logits")}, signature)
        np.testing.assert_allclose(alone[0], together[token], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dynamic", [0, 1])
def test_zeros_give_the_bias(dynamic: int) -> None:
    signature = QuantizedSignature(2, 2, "relu", dynamic)
    feeds = random_int8_inputs(np.random.default_rng(5), (4,), 12, 8, signature)
    feeds["x"][:], feeds["b1"][:], feeds["h_zero"][:] = 0, -1, 0
    np.testing.assert_array_equal(run_op(feeds, signature)[0], np.repeat(feeds["b2"][2:], 4, axis=0))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("w1", lambda t: t.float(), "w1 is torch.float32; expected torch.int8"),
        ("h_zero", lambda t: t.int(), "h_zero is torch.int32; expected torch.int8"),
        ("s2", lambda t: t.half(), "s2 is torch.float16; expected torch.float32"),
        ("x", lambda t: t.double(), "x is torch.float64"),
        ("x_mult", lambda t: t[:-1], "11 in x_mult"),
        ("h_mult", lambda t: t[:-1], "h_mult has size 1"),
        ("s1", lambda t: t[:, None], "s1 has rank 2"),
    ],
)
def test_errors_name_the_input_and_both_values(name: str, change: Any, message: str) -> None:
    signature = QuantizedSignature(2, 0, "gelu")
    tensors = to_torch(random_int8_inputs(np.random.default_rng(0), (4,), 12, 8, signature))
    index = QUANTIZED_INPUTS.index(name)
    tensors[index] = change(tensors[index])
    with pytest.raises(OpError, match=message):
        quantized_gated_learners(*tensors, *attributes(signature))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_op_passes_the_checks_of_pytorch(dtype: str) -> None:
    signature = QuantizedSignature(2, 0, "gelu")
    feeds = random_int8_inputs(np.random.default_rng(0), (2, 3), 12, 8, signature, numpy_dtype(dtype))
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(OP, (*to_torch(feeds), *attributes(signature)), test_utils=checks)


def test_transposed_weights_give_the_same_values() -> None:
    signature = QuantizedSignature(2, 0, "gelu")
    tensors = to_torch(random_int8_inputs(np.random.default_rng(0), (9,), 12, 8, signature))
    expected, _ = quantized_gated_learners(*tensors, *attributes(signature))
    for index in (4, 9):
        tensors[index] = tensors[index].t().contiguous().t()
    y, _ = quantized_gated_learners(*tensors, *attributes(signature))
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
