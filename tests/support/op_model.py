"""One-node models of the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from acm_export.op import DOMAIN, OUTPUTS, VERSION, Signature
from acm_export.op.body import portable_body
from acm_export.op.reference import gated_learners
from acm_export.op.schema import register

Feeds = dict[str, np.ndarray[Any, Any]]

TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}
"""Largest error relative to the largest value of the float64 loop (or to 1). A unit in the last place of y and of each
hidden value is rounded away: 2**-11 in float16 and 2**-8 in bfloat16, a few of them where learners add up."""


def random_inputs(
    rng: np.random.Generator,
    leading: tuple[int, ...],
    model_dim: int,
    hidden: int,
    signature: Signature,
    dtype: Any = np.float32,
) -> Feeds:
    """Draw inputs of the op by name: thresholds 0, the rest normal and scaled to keep y near 1."""
    scales = {"w1": dtype(model_dim**-0.5), "v1": dtype(model_dim**-0.5), "w2": dtype(hidden**-0.5)}

    def values(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)

    return {
        "x": values(*leading, model_dim),
        "gate_logits": rng.standard_normal((*leading, signature.num_choices)).astype(np.float32),
        "thresholds": np.zeros(signature.num_learners, np.float32),
        **{
            name: values(*shape) * scales.get(name, dtype(1))
            for name, shape in signature.weight_shapes(model_dim, hidden).items()
        },
    }


def logits_of(counts: Any, signature: Signature) -> np.ndarray[Any, Any]:
    """Return gate logits ``[..., C]`` that give exactly these learner counts at threshold 0."""
    choices = np.arange(signature.num_choices) + signature.min_learners
    return (np.asarray(counts)[..., None] == choices).astype(np.float32)


def op_node(signature: Signature, suffix: str = "") -> Any:
    """Make a node as an export writes it; ``suffix`` is appended to the names of its inputs and outputs."""
    return helper.make_node(
        signature.function_name,
        [name + suffix for name in signature.inputs],
        [name + suffix for name in OUTPUTS],
        domain=DOMAIN,
        num_learners=signature.num_learners,
        min_learners=signature.min_learners,
        activation=signature.activation,
        plugin_version="1",
        plugin_namespace="",
    )


def one_node_model(feeds: Feeds, signature: Signature, opset: int = 20, *, constants: bool = True) -> onnx.ModelProto:
    """Make a model of the op alone with its portable body; weights are initializers, as exported, or inputs."""
    register()
    free = ("x", "gate_logits") if constants else signature.inputs
    element = helper.np_dtype_to_tensor_dtype(feeds["x"].dtype)
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(feeds[k].dtype), [None] * feeds[k].ndim)
        for k in free
    ]
    outputs = [
        helper.make_tensor_value_info("y", element, [None] * feeds["x"].ndim),
        helper.make_tensor_value_info("counts", TensorProto.INT32, [None] * (feeds["x"].ndim - 1)),
    ]
    weights = [numpy_helper.from_array(feeds[k], k) for k in signature.inputs if k not in free]
    graph = helper.make_graph([op_node(signature)], "op", inputs, outputs, weights)
    return helper.make_model(
        graph,
        ir_version=10,
        functions=[portable_body(signature, opset)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
    )


def session_of(model: onnx.ModelProto, profile: str | None = None) -> onnxruntime.InferenceSession:
    """Open an ONNX Runtime session on one core; ``profile`` is the prefix of its profile's file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_body(
    feeds: Feeds, signature: Signature, opset: int = 20, *, constants: bool = True
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return y and counts of the portable body in ONNX Runtime."""
    model = one_node_model(feeds, signature, opset, constants=constants)
    given = {value.name: feeds[value.name] for value in model.graph.input}
    y, counts = session_of(model).run(["y", "counts"], given)
    return y, counts


def assert_matches_loop(y: Any, counts: Any, feeds: Feeds, signature: Signature, *, dtype: str | None = None) -> None:
    """Assert that counts equal those of the float64 loop, and that y is within the tolerance of its dtype."""
    expected_y, expected_counts = gated_learners(**feeds, signature=signature)
    assert counts.dtype == np.int32
    assert counts.shape == expected_counts.shape
    assert y.shape == expected_y.shape
    np.testing.assert_array_equal(counts, expected_counts)
    finite = expected_y[np.isfinite(expected_y)]
    scale = max(1.0, float(np.abs(finite).max(initial=0)))
    tolerance = TOLERANCE[dtype or str(feeds["x"].dtype)] * scale
    np.testing.assert_allclose(y.astype(np.float64), expected_y, rtol=0, atol=tolerance, equal_nan=True)
