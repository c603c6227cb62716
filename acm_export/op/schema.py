"""The ONNX schemas of the operators, for the checker and shape inference."""

from __future__ import annotations

import atexit
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, TypeProto, defs
from onnx.defs import OpSchema

from acm_export.base.errors import OpError
from acm_export.op.precision import FP32, PRECISIONS
from acm_export.op.quantized_signature import INT8_INPUTS, MAX_SUM, QuantizedSignature
from acm_export.op.signature import DOMAIN, VERSION, Signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_INPUT_DOC = {
    "x": "Tokens, shape [..., D].",
    "gate_logits": "One score for each learner count min_learners..N, shape [..., N - min_learners + 1].",
    "thresholds": "A learner runs when its margin exceeds its threshold, shape [N].",
    "w1": "Up projections of all learners, shape [D, N*h].",
    "b1": "Hidden biases of all learners, shape [N*h].",
    "v1": "Projections that the activations of all learners are multiplied by, shape [D, N*h].",
    "c1": "Biases of v1, shape [N*h].",
    "w2": "Down projections of all learners, shape [N*h, D].",
    "b2": "Row k is the whole output bias of a token with count k, shape [N+1, D].",
}
_QUANTIZED_INPUT_DOC = _INPUT_DOC | {
    "x_mult": "Multipliers of the channels of x before rounding to int8, shape [D].",
    "s1": "Scales of the columns of w1, which include the scale of x, shape [N*h].",
    "t1": "Scales of the columns of v1, which include the scale of x, shape [N*h].",
    "h_mult": "Multiplier of each learner's hidden values before rounding to int8, shape [N].",
    "h_zero": "Zero point of each learner's hidden values, shape [N].",
    "s2": "Scales of the output columns, shape [D].",
    "b2": "Row k is the output bias of a token with count k, zero points folded in, shape [N+1, D].",
}
_FLOAT32_ONLY = ("gate_logits", "thresholds")
_RANKS = {"thresholds": 1, "w1": 2, "b1": 1, "v1": 2, "c1": 1, "w2": 2, "b2": 2}
_QUANTIZED_RANKS = {"x_mult": 1, "s1": 1, "t1": 1, "h_mult": 1, "h_zero": 1, "s2": 1}
_MODEL_DIM = (("x", -1), ("w1", 0), ("v1", 0), ("w2", 1), ("b2", 1))
_WIDTH = (("w1", 1), ("b1", 0), ("v1", 1), ("c1", 0), ("w2", 0))

Dim = int | str | None
Shape = list[Dim] | None

_SCHEMAS = tuple(kind(1, 0, "identity", glu=glu) for glu in (False, True) for kind in (Signature, QuantizedSignature))
"""One signature of each operator, by which its schema is made."""


def register() -> None:
    """Register the schemas with ``onnx.defs``, once, until the interpreter exits.

    The registry of ONNX outlives the interpreter, but a schema holds a Python function. Freed after the interpreter, it
    aborts a process that has also created a builder of TensorRT (tested: onnx 1.19 with TensorRT-RTX 1.7.1).
    """
    for signature in _SCHEMAS:
        if not defs.has(signature.operator, max_inclusive_version=VERSION, domain=DOMAIN):
            defs.register_schema(_schema(signature))
            atexit.register(_deregister, signature.operator)


def _deregister(name: str) -> None:
    if defs.has(name, max_inclusive_version=VERSION, domain=DOMAIN):
        defs.deregister_schema(name, VERSION, DOMAIN)


def _schema(signature: Signature) -> OpSchema:
    """The schema of the operator of a signature, whatever the values of the attributes."""
    parameter, attribute, kind = OpSchema.FormalParameter, OpSchema.Attribute, OpSchema.AttrType
    quantized = isinstance(signature, QuantizedSignature)
    docs = _QUANTIZED_INPUT_DOC if quantized else _INPUT_DOC
    schema = OpSchema(
        signature.operator,
        DOMAIN,
        VERSION,
        doc=_doc(signature),
        inputs=[parameter(name, _type(name, quantized=quantized), docs[name]) for name in signature.inputs],
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
            *(
                [attribute("dynamic", kind.INT, "1: scale each token's activations at run time.", required=False)]
                if quantized
                else []
            ),
        ],
    )
    if hasattr(
        schema, "set_type_and_shape_inference_function"
    ):  # onnx 1.17, used with old Python versions on devices, lacks it
        schema.set_type_and_shape_inference_function(partial(_infer, type(signature), glu=signature.glu))
    return schema


def _doc(signature: Signature) -> str:
    kind = "gated linear units" if signature.glu else "two-layer MLPs"
    precision = " in int8" if isinstance(signature, QuantizedSignature) else ""
    return (
        f"Runs learners 1..k ({kind}{precision}) for each token, k decided by gate logits and thresholds (docs/op.md)."
    )


def _type(name: str, *, quantized: bool) -> str:
    if name == "x" or (not quantized and name not in _FLOAT32_ONLY):
        return "T"
    return "tensor(int8)" if quantized and name in INT8_INPUTS else FP32.onnx_name


def _infer(kind: type[Signature], ctx: Any, *, glu: bool) -> None:  # Any: onnx does not export the type of the context
    """Infer y (type and shape of x) and counts (int32, shape of x without D); refuse contradicting shapes."""
    operator = kind(1, 0, "identity", glu=glu).operator
    try:
        signature = _signature_of(kind, ctx, glu=glu)
        shapes = [_shape(ctx.get_input_type(i)) for i in range(ctx.get_num_inputs())]
        tokens = infer_shapes(shapes, signature)
    except OpError as error:
        raise onnx.shape_inference.InferenceError(f"{operator}: {error}") from error
    named = dict(zip(signature.inputs, shapes, strict=True))
    model_dim = _agree("D", _places(named, (("x", -1), ("w1", 0), ("w2", 1))))
    element_type = ctx.get_input_type(0).tensor_type.elem_type
    ctx.set_output_type(0, _tensor_type(element_type, None if tokens is None else [*tokens, model_dim]))
    ctx.set_output_type(1, _tensor_type(TensorProto.INT32, tokens))


def _signature_of(kind: type[Signature], ctx: Any, *, glu: bool) -> Signature:
    values = (
        ctx.get_attribute("num_learners").i,
        ctx.get_attribute("min_learners").i,
        ctx.get_attribute("activation").s.decode(),
    )
    dynamic = ctx.get_attribute("dynamic") if issubclass(kind, QuantizedSignature) else None
    return kind(*values, glu=glu) if dynamic is None else QuantizedSignature(*values, dynamic.i, glu=glu)


def infer_shapes(shapes: Sequence[Shape], signature: Signature) -> list[Dim] | None:
    """Check the input shapes of an operator against each other and return the leading (token) shape.

    Args:
        shapes: Dimensions of each input (a number, a name, or None if unknown), or None if its rank is unknown; in the
            order of ``signature.inputs``.
        signature: The operator and its attributes.

    Returns:
        The leading dimensions, or None if no input has a rank.

    Raises:
        OpError: Two known values contradict each other, or D or N*h is too large for an int32 sum of an int8 operator;
            the message has both values.
    """
    named = dict(zip(signature.inputs, shapes, strict=True))
    n = signature.num_learners
    _check_ranks(named, _RANKS)
    model_dim = _agree("D", _places(named, _MODEL_DIM))
    width = _agree("N*h", _places(named, _WIDTH))
    if isinstance(width, int) and (width == 0 or width % n):
        raise OpError(f"N*h is {width}, which is not a positive multiple of num_learners = {n}")
    if model_dim == 0:
        raise OpError("D is 0; a token needs at least one value")
    _expect("gate_logits", named["gate_logits"], -1, signature.num_choices, "num_learners - min_learners + 1")
    _expect("thresholds", named["thresholds"], 0, n, "num_learners")
    _expect("b2", named["b2"], 0, n + 1, "num_learners + 1")
    tokens = _tokens(named["x"], named["gate_logits"])
    if isinstance(signature, QuantizedSignature):
        _check_quantized(named, signature)
    return tokens


def _check_ranks(named: Mapping[str, Shape], ranks: Mapping[str, int]) -> None:
    for name, rank in ranks.items():
        shape = named.get(name)
        if shape is not None and len(shape) != rank:
            raise OpError(f"{name} has rank {len(shape)}; expected {rank}")
    for name in ("x", "gate_logits"):
        if named[name] == []:
            raise OpError(f"{name} is a scalar; expected at least one dimension")


def _tokens(x: Shape, gate_logits: Shape) -> list[Dim] | None:
    """The leading dimensions that tokens and gate logits share."""
    if x is not None and gate_logits is not None:
        if len(x) != len(gate_logits):
            raise OpError(f"x has rank {len(x)} and gate_logits rank {len(gate_logits)}; they must be equal")
        leading = range(len(x) - 1)
        return [_agree(f"dimension {i}", [("x", x, i), ("gate_logits", gate_logits, i)]) for i in leading]
    known = x if x is not None else gate_logits
    return None if known is None else known[:-1]


def _check_quantized(named: Mapping[str, Shape], signature: QuantizedSignature) -> None:
    _check_ranks(named, _QUANTIZED_RANKS)
    sizes = {
        "D": _agree("D", _places(named, (("w1", 0), *_MODEL_DIM, ("x_mult", 0), ("s2", 0)))),
        "N*h": _agree("N*h", _places(named, (*_WIDTH, ("s1", 0), ("t1", 0)))),
    }
    for name in ("h_mult", "h_zero"):
        _expect(name, named[name], 0, signature.num_learners, "num_learners")
    for name, size in sizes.items():
        if isinstance(size, int) and size > MAX_SUM:
            raise OpError(f"{name} is {size}; int32 sums of int8 products allow at most {MAX_SUM}")


def _places(named: Mapping[str, Shape], axes: Sequence[tuple[str, int]]) -> list[tuple[str, Shape, int]]:
    return [(name, named[name], axis) for name, axis in axes if name in named]


def _agree(what: str, places: list[tuple[str, Shape, int]]) -> Dim:
    """The value of a dimension that several inputs share; numbers take precedence over names."""
    found = [(name, shape[axis]) for name, shape, axis in places if shape is not None and shape[axis] is not None]
    numbers = [(name, dim) for name, dim in found if isinstance(dim, int)]
    for name, dim in numbers[1:]:
        if dim != numbers[0][1]:
            raise OpError(f"{what} is {numbers[0][1]} in {numbers[0][0]} but {dim} in {name}")
    return (numbers or found or [("", None)])[0][1]


def _expect(name: str, shape: Shape, axis: int, expected: int, formula: str) -> None:
    if shape is not None and isinstance(shape[axis], int) and shape[axis] != expected:
        raise OpError(f"{name} has size {shape[axis]} where {formula} = {expected} is expected")


def _shape(type_proto: TypeProto | None) -> Shape:
    if type_proto is None or not type_proto.tensor_type.HasField("shape"):
        return None
    dims: list[Dim] = []
    for dim in type_proto.tensor_type.shape.dim:
        kind = dim.WhichOneof("value")
        dims.append(getattr(dim, kind) if kind else None)
    return dims


def _tensor_type(element_type: int, shape: Shape) -> TypeProto:
    return onnx.helper.make_tensor_type_proto(element_type, shape)
