"""The portable body: GatedLearners as an ONNX function in standard operators.

Tokens are sorted by learner count, descending, so that the tokens of learner n are a prefix. Each learner runs one
MatMul-activation-MatMul on its prefix, from the last learner to the first, and adds to the running sum of the shorter
prefix of the learner after it. The sum of a token starts with the bias row of its own count. A Gather with the inverse
permutation restores the order. Learners that always run need no routing and run as one dense MLP.
"""

from __future__ import annotations

import onnx.parser
from onnx import FunctionProto, TensorProto

from acm_export.base.errors import OpError
from acm_export.op.body_activation import activation_statements
from acm_export.op.signature import DOMAIN, INPUTS, NAME, OUTPUTS, Signature

MIN_OPSET = 17
"""Opset of the target tensorrt-8; the body itself needs opset 15, for Shape of a range of axes."""

_REDUCTION_AXES_INPUT_OPSET = 18
_SPLIT_NUM_OUTPUTS_OPSET = 18

_ATTRIBUTES = ("num_learners", "min_learners", "activation", "plugin_version", "plugin_namespace")


def portable_body(signature: Signature, opset: int) -> FunctionProto:
    """Build the function that runs one signature on any ONNX Runtime.

    Args:
        signature: Attributes of the op, which also name the function's overload.
        opset: Version of the default ONNX operator set that the model imports, at least 17.

    Returns:
        A model-local function with the op's domain and name.

    Raises:
        OpError: The opset is older than 17.
    """
    if opset < MIN_OPSET:
        raise OpError(f"the portable body needs opset {MIN_OPSET} or later, not {opset}")
    statements = [*_constants(), *_tokens()]
    if signature.min_learners:
        statements += _always(signature, opset)
    if signature.num_choices == 1:
        statements += _finish_ungated(signature)
    else:
        statements += [*_count(signature, opset), *_sort(signature, opset), *_weights(signature, opset)]
        statements += [*_run(signature, opset), *_restore(signature)]
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{NAME} <{', '.join(_ATTRIBUTES)}> ({', '.join(INPUTS)}) => ({', '.join(OUTPUTS)}) {{\n"
        + "\n".join(statements)
        + "\n}"
    )
    function = onnx.parser.parse_function(text)
    function.overload = signature.overload
    return function


def _constants() -> list[str]:
    return [
        "zero = Constant <value_ints = [0]> ()",
        "one = Constant <value_ints = [1]> ()",
        "rest = Constant <value_ints = [-1]> ()",
        "end = Constant <value_ints = [9223372036854775807]> ()",
    ]


def _tokens() -> list[str]:
    """Flatten the leading dimensions: rows [T, D]."""
    return [
        "leading = Shape <end = -1> (x)",
        "model_dim = Shape <start = 1> (w2)",
        "rows_shape = Concat <axis = 0> (rest, model_dim)",
        "rows = Reshape (x, rows_shape)",
        "num_tokens = Shape <start = 0, end = 1> (rows)",
    ]


def _always(signature: Signature, opset: int) -> list[str]:
    """Learners 1..min_learners as one dense MLP over all tokens, without output bias: always [T, D], float32."""
    return [
        *_always_end(signature),
        "w1_always = Slice (w1, zero, always_end, one)",
        "b1_always = Slice (b1, zero, always_end, zero)",
        "w2_always = Slice (w2, zero, always_end, zero)",
        *_learner("rows", "w1_always", "b1_always", "w2_always", "always", signature.activation, opset),
        "always = MatMul (always_hidden, always_w2)",
    ]


def _always_end(signature: Signature) -> list[str]:
    n, minimum = signature.num_learners, signature.min_learners
    return [
        "width = Shape (b1)",
        f"n = Constant <value_ints = [{n}]> ()",
        f"minimum = Constant <value_ints = [{minimum}]> ()",
        "hidden_dim = Div (width, n)",
        "always_end = Mul (hidden_dim, minimum)",
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
        f"all = Constant <value = int32[1] {{{signature.num_learners}}}> ()",
        "all_rows = Expand (all, num_tokens)",
        "counts = Reshape <allowzero = 1> (all_rows, leading)",
    ]


def _count(signature: Signature, opset: int) -> list[str]:
    """Margins, thresholds and the longest prefix: gated [T], int64, the count beyond min_learners."""
    choices = signature.num_choices
    lower, upper = ["z0"], [f"z{choices - 1}"]
    statements = [
        f"logits_shape = Constant <value_ints = [-1, {choices}]> ()",
        "logits = Reshape (gate_logits, logits_shape)",
        "z = Transpose <perm = [1, 0]> (logits)",
        "nan = IsNaN (z)",
        f"nan_int = Cast <to = {TensorProto.INT32}> (nan)",
        _any_row("any_nan", "nan_int", opset),
        _split("z", range(choices), "z", 0, opset),
    ]
    for c in range(2, choices):
        statements.append(f"lower{c} = Max ({lower[-1]}, z{c - 1})")
        lower.append(f"lower{c}")
    for c in range(choices - 2, 0, -1):
        statements.append(f"upper{c} = Max ({upper[-1]}, z{c})")
        upper.append(f"upper{c}")
    return [
        *statements,
        f"lower = Concat <axis = 0> ({', '.join(lower)})",
        f"upper = Concat <axis = 0> ({', '.join(reversed(upper))})",
        "margins = Sub (upper, lower)",
        f"first_gated = Constant <value_ints = [{signature.min_learners}]> ()",
        "tau = Slice (thresholds, first_gated, end, zero)",
        "tau_column = Unsqueeze (tau, one)",
        "above = Greater (margins, tau_column)",
        f"above_int = Cast <to = {TensorProto.INT32}> (above)",
        "runs = Greater (above_int, any_nan)",
        f"runs_int = Cast <to = {TensorProto.INT32}> (runs)",
        "stop_int = Constant <value = int32[1] {0}> ()",
        "stop_shape = Concat <axis = 0> (one, num_tokens)",
        "stop = Expand (stop_int, stop_shape)",
        "runs_then_stop = Concat <axis = 0> (runs_int, stop)",
        "gated = ArgMin <axis = 0, keepdims = 0> (runs_then_stop)",  # the first learner that does not run
        "count = Add (gated, first_gated)",
        f"count_int = Cast <to = {TensorProto.INT32}> (count)",
        "counts = Reshape <allowzero = 1> (count_int, leading)",
    ]


def _sort(signature: Signature, opset: int) -> list[str]:
    """Order [T] by count, descending; total_g [1], the tokens that run gated learner g; tokens_g [total_g, D]."""
    learners = _gated(signature)
    column = ", ".join(str(g) for g in learners)
    return [
        "ordered_counts, order = TopK <axis = 0, largest = 1, sorted = 1> (gated, num_tokens)",
        f"learner_column = Constant <value = int64[{len(learners)}, 1] {{{column}}}> ()",
        "reaches = GreaterOrEqual (gated, learner_column)",
        f"reaches_int = Cast <to = {TensorProto.INT64}> (reaches)",
        "totals = ReduceSum <keepdims = 0> (reaches_int, one)",
        _split("total", learners, "totals", 0, opset),
        "active = Slice (order, zero, total1, zero)",
        "tokens1 = Gather (rows, active)",
        *[f"tokens{g} = Slice (tokens1, zero, total{g}, zero)" for g in learners[1:]],
    ]


def _weights(signature: Signature, opset: int) -> list[str]:
    """w1_g, b1_g, w2_g and the bias rows, which ONNX Runtime splits at load time because they are constants."""
    learners = _gated(signature)
    cuts = [("w1", 1), ("b1", 0), ("w2", 0)]
    statements = []
    for name, axis in cuts:
        source = name
        if signature.min_learners:
            source = f"{name}_gated"
            statements.append(f"{source} = Slice ({name}, always_end, end, {'one' if axis else 'zero'})")
        statements.append(_split(f"{name}_", learners, source, axis, opset))
    return [
        *statements,
        f"b2_float = Cast <to = {TensorProto.FLOAT}> (b2)",
        "b2_gated = Slice (b2_float, first_gated, end, zero)",
        _split("bias", [0, *learners], "b2_gated", 0, opset),
    ]


def _run(signature: Signature, opset: int) -> list[str]:
    """Learners from last to first: sum_g [total_g, D], float32, whole rows of output in sorted order."""
    learners = _gated(signature)
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
    """Restore the order of the tokens; tokens without a gated learner read the bias row at the end."""
    statements = [
        "rows_out = Concat <axis = 0> (sum1, bias0)",
        "first = Constant <value_int = 0> ()",
        "step = Constant <value_int = 1> ()",
        "num_tokens_scalar = Squeeze (num_tokens)",
        "positions = Range (first, num_tokens_scalar, step)",
        "inverse = ScatterElements <axis = 0> (order, order, positions)",
        "source_row = Min (inverse, total1)",
        "source = Reshape <allowzero = 1> (source_row, leading)",
        "gated_y = Gather (rows_out, source)",
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


def _gated(signature: Signature) -> list[int]:
    """Numbers 1..N - min_learners of the gated learners."""
    return list(range(1, signature.num_choices))


def _any_row(out: str, rows: str, opset: int) -> str:
    """The maximum over axis 0."""
    if opset >= _REDUCTION_AXES_INPUT_OPSET:
        return f"{out} = ReduceMax <keepdims = 1> ({rows}, zero)"
    return f"{out} = ReduceMax <axes = [0], keepdims = 1> ({rows})"


def _split(prefix: str, numbers: range | list[int], source: str, axis: int, opset: int) -> str:
    """Split into equal parts, named by the numbers."""
    parts = f", num_outputs = {len(numbers)}" if opset >= _SPLIT_NUM_OUTPUTS_OPSET else ""
    return f"{_names(prefix, numbers)} = Split <axis = {axis}{parts}> ({source})"


def _names(prefix: str, numbers: range | list[int]) -> str:
    return ", ".join(f"{prefix}{number}" for number in numbers)
