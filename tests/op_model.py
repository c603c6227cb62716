"""One-node models of the operator, for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from acm_export.op import DOMAIN, INPUTS, NAME, VERSION, Signature
from acm_export.op.body import portable_body
from acm_export.op.schema import register

Feeds = dict[str, np.ndarray[Any, Any]]


def random_inputs(
    rng: np.random.Generator, leading: tuple[int, ...], model_dim: int, hidden: int, signature: Signature,
    dtype: Any = np.float32,
) -> Feeds:
    n = signature.num_learners

    def values(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float32).astype(dtype)

    return {
        "x": values(*leading, model_dim),
        "gate_logits": rng.standard_normal((*leading, signature.num_choices)).astype(np.float32),
        "thresholds": np.zeros(n, np.float32),
        "w1": values(model_dim, n * hidden) * dtype(model_dim**-0.5),
        "b1": values(n * hidden),
        "w2": values(n * hidden, model_dim) * dtype(hidden**-0.5),
        "b2": values(n + 1, model_dim),
    }


def one_node_model(feeds: Feeds, signature: Signature, opset: int = 20, *, constants: bool = True) -> onnx.ModelProto:
    """The op alone, weights as initializers (as exported) or as inputs, with its portable body."""
    register()
    node = helper.make_node(
        NAME, list(INPUTS), ["y", "counts"], domain=DOMAIN, num_learners=signature.num_learners,
        min_learners=signature.min_learners, activation=signature.activation,
        plugin_version="1", plugin_namespace="",
    )
    node.overload = signature.overload
    free = ("x", "gate_logits") if constants else INPUTS
    element = helper.np_dtype_to_tensor_dtype(feeds["x"].dtype)
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(feeds[k].dtype), [None] * feeds[k].ndim)
        for k in free
    ]
    outputs = [
        helper.make_tensor_value_info("y", element, [None] * feeds["x"].ndim),
        helper.make_tensor_value_info("counts", TensorProto.INT32, [None] * (feeds["x"].ndim - 1)),
    ]
    weights = [numpy_helper.from_array(feeds[k], k) for k in INPUTS if k not in free]
    graph = helper.make_graph([node], "op", inputs, outputs, weights)
    return helper.make_model(
        graph, ir_version=10, functions=[portable_body(signature, opset)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
    )
