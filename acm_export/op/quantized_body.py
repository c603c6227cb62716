"""The portable bodies of the int8 operators, in the forms that ONNX Runtime fuses into its fast int8 kernels.

Activations are uint8 with the zero point 128, because products of int8 activations are slow on x86. The tokens are
quantised once, and their rows are gathered as bytes. A product is MatMulInteger, Cast, Mul by a scale and Add of a
bias, which become one MatMulIntegerToFloat; see ``product`` in quantized_sums.py for what the fusion needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.op import body_routing as routing
from acm_export.op import quantized_sums as sums
from acm_export.op.body import ATTRIBUTES
from acm_export.op.body_activation import activation_statements
from acm_export.op.quantized_signature import SMALLEST_RANGE
from acm_export.op.signature import OUTPUTS

if TYPE_CHECKING:
    from onnx import FunctionProto

    from acm_export.op.quantized_signature import QuantizedSignature

_FLOAT, _INT32, _UINT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8


def quantized_body(signature: QuantizedSignature, opset: int, *, taps: bool = False) -> FunctionProto:
    """Build the function that runs one signature on any ONNX Runtime.

    Args:
        signature: The operator and its attributes, which also name the function.
        opset: Version of the default ONNX operator set that the model imports, at least 17.
        taps: Whether the function also returns its integers, see :func:`tap_names`.

    Returns:
        A model-local function in the op's domain.

    Raises:
        OpError: The opset is older than 17.
    """
    statements = [*routing.constants(), *_quantize_tokens(signature, opset)]
    statements += [*_weights(signature, opset)]
    gated = signature.num_choices > 1
    if gated:
        statements += [*routing.count(signature, opset), *routing.sort(signature, opset)]
    else:
        statements += routing.all_counts(signature)
    for learner in range(1, signature.num_learners + 1):
        statements += _hidden(learner, signature, opset)
    if signature.min_learners:
        statements += sums.always(signature)
    if gated:
        statements += sums.gated(signature)
    statements += _finish(signature)
    outputs = [*OUTPUTS, *(tap_names(signature) if taps else ())]
    attributes = (*ATTRIBUTES, "dynamic")
    return routing.function_of(attributes, signature.inputs, outputs, statements, signature, opset)


def tap_names(signature: QuantizedSignature) -> list[str]:
    """The integers that a body with taps returns after y and counts.

    ``rows_q`` is q + 128, uint8 ``[T, D]`` in the order of the tokens. With gated learners, ``order`` is int64 ``[T]``,
    the tokens by count, descending. ``hidden_n`` is qh + 128, uint8 ``[t_n, h]``: of all tokens if learner n always
    runs, else of the first t_n tokens of ``order``.
    """
    order = ["order"] if signature.num_choices > 1 else []
    return ["rows_q", *order, *[f"hidden_{n}" for n in range(1, signature.num_learners + 1)]]


def _quantize_tokens(signature: QuantizedSignature, opset: int) -> list[str]:
    """rows_q [T, D], uint8; with dynamic scales also row_scale [T, 1]. ``unit`` is 1, computed at run time."""
    return [
        f"x_float = Cast <to = {_FLOAT}> (x)",
        "x_scaled = Mul (x_float, x_mult)",
        *routing.flatten("x_scaled", "rows"),
        "scale_one = Constant <value_float = 1.0> ()",
        "zero_128 = Constant <value = uint8 {128}> ()",
        *(
            _quantize_rows("rows", "rows_q", "row_scale", opset)
            if signature.dynamic
            else ["rows_q = QuantizeLinear (rows, scale_one, zero_128)"]
        ),
        "sign = Sign (num_tokens)",
        f"unit = Cast <to = {_FLOAT}> (sign)",
    ]


def _quantize_rows(values: str, out: str, scale: str, opset: int) -> list[str]:
    """OUT [rows, columns], uint8 by the largest absolute value of each row, and SCALE [rows, 1], that value / 127."""
    return [
        f"{out}_abs = Abs ({values})",
        routing.reduce_columns("Max", f"{out}_largest", f"{out}_abs", opset),
        f"{out}_smallest = Constant <value_float = {SMALLEST_RANGE}> ()",
        f"{out}_range = Max ({out}_largest, {out}_smallest)",
        f"{out}_levels = Constant <value_float = 127.0> ()",
        f"{out}_mult = Div ({out}_levels, {out}_range)",
        f"{out}_scaled = Mul ({values}, {out}_mult)",
        f"{scale} = Div ({out}_range, {out}_levels)",
        f"{out} = QuantizeLinear ({out}_scaled, scale_one, zero_128)",
    ]


def _weights(signature: QuantizedSignature, opset: int) -> list[str]:
    """Constants of each learner n, which ONNX Runtime cuts at load time: weights, biases and scales."""
    learners = range(1, signature.num_learners + 1)
    cuts = [("w1", 1), ("s1", 0), ("b1", 0), ("w2", 0), ("s2_each", 0), ("h_scale", 0), ("h_zero_uint8", 0)]
    if signature.glu:
        cuts += [("v1", 1), ("t1", 0), ("c1", 0)]
    return [
        f"s2_each = Concat <axis = 0> ({', '.join(['s2'] * signature.num_learners)})",
        "h_scale = Reciprocal (h_mult)",
        f"h_zero_int = Cast <to = {_INT32}> (h_zero)",
        "to_uint8 = Constant <value = int32[1] {128}> ()",
        "h_zero_shifted = Add (h_zero_int, to_uint8)",
        f"h_zero_uint8 = Cast <to = {_UINT8}> (h_zero_shifted)",
        *[routing.split(f"{name}_", learners, name, axis, opset) for name, axis in cuts],
    ]


def _hidden(learner: int, signature: QuantizedSignature, opset: int) -> list[str]:
    """hidden_n [rows, h], uint8, of the tokens that run the learner; with dynamic scales also their hidden_scale_n."""
    n, g = learner, learner - signature.min_learners
    rows, scale = "rows_q", "row_scale"
    statements: list[str] = []
    if g > 0:
        rows, scale = f"rows_{n}", f"row_scale_{n}"
        statements += [f"order_{n} = Slice (order, zero, total{g}, zero)", f"{rows} = Gather (rows_q, order_{n})"]
        if signature.dynamic:
            statements.append(f"{scale} = Gather (row_scale, order_{n})")
    row_scale = scale if signature.dynamic else None
    active = f"activated_{n}" if signature.glu else f"active_{n}"
    statements += sums.product(rows, f"w1_{n}", f"s1_{n}", f"b1_{n}", f"up_{n}", row_scale=row_scale)
    statements += activation_statements(signature.activation, f"up_{n}", active, opset)
    if signature.glu:
        statements += sums.product(rows, f"v1_{n}", f"t1_{n}", f"c1_{n}", f"value_{n}", row_scale=row_scale)
        statements.append(f"active_{n} = Mul ({active}, value_{n})")
    if signature.dynamic:
        return statements + _quantize_rows(f"active_{n}", f"hidden_{n}", f"hidden_scale_{n}", opset)
    return [
        *statements,
        f"hidden_scale_{n} = Squeeze (h_scale_{n})",
        f"hidden_zero_{n} = Squeeze (h_zero_uint8_{n})",
        f"hidden_{n} = QuantizeLinear (active_{n}, hidden_scale_{n}, hidden_zero_{n})",
    ]


def _finish(signature: QuantizedSignature) -> list[str]:
    """Y, in the type and shape of x."""
    if not signature.min_learners:
        return ["y = CastLike (gated_y, x)"]
    shape = ["x_shape = Shape (x)"]
    if signature.num_choices == 1:
        return [
            *shape,
            f"bias_from = Constant <value_ints = [{signature.num_learners}]> ()",
            "bias_row = Slice (b2, bias_from, end, zero)",
            "y_rows = Add (always, bias_row)",
            "y_float = Reshape <allowzero = 1> (y_rows, x_shape)",
            "y = CastLike (y_float, x)",
        ]
    return [
        *shape,
        "always_y = Reshape <allowzero = 1> (always, x_shape)",
        "y_float = Add (always_y, gated_y)",
        "y = CastLike (y_float, x)",
    ]
