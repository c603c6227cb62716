"""The products of the int8 body, and their sum over the learners of each token.

Sums of shorter prefixes are added into longer ones with ScatterND, for two learners at once. Learners that always run
share one second product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from acm_export.op import body_routing as routing

if TYPE_CHECKING:
    from acm_export.op.quantized_signature import QuantizedSignature


def product(rows: str, w: str, scale: str, bias: str | None, out: str, *, row_scale: str | None) -> list[str]:
    """OUT [rows, columns] = (rows_q - 128) w * scale + bias, and times a scale per row.

    ONNX Runtime fuses MatMulInteger, Cast, Mul, Add into MatMulIntegerToFloat only if the second factor is itself a
    product of two scales, each product used once. So the scale is multiplied by ``unit``, which is not a constant,
    and every learner has its own copy of s2. A scale per row must not be part of that product: the fused kernel would
    take its first value for all rows. Then the bias is [1, columns]: a vector would be fused into BiasGelu, which is
    slower than Add and Gelu.
    """
    statements = [
        f"{out}_sum = MatMulInteger ({rows}, {w}, zero_128)",
        f"{out}_float = Cast <to = {TensorProto.FLOAT}> ({out}_sum)",
        f"{out}_scale = Mul (unit, {scale})",
    ]
    scaled = out if bias is None and row_scale is None else f"{out}_scaled"
    statements.append(f"{scaled} = Mul ({out}_float, {out}_scale)")
    if row_scale is not None:
        scaled_rows = out if bias is None else f"{out}_rows"
        statements.append(f"{scaled_rows} = Mul ({scaled}, {row_scale})")
        if bias is not None:
            statements += [f"{out}_bias = Unsqueeze ({bias}, zero)", f"{out} = Add ({scaled_rows}, {out}_bias)"]
    elif bias is not None:
        statements.append(f"{out} = Add ({scaled}, {bias})")
    return statements


def always(signature: QuantizedSignature) -> list[str]:
    """The sum of the learners that always run, without output bias: always [T, D]."""
    learners = range(1, signature.min_learners + 1)
    if signature.dynamic:
        statements = []
        for n in learners:
            statements += product(
                f"hidden_{n}", f"w2_{n}", f"s2_each_{n}", None, f"always_{n}", row_scale=f"hidden_scale_{n}"
            )
        return [*statements, f"always = Sum ({', '.join(f'always_{n}' for n in learners)})"]
    return [
        *routing.always_end(signature),
        "w2_always = Slice (w2, zero, always_end, zero)",
        f"hidden_always = Concat <axis = 1> ({', '.join(f'hidden_{n}' for n in learners)})",
        *product("hidden_always", "w2_always", "s2", None, "always", row_scale=None),
    ]


def gated(signature: QuantizedSignature) -> list[str]:
    """gated_y [..., D]: blocks of learners from last to first, each added into the longer prefix of the one before it.

    Two neighbouring learners share a product for the tokens that run both, so that fewer sums are added in float32.
    This keeps another copy of every other learner's w2. With dynamic scales each learner is a block, because its
    products have their own scale per row.
    """
    learners, size = routing.gated_learners(signature), 1 if signature.dynamic else 2
    statements = [
        *routing.positions(),
        "position_column = Unsqueeze (positions, one)",
        *[statement for g in (0, *learners) for statement in _bias_row(g, signature)],
    ]
    later: list[str] = []  # the rows of the sum over all later blocks
    for start in reversed(range(0, len(learners), size)):
        block = learners[start : start + size]
        products, rows = _block(block, signature)
        statements += products
        if later:
            g = block[0]
            added = later[0]
            if len(later) > 1:
                added = f"later_{g}"
                statements.append(f"{added} = Concat <axis = 0> ({', '.join(later)})")
            statements += [
                f"prefix_{g} = Slice (position_column, zero, total{block[-1] + 1}, zero)",
                f'sum_{g} = ScatterND <reduction = "add"> ({rows[0]}, prefix_{g}, {added})',
            ]
            rows[0] = f"sum_{g}"
        later = rows
    return [
        *statements,
        f"rows_out = Concat <axis = 0> ({', '.join(later)}, bias_row_0)",
        *routing.restore("rows_out", "gated_y"),
    ]


def _bias_row(g: int, signature: QuantizedSignature) -> list[str]:
    """bias_row_g [1, D], the output bias of tokens that run g gated learners."""
    count = signature.min_learners + g
    return [
        f"bias_from_{g} = Constant <value_ints = [{count}]> ()",
        f"bias_to_{g} = Constant <value_ints = [{count + 1}]> ()",
        f"bias_row_{g} = Slice (b2, bias_from_{g}, bias_to_{g}, zero)",
    ]


def _block(block: list[int], signature: QuantizedSignature) -> tuple[list[str], list[str]]:
    """The outputs of one gated learner, or of two neighbouring ones.

    Returns:
        Statements, and the names of the rows, sorted as in ``order``: tokens that run the whole block, then, for two
        learners, tokens that run only the first.
    """
    g, last = block[0], block[-1]
    n = signature.min_learners + g
    if g == last:
        out, row_scale = f"down_{g}", f"hidden_scale_{n}" if signature.dynamic else None
        return _down(f"hidden_{n}", f"w2_{n}", f"s2_each_{n}", (g - 1, g), out, row_scale=row_scale), [out]
    statements = [
        f"hidden_first_{g} = Slice (hidden_{n}, zero, total{last}, zero)",
        f"hidden_both_{g} = Concat <axis = 1> (hidden_first_{g}, hidden_{n + 1})",
        f"w2_both_{g} = Concat <axis = 0> (w2_{n}, w2_{n + 1})",
        *_down(f"hidden_both_{g}", f"w2_both_{g}", f"s2_each_{n + 1}", (g - 1, last), f"both_{g}"),
        f"hidden_only_{g} = Slice (hidden_{n}, total{last}, total{g}, zero)",
        *_down(f"hidden_only_{g}", f"w2_{n}", f"s2_each_{n}", (g - 1, g), f"only_{g}"),
    ]
    return statements, [f"both_{g}", f"only_{g}"]


def _down(
    hidden: str, w2: str, s2: str, learners: tuple[int, int], out: str, *, row_scale: str | None = None
) -> list[str]:
    """OUT [rows, D], the product of hidden values with w2.

    Its bias is what the gated learners after ``learners[0]`` up to ``learners[1]`` add to the bias of a token; the
    first block starts with the whole bias.
    """
    before, after = learners
    row, statements = f"bias_row_{after}", list[str]()
    if before:
        row = f"{out}_bias_row"
        statements.append(f"{row} = Sub (bias_row_{after}, bias_row_{before})")
    bias = f"{out}_bias_vector"
    return [
        *statements,
        f"{bias} = Squeeze ({row}, zero)",
        *product(hidden, w2, s2, bias, out, row_scale=row_scale),
    ]
