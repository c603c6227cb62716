"""The portable body: GatedLearners as an ONNX function in standard operators.

Tokens are sorted by learner count, descending, so that the tokens of learner n are a prefix. Each learner runs one
MatMul-activation-MatMul on its prefix, from the last learner to the first, and adds to the running sum of the shorter
prefix of the learner after it. The sum of a token starts with the bias row of its own count. A Gather with the inverse
permutation restores the order. Learners that always run need no routing and run as one dense MLP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.op import body_routing as routing
from acm_export.op.body_activation import activation_statements
from acm_export.op.signature import INPUTS, OUTPUTS

if TYPE_CHECKING:
    from onnx import FunctionProto

    from acm_export.op.signature import Signature

ATTRIBUTES = ("num_learners", "min_learners", "activation", "plugin_version", "plugin_namespace")


def portable_body(signature: Signature, opset: int) -> FunctionProto:
    """Build the function that runs one signature on any ONNX Runtime.

    Args:
        signature: Attributes of the op, which also name the function.
        opset: Version of the default ONNX operator set that the model imports, at least 17.

    Returns:
        A model-local function in the op's domain.

    Raises:
        OpError: The opset is older than 17.
    """
    statements = [*routing.constants(), *routing.flatten("x", "rows")]
    if signature.min_learners:
        statements += _always(signature, opset)
    if signature.num_choices == 1:
        statements += _finish_ungated(signature)
    else:
        statements += [*routing.count(signature, opset), *routing.sort(signature, opset), *_tokens(signature)]
        statements += [*_weights(signature, opset), *_run(signature, opset), *_restore(signature)]
    return routing.function_of(ATTRIBUTES, INPUTS, OUTPUTS, statements, signature, opset)


def _always(signature: Signature, opset: int) -> list[str]:
    """Learners 1..min_learners as one dense MLP over all tokens, without output bias: always [T, D], float32."""
    return [
        *routing.always_end(signature),
        "w1_always = Slice (w1, zero, always_end, one)",
        "b1_always = Slice (b1, zero, always_end, zero)",
        "w2_always = Slice (w2, zero, always_end, zero)",
        *_learner("rows", "w1_always", "b1_always", "w2_always", "always", signature.activation, opset),
        "always = MatMul (always_hidden, always_w2)",
    ]


def _finish_ungated(signature: Signature) -> list[str]:
    """For min_learners = N: no routing."""
    return [
        "bias_row = Slice (b2, n, end, zero)",
        f"bias = Cast <to = {TensorProto.FLOAT}> (bias_row)",
        "y_rows = Add (always, bias)",
        "y_typed = CastLike (y_rows, x)",
        "x_shape = Shape (x)",
        "y = Reshape <allowzero = 1> (y_typed, x_shape)",
        *routing.all_counts(signature),
    ]


def _tokens(signature: Signature) -> list[str]:
    """tokens_g [total_g, D], the tokens of each gated learner."""
    return [
        "active = Slice (order, zero, total1, zero)",
        "tokens1 = Gather (rows, active)",
        *[f"tokens{g} = Slice (tokens1, zero, total{g}, zero)" for g in routing.gated_learners(signature)[1:]],
    ]


def _weights(signature: Signature, opset: int) -> list[str]:
    """w1_g, b1_g, w2_g and the bias rows, which ONNX Runtime splits at load time because they are constants."""
    learners = routing.gated_learners(signature)
    cuts = [("w1", 1), ("b1", 0), ("w2", 0)]
    statements = []
    for name, axis in cuts:
        source = name
        if signature.min_learners:
            source = f"{name}_gated"
            statements.append(f"{source} = Slice ({name}, always_end, end, {'one' if axis else 'zero'})")
        statements.append(routing.split(f"{name}_", learners, source, axis, opset))
    return [
        *statements,
        f"b2_float = Cast <to = {TensorProto.FLOAT}> (b2)",
        "b2_gated = Slice (b2_float, first_gated, end, zero)",
        routing.split("bias", [0, *learners], "b2_gated", 0, opset),
    ]


def _run(signature: Signature, opset: int) -> list[str]:
    """Learners from last to first: sum_g [total_g, D], float32, whole rows of output in sorted order."""
    learners = routing.gated_learners(signature)
    statements = []
    for g in learners:
        weights = (f"w1_{g}", f"b1_{g}", f"w2_{g}")
        statements += _learner(f"tokens{g}", *weights, f"learner{g}", signature.activation, opset)
    for g in reversed(learners):
        start = f"bias{g}"
        if g != learners[-1]:
            statements += [
                f"leaving{g} = Sub (total{g}, total{g + 1})",
                f"leaving_shape{g} = Concat <axis = 0> (leaving{g}, model_dim)",
                f"leaving_bias{g} = Expand (bias{g}, leaving_shape{g})",
                f"start{g} = Concat <axis = 0> (sum{g + 1}, leaving_bias{g})",
            ]
            start = f"start{g}"
        statements.append(f"sum{g} = Gemm (learner{g}_hidden, learner{g}_w2, {start})")
    return statements


def _restore(signature: Signature) -> list[str]:
    statements = [
        "rows_out = Concat <axis = 0> (sum1, bias0)",
        *routing.positions(),
        *routing.restore("rows_out", "gated_y"),
    ]
    if signature.min_learners:
        statements += [
            "x_shape = Shape (x)",
            "always_y = Reshape <allowzero = 1> (always, x_shape)",
            "y_float = Add (always_y, gated_y)",
            "y = CastLike (y_float, x)",
        ]
    else:
        statements.append("y = CastLike (gated_y, x)")
    return statements


def _learner(tokens: str, w1: str, b1: str, w2: str, name: str, activation: str, opset: int) -> list[str]:
    """NAME_hidden [rows, h] and NAME_w2 [h, D]: float32, so that the sum over learners is float32 for every T."""
    return [
        f"{name}_up = Gemm ({tokens}, {w1}, {b1})",
        *activation_statements(activation, f"{name}_up", f"{name}_act", opset),
        f"{name}_hidden = Cast <to = {TensorProto.FLOAT}> ({name}_act)",
        f"{name}_w2 = Cast <to = {TensorProto.FLOAT}> ({w2})",
    ]
