"""One-node models of the int8 operator, and checks of its integers against a loop over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acm_export.op import DOMAIN, VERSION, QuantizedSignature
from acm_export.op.quantized_body import quantized_body, tap_names
from acm_export.op.quantized_reference import quantized_gated_learners
from acm_export.op.reference import activate
from acm_export.op.routing import learner_counts
from acm_export.op.schema import register

if TYPE_CHECKING:
    from op_model import Feeds

ROUNDING = {"float32": 1e-5, "float16": 1e-3}
"""Error of y relative to its largest term: float32 sums, and one rounding to the type of x."""


def random_quantized_inputs(
    rng: np.random.Generator,
    leading: tuple[int, ...],
    model_dim: int,
    hidden: int,
    signature: QuantizedSignature,
    dtype: Any = np.float32,
) -> Feeds:
    """Draw inputs of the op by name; activations use most of the int8 range, and some of them clip."""
    n = signature.num_learners

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float32)

    def int8(*shape: int) -> np.ndarray[Any, Any]:
        return rng.integers(-127, 128, shape).astype(np.int8)

    dynamic = signature.dynamic
    glu = {
        "v1": int8(model_dim, n * hidden),
        "t1": np.exp(normal(n * hidden) / 3) * np.float32((1 if dynamic else 2) * model_dim**-0.5 / (50 * 70)),
        "c1": normal(n * hidden) / 4,
    }
    feeds = {
        "x": normal(*leading, model_dim).astype(dtype),
        "gate_logits": normal(*leading, signature.num_choices),
        "thresholds": np.zeros(n, np.float32),
        "x_mult": np.float32(50) * np.exp(normal(model_dim) / 3),
        "w1": int8(model_dim, n * hidden),
        "s1": np.exp(normal(n * hidden) / 3) * np.float32((1 if dynamic else 2) * model_dim**-0.5 / (50 * 70)),
        "b1": normal(n * hidden) / 4,
        "h_mult": np.ones(n, np.float32) if dynamic else np.float32(40) * np.exp(normal(n) / 3),
        "h_zero": np.zeros(n, np.int8) if dynamic else rng.integers(-128, -60, n).astype(np.int8),
        "w2": int8(n * hidden, model_dim),
        "s2": np.exp(normal(model_dim) / 3) * np.float32(1e-4),
        "b2": normal(n + 1, model_dim),
    }
    return {name: (feeds | glu)[name] for name in signature.inputs}


def quantized_model(
    feeds: Feeds, signature: QuantizedSignature, opset: int = 20, *, constants: bool = True, taps: bool = False
) -> onnx.ModelProto:
    """Make a model of the op alone with its portable body; weights are initializers, as exported, or inputs."""
    register()
    free = ("x", "gate_logits") if constants else signature.inputs
    more = tap_names(signature) if taps else []
    inputs, attributes = list(signature.inputs), signature.attributes
    node = helper.make_node(signature.function_name, inputs, ["y", "counts", *more], domain=DOMAIN, **attributes)
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
    values = [helper.make_tensor_value_info(k, kinds[k], [None] * feeds[k].ndim) for k in free]
    types = {"y": kinds["x"], "counts": TensorProto.INT32, "order": TensorProto.INT64}
    outputs = [helper.make_tensor_value_info(k, types.get(k, TensorProto.UINT8), None) for k in ("y", "counts", *more)]
    weights = [numpy_helper.from_array(feeds[k], k) for k in signature.inputs if k not in free]
    graph = helper.make_graph([node], "op", values, outputs, weights)
    return helper.make_model(
        graph,
        ir_version=10,
        functions=[quantized_body(signature, opset, taps=taps)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
    )


def assert_integers_hold(ran: dict[str, Any], feeds: Feeds, signature: QuantizedSignature) -> None:
    """Assert docs/op.md on the outputs of a model with taps: counts, q, both integer sums, and qh to within 1."""
    counts = learner_counts(feeds["gate_logits"], feeds["thresholds"], signature.min_learners)
    np.testing.assert_array_equal(ran["counts"], counts)
    assert ran["counts"].dtype == np.int32
    assert ran["y"].shape == feeds["x"].shape
    assert ran["y"].dtype == feeds["x"].dtype
    x = feeds["x"].astype(np.float32).reshape(-1, feeds["x"].shape[-1])
    y = ran["y"].astype(np.float64).reshape(x.shape)
    tokens = {n: np.arange(len(x)) for n in range(1, signature.num_learners + 1)}
    if "order" in ran:
        for n in range(signature.min_learners + 1, signature.num_learners + 1):
            tokens[n] = ran["order"][: len(ran[f"hidden_{n}"])]
            assert set(tokens[n].tolist()) == set(np.flatnonzero(counts.ravel() >= n).tolist())
    for token, count in enumerate(counts.ravel()):
        _assert_token(token, int(count), x[token], y[token], ran, tokens, feeds, signature)


def _assert_token(
    token: int,
    count: int,
    x: Any,
    y: Any,
    ran: dict[str, Any],
    tokens: dict[int, Any],
    feeds: Feeds,
    signature: QuantizedSignature,
) -> None:
    scaled = x * feeds["x_mult"]
    factor = 1.0
    if signature.dynamic:
        largest = np.maximum(np.abs(scaled).max(), np.float32(1e-30))
        scaled, factor = scaled * (np.float32(127) / largest), float(largest) / 127
    q = np.clip(np.rint(scaled), -128, 127).astype(np.int64)
    if np.isfinite(x).all():
        np.testing.assert_array_equal(ran["rows_q"][token].astype(np.int64) - 128, q)
    h = feeds["b1"].size // signature.num_learners
    total = np.zeros(len(x))
    largest_term = np.abs(feeds["b2"][count]).max(initial=0)
    for n in range(1, count + 1):
        part = slice((n - 1) * h, n * h)
        u = (q @ feeds["w1"][:, part].astype(np.int64)) * factor * feeds["s1"][part].astype(np.float64)
        active = activate(signature.activation, u + feeds["b1"][part])
        reach = max(1.0, float(np.abs(u).max()))
        if signature.glu:
            sums = q @ feeds["v1"][:, part].astype(np.int64)
            values = sums * factor * feeds["t1"][part].astype(np.float64) + feeds["c1"][part]
            active = active * values
            reach *= 2 * max(1.0, float(np.abs(values).max()))
        (place,) = np.flatnonzero(tokens[n] == token)
        qh = ran[f"hidden_{n}"][place].astype(np.int64) - 128
        mult, zero, back = float(feeds["h_mult"][n - 1]), int(feeds["h_zero"][n - 1]), 1.0
        if signature.dynamic:
            largest = max(float(np.abs(active).max()), 1e-30)
            mult, zero, back = 127 / largest, 0, largest / 127
        exact = np.clip(np.rint(active * mult) + zero, -128, 127)
        if np.isfinite(x).all():
            # float32 activations are wrong by a few 1e-7 of their argument, which counts if all of them are tiny
            steps = 1 + mult * 2e-6 * reach * signature.dynamic
            assert np.abs(qh - exact).max(initial=0) <= steps
        term = back * (qh @ feeds["w2"][part].astype(np.int64)) * feeds["s2"]
        total += term
        largest_term = max(largest_term, np.abs(term).max(initial=0))
    expected = total + feeds["b2"][count]
    tolerance = ROUNDING[str(feeds["x"].dtype)] * max(1.0, largest_term, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)


def assert_close_to_loop(y: Any, counts: Any, feeds: Feeds, signature: QuantizedSignature, steps: int) -> None:
    """Assert that y is what the reference computes, but for ``steps`` moves of single hidden values by 1."""
    expected, expected_counts = quantized_gated_learners(**feeds, signature=signature)
    np.testing.assert_array_equal(counts, expected_counts)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    step = 127 * float(feeds["s2"].max()) * (1.0 if not signature.dynamic else 10.0)
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=0, atol=steps * step + 1e-5 * scale)
