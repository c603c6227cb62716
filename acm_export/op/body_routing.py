"""What the portable bodies share: tokens as rows, learner counts, and the order of tokens by count.

Statements are in the ONNX text syntax. ``rows`` are the tokens ``[T, D]``; gated learners are numbered 1..C-1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx.parser
from onnx import TensorProto

from acm_export.base.errors import OpError
from acm_export.op.signature import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import FunctionProto

    from acm_export.op.signature import Signature

MIN_OPSET = 17
"""Opset of the target tensorrt-8; the bodies need opset 16, for ScatterND with a reduction."""

_REDUCTION_AXES_INPUT_OPSET = 18
_SPLIT_NUM_OUTPUTS_OPSET = 18


def function_of(
    attributes: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    statements: Sequence[str],
    signature: Signature,
    opset: int,
) -> FunctionProto:
    """Make the model-local function of a body, named after its signature.

    Raises:
        OpError: The opset is older than 17.
    """
    if opset < MIN_OPSET:
        raise OpError(f"the portable body needs opset {MIN_OPSET} or later, not {opset}")
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>\n'
        f"{signature.function_name} <{', '.join(attributes)}> ({', '.join(inputs)}) => ({', '.join(outputs)}) {{\n"
        + "\n".join(statements)
        + "\n}"
    )
    return onnx.parser.parse_function(text)


def constants() -> list[str]:
    """Scalars and one-element vectors that many statements use."""
    return [
        "zero = Constant <value_ints = [0]> ()",
        "one = Constant <value_ints = [1]> ()",
        "rest = Constant <value_ints = [-1]> ()",
        "end = Constant <value_ints = [9223372036854775807]> ()",
    ]


def flatten(tokens: str, rows: str) -> list[str]:
    """Flatten the leading dimensions: ``rows`` [T, D], ``leading`` and ``num_tokens`` [1]."""
    return [
        "leading = Shape <end = -1> (x)",
        "model_dim = Shape <start = 1> (w2)",
        "rows_shape = Concat <axis = 0> (rest, model_dim)",
        f"{rows} = Reshape ({tokens}, rows_shape)",
        f"num_tokens = Shape <start = 0, end = 1> ({rows})",
    ]


def always_end(signature: Signature) -> list[str]:
    """``always_end`` [1]: columns of the learners that always run."""
    n, minimum = signature.num_learners, signature.min_learners
    return [
        "width = Shape (b1)",
        f"n = Constant <value_ints = [{n}]> ()",
        f"minimum = Constant <value_ints = [{minimum}]> ()",
        "hidden_dim = Div (width, n)",
        "always_end = Mul (hidden_dim, minimum)",
    ]


def count(signature: Signature, opset: int) -> list[str]:
    """Margins, thresholds and the longest prefix: ``counts``; ``gated`` [T], int64, the count beyond min_learners.

    ``gated`` is the number of learners before the first one that does not run. Max and Sub pass NaN on, so the first
    margin of a token with a NaN logit is NaN, which is above no threshold.
    """
    choices, gated = signature.num_choices, signature.num_choices - 1
    lower, upper = ["z0"], [f"z{gated}"]
    statements = [
        f"logits_shape = Constant <value_ints = [-1, {choices}]> ()",
        "logits = Reshape (gate_logits, logits_shape)",
        split("z", range(choices), "logits", 1, opset),
    ]
    for c in range(1, gated):
        statements.append(f"lower{c} = Max ({lower[-1]}, z{c})")
        lower.append(f"lower{c}")
    for c in range(gated - 1, 0, -1):
        statements.append(f"upper{c} = Max ({upper[-1]}, z{c})")
        upper.append(f"upper{c}")
    return [
        *statements,
        f"lower = Concat <axis = 1> ({', '.join(lower)})",
        f"upper = Concat <axis = 1> ({', '.join(reversed(upper))})",
        "margins = Sub (upper, lower)",
        f"first_gated = Constant <value_ints = [{signature.min_learners}]> ()",
        "tau = Slice (thresholds, first_gated, end, zero)",
        "runs = Greater (margins, tau)",
        f"learners_before = Constant <value_ints = [{', '.join(str(g) for g in range(gated))}]> ()",
        f"all_gated = Constant <value_int = {gated}> ()",
        "candidates = Where (runs, all_gated, learners_before)",
        reduce_columns("Min", "gated", "candidates", opset, keep=False),
        *_counts(signature),
    ]


def _counts(signature: Signature) -> list[str]:
    source, statements = "gated", list[str]()
    if signature.min_learners:
        source, statements = "count", ["count = Add (gated, first_gated)"]
    return [
        *statements,
        f"count_int = Cast <to = {TensorProto.INT32}> ({source})",
        "counts = Reshape <allowzero = 1> (count_int, leading)",
    ]


def all_counts(signature: Signature) -> list[str]:
    """``counts`` for min_learners = N."""
    return [
        f"all = Constant <value = int32 {{{signature.num_learners}}}> ()",
        "counts = Expand (all, leading)",
    ]


def sort(signature: Signature, opset: int) -> list[str]:
    """``order`` [T] by count, descending; ``total_g`` [1], the tokens that run gated learner g."""
    learners = gated_learners(signature)
    column = ", ".join(str(g) for g in learners)
    return [
        "ordered_counts, order = TopK <axis = 0, largest = 1, sorted = 1> (gated, num_tokens)",
        f"learner_column = Constant <value = int64[{len(learners)}, 1] {{{column}}}> ()",
        "reaches = GreaterOrEqual (gated, learner_column)",
        f"reaches_int = Cast <to = {TensorProto.INT64}> (reaches)",
        "totals = ReduceSum <keepdims = 0> (reaches_int, one)",
        split("total", learners, "totals", 0, opset),
    ]


def positions() -> list[str]:
    """``positions`` [T] = 0, 1, ..., and ``inverse`` [T], the place of each token in ``order``."""
    return [
        "first = Constant <value_int = 0> ()",
        "step = Constant <value_int = 1> ()",
        "num_tokens_scalar = Squeeze (num_tokens)",
        "positions = Range (first, num_tokens_scalar, step)",
        "inverse = ScatterElements <axis = 0> (order, order, positions)",
    ]


def restore(rows: str, out: str) -> list[str]:
    """Restore the order of the tokens; those without a gated learner read the row after the last sorted one."""
    return [
        "source_row = Min (inverse, total1)",
        "source = Reshape <allowzero = 1> (source_row, leading)",
        f"{out} = Gather ({rows}, source)",
    ]


def gated_learners(signature: Signature) -> list[int]:
    """Numbers 1..N - min_learners of the gated learners."""
    return list(range(1, signature.num_choices))


def split(prefix: str, numbers: Sequence[int], source: str, axis: int, opset: int) -> str:
    """Split into equal parts, named by the numbers."""
    parts = f", num_outputs = {len(numbers)}" if opset >= _SPLIT_NUM_OUTPUTS_OPSET else ""
    names = ", ".join(f"{prefix}{number}" for number in numbers)
    return f"{names} = Split <axis = {axis}{parts}> ({source})"


def reduce_columns(operation: str, out: str, values: str, opset: int, *, keep: bool = True) -> str:
    """The "Max" or "Min" over axis 1, which is kept or removed."""
    if opset >= _REDUCTION_AXES_INPUT_OPSET:
        return f"{out} = Reduce{operation} <keepdims = {keep:d}> ({values}, one)"
    return f"{out} = Reduce{operation} <axes = [1], keepdims = {keep:d}> ({values})"
