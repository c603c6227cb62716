"""The ONNX schemas of GatedLearners and QuantizedGatedLearners, for the checker and shape inference."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, TypeProto, defs
from onnx.defs import OpSchema

from acm_export.base.errors import OpError
from acm_export.op.precision import FP32, PRECISIONS
from acm_export.op.quantized_signature import (
    FLOAT32_INPUTS,
    INT8_INPUTS,
    MAX_SUM,
    QUANTIZED_NAME,
    QuantizedSignature,
)
from acm_export.op.signature import DOMAIN, NAME, VERSION, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

_INPUT_DOC = {
    "x": "Tokens, shape [..., D].",
    "gate_logits": "One score for each learner count min_learners..N, shape [..., N - min_learners + 1].",
    "thresholds": "A learner runs when its margin exceeds its threshold, shape [N].",
    "w1": "Up projections of all learners, shape [D, N*h].",
    "b1": "Hidden biases of all learners, shape [N*h].",
    "w2": "Down projections of all learners, shape [N*h, D].",
    "b2": "Row k is the whole output bias of a token with count k, shape [N+1, D].",
}
_QUANTIZED_INPUT_DOC = {
    "x": "Tokens, shape [..., D].",
    "gate_logits": _INPUT_DOC["gate_logits"],
    "thresholds": _INPUT_DOC["thresholds"],
    "x_mult": "Multipliers of the channels of x before rounding to int8, shape [D].",
    "w1": "Up projections of all learners, shape [D, N*h].",
    "s1": "Scales of the hidden columns, which include the scale of x, shape [N*h].",
    "b1": "Hidden biases of all learners, shape [N*h].",
    "h_mult": "Multiplier of each learner's hidden values before rounding to int8, shape [N].",
    "h_zero": "Zero point of each learner's hidden values, shape [N].",
    "w2": "Down projections of all learners, shape [N*h, D].",
    "s2": "Scales of the output columns, shape [D].",
    "b2": "Row k is the output bias of a token with count k, zero points folded in, shape [N+1, D].",
}
_FLOAT32_ONLY = ("gate_logits", "thresholds")

Dim = int | str | None


def register() -> None:
    """Register the schemas with ``onnx.defs``, once, until the interpreter exits.

    The registry of ONNX outlives the interpreter, but a schema holds a Python function. Freed after the interpreter, it
    aborts a process that has also created a builder of TensorRT (tested: onnx 1.19 with TensorRT-RTX 1.7.1).
    """
    for name, schema in ((NAME, _float_schema), (QUANTIZED_NAME, _quantized_schema)):
        if not defs.has(name, max_inclusive_version=VERSION, domain=DOMAIN):
            defs.register_schema(schema())
            atexit.register(_deregister, name)


def _deregister(name: str) -> None:
    if defs.has(name, max_inclusive_version=VERSION, domain=DOMAIN):
        defs.deregister_schema(name, VERSION, DOMAIN)


def _float_schema() -> OpSchema:
    types = {name: FP32.onnx_name if name in _FLOAT32_ONLY else "T" for name in _INPUT_DOC}
    doc = "Runs the first k of N learners for each token, k decided by gate logits and thresholds (docs/op.md)."
    return _schema(NAME, doc, _INPUT_DOC, types, [], _infer)


def _quantized_schema() -> OpSchema:
    types = dict.fromkeys(INT8_INPUTS, "tensor(int8)") | dict.fromkeys(FLOAT32_INPUTS, FP32.onnx_name) | {"x": "T"}
    doc = "GatedLearners with int8 weights and activations (docs/op.md, The int8 operator)."
    dynamic = OpSchema.Attribute(
        "dynamic", OpSchema.AttrType.INT, "1: scale each token's activations at run time.", required=False
    )
    return _schema(QUANTIZED_NAME, doc, _QUANTIZED_INPUT_DOC, types, [dynamic], _infer_quantized)


def _schema(
    name: str,
    doc: str,
    inputs: dict[str, str],
    types: dict[str, str],
    more_attributes: list[OpSchema.Attribute],
    infer: Callable[[Any], None],
) -> OpSchema:
    parameter, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc=doc,
        inputs=[parameter(name, types[name], text) for name, text in inputs.items()],
        outputs=[
            parameter("y", "T", "Sum of learners 1..count, shape [..., D]."),
            parameter("counts", "tensor(int32)", "Learners that ran for each token, shape [...]."),
        ],
        type_constraints=[("T", [precision.onnx_name for precision in PRECISIONS.values()], "Type of the tokens.")],
        attributes=[
            attribute("num_learners", kind.INT, "N, 1..64.", required=True),
            attribute("min_learners", kind.INT, "Learners that always run, 0..N.", required=True),
            attribute("activation", kind.STRING, "gelu, gelu_tanh, relu, silu or identity.", required=True),
            attribute("plugin_version", kind.STRING, "For TensorRT; ignored elsewhere.", required=False),
            attribute("plugin_namespace", kind.STRING, "For TensorRT; ignored elsewhere.", required=False),
            *more_attributes,
        ],
    )
    if hasattr(
        schema, "set_type_and_shape_inference_function"
    ):  # onnx 1.17, used with old Python versions on devices, lacks it
        schema.set_type_and_shape_inference_function(infer)
    return schema


def _infer(ctx: Any) -> None:  # Any: onnx does not export the type of the context
    """Infer y (type and shape of x) and counts (int32, shape of x without D); refuse contradicting shapes."""
    try:
        signature = Signature(*_common_attributes(ctx))
        shapes = [_shape(ctx.get_input_type(i)) for i in range(ctx.get_num_inputs())]
        tokens = infer_shapes(shapes, signature)
    except OpError as error:
        raise onnx.shape_inference.InferenceError(f"{NAME}: {error}") from error
    _set_outputs(ctx, tokens, _agree("D", [("x", shapes[0], -1), ("w1", shapes[3], 0), ("w2", shapes[5], 1)]))


def _infer_quantized(ctx: Any) -> None:  # Any: see _infer
    """As :func:`_infer`."""
    try:
        dynamic = ctx.get_attribute("dynamic")
        signature = QuantizedSignature(*_common_attributes(ctx), dynamic=0 if dynamic is None else dynamic.i)
        shapes = [_shape(ctx.get_input_type(i)) for i in range(ctx.get_num_inputs())]
        tokens = infer_quantized_shapes(shapes, signature)
    except OpError as error:
        raise onnx.shape_inference.InferenceError(f"{QUANTIZED_NAME}: {error}") from error
    _set_outputs(ctx, tokens, _agree("D", [("x", shapes[0], -1), ("w1", shapes[4], 0), ("w2", shapes[9], 1)]))


def _common_attributes(ctx: Any) -> tuple[int, int, str]:
    return (
        ctx.get_attribute("num_learners").i,
        ctx.get_attribute("min_learners").i,
        ctx.get_attribute("activation").s.decode(),
    )


def _set_outputs(ctx: Any, tokens: list[Dim] | None, model_dim: Dim) -> None:
    element_type = ctx.get_input_type(0).tensor_type.elem_type
    ctx.set_output_type(0, _tensor_type(element_type, None if tokens is None else [*tokens, model_dim]))
    ctx.set_output_type(1, _tensor_type(TensorProto.INT32, tokens))


def infer_quantized_shapes(shapes: list[list[Dim] | None], signature: QuantizedSignature) -> list[Dim] | None:
    """Check the twelve input shapes of QuantizedGatedLearners and return the leading (token) shape.

    Args:
        shapes: As for :func:`infer_shapes`, in the order of :data:`acm_export.op.quantized_signature.QUANTIZED_INPUTS`.
        signature: Attributes of the op.

    Returns:
        The leading dimensions, or None if no input has a rank.

    Raises:
        OpError: Two known values contradict each other, or D or N*h is too large for an int32 sum.
    """
    x, gate_logits, thresholds, x_mult, w1, s1, b1, h_mult, h_zero, w2, s2, b2 = shapes
    tokens = infer_shapes([x, gate_logits, thresholds, w1, b1, w2, b2], signature)
    for name, shape in (("x_mult", x_mult), ("s1", s1), ("h_mult", h_mult), ("h_zero", h_zero), ("s2", s2)):
        if shape is not None and len(shape) != 1:
            raise OpError(f"{name} has rank {len(shape)}; expected 1")
    model_dim = _agree("D", [("w1", w1, 0), ("x", x, -1), ("w2", w2, 1), ("x_mult", x_mult, 0), ("s2", s2, 0)])
    width = _agree("N*h", [("w1", w1, 1), ("b1", b1, 0), ("w2", w2, 0), ("s1", s1, 0)])
    for name, shape in (("h_mult", h_mult), ("h_zero", h_zero)):
        _expect(name, shape, 0, signature.num_learners, "num_learners")
    for name, size in (("D", model_dim), ("N*h", width)):
        if isinstance(size, int) and size > MAX_SUM:
            raise OpError(f"{name} is {size}; int32 sums of int8 products allow at most {MAX_SUM}")
    return tokens


def infer_shapes(shapes: list[list[Dim] | None], signature: Signature) -> list[Dim] | None:
    """Check the seven input shapes against each other and return the leading (token) shape.

    Args:
        shapes: Dimensions of each input (a number, a name, or None if unknown), or None if its rank is unknown.
        signature: Attributes of the op.

    Returns:
        The leading dimensions, or None if no input has a rank.

    Raises:
        OpError: Two known values contradict each other; the message has both.
    """
    x, gate_logits, thresholds, w1, b1, w2, b2 = shapes
    n = signature.num_learners
    for name, shape, rank in (
        ("thresholds", thresholds, 1),
        ("w1", w1, 2),
        ("b1", b1, 1),
        ("w2", w2, 2),
        ("b2", b2, 2),
    ):
        if shape is not None and len(shape) != rank:
            raise OpError(f"{name} has rank {len(shape)}; expected {rank}")
    for name, shape in (("x", x), ("gate_logits", gate_logits)):
        if shape is not None and not shape:
            raise OpError(f"{name} is a scalar; expected at least one dimension")
    model_dim = _agree("D", [("x", x, -1), ("w1", w1, 0), ("w2", w2, 1), ("b2", b2, 1)])
    width = _agree("N*h", [("w1", w1, 1), ("b1", b1, 0), ("w2", w2, 0)])
    if isinstance(width, int) and (width == 0 or width % n):
        raise OpError(f"N*h is {width}, which is not a positive multiple of num_learners = {n}")
    if model_dim == 0:
        raise OpError("D is 0; a token needs at least one value")
    _expect("gate_logits", gate_logits, -1, signature.num_choices, "num_learners - min_learners + 1")
    _expect("thresholds", thresholds, 0, n, "num_learners")
    _expect("b2", b2, 0, n + 1, "num_learners + 1")
    if x is not None and gate_logits is not None:
        if len(x) != len(gate_logits):
            raise OpError(f"x has rank {len(x)} and gate_logits rank {len(gate_logits)}; they must be equal")
        leading = range(len(x) - 1)
        return [_agree(f"dimension {i}", [("x", x, i), ("gate_logits", gate_logits, i)]) for i in leading]
    known = x if x is not None else gate_logits
    return None if known is None else known[:-1]


def _agree(what: str, places: list[tuple[str, list[Dim] | None, int]]) -> Dim:
    """The value of a dimension that several inputs share; numbers take precedence over names."""
    found = [(name, shape[axis]) for name, shape, axis in places if shape is not None and shape[axis] is not None]
    numbers = [(name, dim) for name, dim in found if isinstance(dim, int)]
    for name, dim in numbers[1:]:
        if dim != numbers[0][1]:
            raise OpError(f"{what} is {numbers[0][1]} in {numbers[0][0]} but {dim} in {name}")
    return (numbers or found or [("", None)])[0][1]


def _expect(name: str, shape: list[Dim] | None, axis: int, expected: int, formula: str) -> None:
    if shape is not None and isinstance(shape[axis], int) and shape[axis] != expected:
        raise OpError(f"{name} has size {shape[axis]} where {formula} = {expected} is expected")


def _shape(type_proto: TypeProto | None) -> list[Dim] | None:
    if type_proto is None or not type_proto.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in type_proto.tensor_type.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(getattr(dim, kind) if kind else None)
    return dims


def _tensor_type(element_type: int, shape: list[Dim] | None) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(element_type, shape)
