"""The portable body: GatedLearners and GLUGatedLearners as ONNX functions in standard operators.

Tokens are sorted by learner count, descending, so that the tokens of learner n are a prefix. Each learner runs one
MatMul-activation-MatMul on its prefix, from the last learner to the first, and adds to the running sum of the shorter
prefix of the learner after it. The sum of a token starts with the bias row of its own count. A Gather with the inverse
permutation restores the order. Learners that always run need no routing and run as one dense MLP. A learner of
GLUGatedLearners has a second MatMul on the same tokens, whose result multiplies the activations; all of it is float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.op import body_routing as routing
from acm_export.op.body_activation import activation_statements
from acm_export.op.signature import OUTPUTS

if TYPE_CHECKING:
    from onnx import FunctionProto

    from acm_export.op.signature import Signature

ATTRIBUTES = ("num_learners", "min_learners", "activation", "plugin_version", "plugin_namespace")


def portable_body(signature: Signature, opset: int) -> FunctionProto:
    """Build the function that runs one signature on any ONNX Runtime.

    Args:
        signature: The operator and its attributes, which also name the function.
        opset: Version of the default ONNX operator set that the model imports, at least 17.

    Returns:
        A model-local function in the op's domain.

    Raises:
        OpError: The opset is older than 17.
    """
    statements = [*routing.constants(), *_rows(signature)]
    if signature.min_learners:
        statements += _always(signature, opset)
    if signature.num_choices == 1:
        statements += _finish_ungated(signature)
    else:
        statements += [*routing.count(signature, opset), *routing.sort(signature, opset), *_tokens(signature)]
        statements += [*_weights(signature, opset), *_run(signature, opset), *_restore(signature)]
    return routing.function_of(ATTRIBUTES, signature.inputs, OUTPUTS, statements, signature, opset)


def _rows(signature: Signature) -> list[str]:
    if signature.glu:
        return [f"x_float = Cast <to = {TensorProto.FLOAT}> (x)", *routing.flatten("x_float", "rows")]
    return routing.flatten("x", "rows")


def _always(signature: Signature, opset: int) -> list[str]:
    """Learners 1..min_learners as one dense MLP over all tokens, without output bias: always [T, D], float32."""
    return [
        *routing.always_end(signature),
        *[
            f"{name}_always = Slice ({name}, zero, always_end, {'one' if axis else 'zero'})"
            for name, axis in _learner_axes(signature).items()
        ],
        *_learner("rows", "always", "always", signature, opset),
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
    """Weights w1_g, b1_g, ... and bias rows, which ONNX Runtime splits at load time because they are constants."""
    learners = routing.gated_learners(signature)
    statements = []
    for name, axis in _learner_axes(signature).items():
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
        statements += _learner(f"tokens{g}", str(g), f"learner{g}", signature, opset)
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


def _learner_axes(signature: Signature) -> dict[str, int]:
    """The inputs that are cut by learner, and the axis."""
    axes = {"w1": 1, "b1": 0, "v1": 1, "c1": 0, "w2": 0}
    return {name: axes[name] for name in signature.inputs if name in axes}


def _learner(tokens: str, weights: str, name: str, signature: Signature, opset: int) -> list[str]:
    """NAME_hidden [rows, h] and NAME_w2 [h, D]: float32, so that the sum over learners is float32 for every T.

    ``weights`` is the suffix of the learner's weights: w1_SUFFIX and so on.
    """
    if signature.glu:
        axes = _learner_axes(signature)
        return [
            *[f"{name}_{weight} = Cast <to = {TensorProto.FLOAT}> ({weight}_{weights})" for weight in axes],
            f"{name}_up = Gemm ({tokens}, {name}_w1, {name}_b1)",
            f"{name}_value = Gemm ({tokens}, {name}_v1, {name}_c1)",
            *activation_statements(signature.activation, f"{name}_up", f"{name}_act", opset),
            f"{name}_hidden = Mul ({name}_act, {name}_value)",
        ]
    return [
        f"{name}_up = Gemm ({tokens}, w1_{weights}, b1_{weights})",
        *activation_statements(signature.activation, f"{name}_up", f"{name}_act", opset),
        f"{name}_hidden = Cast <to = {TensorProto.FLOAT}> ({name}_act)",
        f"{name}_w2 = Cast <to = {TensorProto.FLOAT}> (w2_{weights})",
    ]
