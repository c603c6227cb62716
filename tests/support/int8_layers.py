"""One int8 layer as a runnable model, for checks of its integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from quantized_files import int8_inputs
from quantized_op import random_quantized_inputs

from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting, Source
from acm_export.onnx_file.quantization_record import Quantization
from acm_export.op import DOMAIN, QuantizedSignature
from acm_export.op.quantized_body import quantized_body

NAN = float("nan")


def layer_model(
    signature: QuantizedSignature, leading: tuple[int, ...], seed: int, dtype: Any = np.float32, bias: float = 0
) -> tuple[onnx.ModelProto, Manifest, dict[str, Any]]:
    """One int8 layer with random weights as a runnable copy, its manifest, and feeds with awkward values.

    ``bias`` is added to the arguments of the activation.
    """
    rng = np.random.default_rng(seed)
    model_dim, hidden, learners = 7, 5, signature.num_learners
    entry = LayerEntry(
        "l", model_dim, learners, hidden, signature.min_learners, signature.activation, 1, 1, 1,
        "dynamic" if signature.dynamic else "static", signature.glu,
    )  # fmt: skip
    shapes = ((model_dim, learners * hidden), (learners * hidden,), (learners * hidden, model_dim), (learners + 1, 7))
    floats = [rng.standard_normal(shape) for shape in shapes]
    floats[1] += bias
    x = rng.standard_normal((*leading, model_dim)).astype(dtype)
    logits = rng.standard_normal((*leading, signature.num_choices)).astype(np.float32)
    sample = rng.standard_normal((50, model_dim))
    constants = int8_inputs(entry, sample, floats, dynamic=bool(signature.dynamic))
    if signature.glu:
        drawn = random_quantized_inputs(rng, leading, model_dim, hidden, signature)
        constants = {name: drawn[name] for name in signature.inputs[3:]}
    if x.size > 14:
        x.reshape(-1, model_dim)[0, 2] = NAN
        x.reshape(-1, model_dim)[1] *= 50  # clamped
        logits.reshape(-1, signature.num_choices)[1, 0] = NAN
    feeds = {"x": x, "gate_logits": logits}
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in feeds.values()]
    name = signature.function_name
    node = helper.make_node(name, signature.inputs, ["y", "counts/l"], "l", domain=DOMAIN, **signature.attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [
            *(helper.make_tensor_value_info(n, k, v.shape) for (n, v), k in zip(feeds.items(), kinds, strict=True)),
            helper.make_tensor_value_info("thresholds", TensorProto.FLOAT, [learners]),
        ],
        [helper.make_tensor_value_info("counts/l", TensorProto.INT32, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, ir_version=10, functions=[quantized_body(signature, 20)], opset_imports=opsets)
    quantization = Quantization("dynamic" if signature.dynamic else "static", 8, (), (), (), None, None, 0)
    manifest = Manifest(
        Source("s"), "fp16" if dtype == np.float16 else "fp32", "portable", 20, (entry,), 0, {}, Setting(), "p",
        quantization=quantization,
    )  # fmt: skip
    return model, manifest, feeds
