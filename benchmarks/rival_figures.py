"""The op compared with other ways to skip learners, and with narrower and less precise dense MLPs, for kernels.py."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from dense_rivals import Quantised, Weights, eager, float8, fused, int8, time_limit
from device_timing import Rotation
from kernel_bench import TOLERANCE
from kernel_report import Must, Row, unmeasured
from skipping_rivals import (
    Learners,
    Routed,
    bias_gelu,
    grouped_products,
    masked_loop,
    one_product_per_learner,
    relative_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kernel_bench import Bench
    from kernel_cases import Case

_LOW_PRECISION_TOLERANCE = 0.2
"""Relative error of float8 and int8 with one scale for each tensor is below 0.1 on normal inputs."""

_COMPILE_SECONDS = 30.0


@dataclass(frozen=True)
class Rival:
    """Another way to compute what the op computes.

    Args:
        name: Name of the row.
        calls: Makes one call for each input set; may compile.
        expected: Expected y of the first input set, or None if a rival computes something else.
        tolerance: Largest relative error.
        same_routing: Whether it runs the same learners for the same tokens; the op must be faster then.
    """

    name: str
    calls: Callable[[], list[Callable[[], torch.Tensor]]]
    expected: torch.Tensor | None
    tolerance: float = TOLERANCE
    same_routing: bool = False


def rivals_of(given: Case, share: float) -> Iterator[Rival]:
    """All rivals for the inputs of a case whose share of learners is about ``share``."""
    layer, num_learners = given.layer, given.layer.spec.num_learners
    sets = [Routed.of(x, c, num_learners) for x, c in zip(given.tokens, given.counts(), strict=True)]
    weights, dense_weights = Learners.of(layer), Weights.of(layer)
    y, dense_y = given.run(given.tokens[0], given.logits[0])[0], eager(given.tokens[0], *dense_weights)

    def routed(function: Callable[[Routed], torch.Tensor]) -> list[Callable[[], torch.Tensor]]:
        return [partial(function, routed_set) for routed_set in sets]

    def plain(function: Callable[..., torch.Tensor], arguments: Sequence[torch.Tensor]) -> Any:
        return [partial(function, x, *arguments) for x in given.tokens]

    yield Rival("masked loop", lambda: routed(lambda r: masked_loop(r, weights)), y, same_routing=True)
    yield Rival(
        "one product per learner", lambda: routed(lambda r: one_product_per_learner(r, weights)), y, same_routing=True
    )
    elementwise = torch.compile(bias_gelu)
    yield Rival("grouped_mm", lambda: routed(lambda r: grouped_products(r, weights, elementwise)), y, same_routing=True)
    narrow = dense_weights.narrowed(round(share * weights.w1.shape[1] / 64) * 64)
    yield Rival("lower bound: narrow dense, eager", lambda: plain(eager, narrow), None)
    yield Rival("lower bound: narrow dense, fused GELU", lambda: plain(fused, narrow), None)
    yield Rival(
        "dense in float8",
        lambda: plain(torch.compile(float8, dynamic=False), Quantised.to_float8(dense_weights, given.tokens[0])),
        dense_y,
        _LOW_PRECISION_TOLERANCE,
    )
    yield Rival(
        "dense in int8",
        lambda: plain(torch.compile(int8, dynamic=False), Quantised.to_int8(dense_weights, given.tokens[0])),
        dense_y,
        _LOW_PRECISION_TOLERANCE,
    )


def rivals(bench: Bench) -> None:
    """The op against other ways to skip learners, and against dense MLPs that are narrower or less precise."""
    for share in (0.5, 0.75):
        given = bench.case(bench.setting.batch, share)
        op = given.op()
        for rival in rivals_of(given, share):
            bench.report.add(_beside_op(bench, rival, op, f"{rival.name}, share {share:.2f}"))


def _beside_op(bench: Bench, rival: Rival, op: Rotation, what: str) -> Row:
    try:
        with time_limit(_COMPILE_SECONDS):
            calls = rival.calls()
            y = calls[0]()
        error = None if rival.expected is None else relative_error(y, rival.expected)
        if error is not None and not error < rival.tolerance:
            return Row("rivals", what, facts={"failed": f"relative error {error:.3g}", "error": error})
        timing = bench.compare({what: Rotation(calls)}, op)[what]
    except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
        return unmeasured("rivals", what, error)
    must = Must(timing.ratio, 1.0, at_most=False) if rival.same_routing else None
    return Row("rivals", what, timing.us, timing.ratio, "op", must, {"error": error, **asdict(timing)})
