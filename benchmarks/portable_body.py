"""Measure the op's portable body in ONNX Runtime against the dense MLP of equal size.

What: GatedLearners with D = 768, N = 4, h = 768 and gelu, and MatMul-Add-Gelu-MatMul-Add with hidden size N*h = 3072.
Both are used as in a transformer block, ``out = x + MLP(x)``, with weights as initializers, in float32. Learner
counts are drawn per token, binomial(N, share), and fed as one-hot gate logits; at share 1 every token runs all N. The
reported share is the one that actually ran. Before timing, some tokens of every case are compared with float64.

How: blocks of runs, dense, op, dense (benchmarks/common.py), two threads. The limit for time ÷ dense is the executed
share plus a margin: 0.05 (aim 0.02) at 1576 tokens, 0.08 at 197.

Run: ``python benchmarks/portable_body.py [--quick]``
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Timing, interleaved, parser, print_table, write_result

from acm_export.demo.ffn import FFN
from acm_export.op import Signature
from acm_export.op.reference import activate, gated_learners
from acm_export.runtimes.onnx_runtime import CpuSession
from acm_export.verification.report import VerificationError

THREADS = 2
BLOCK = FFN(model_dim=768, hidden_dim=768, tokens_per_sample=197, signature=Signature(4, 0, "gelu"))
SHARES = (1.0, 0.75, 0.5, 0.25)
TOLERANCE, TOKENS_CHECKED = 1e-4, 8

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Size:
    """A number of tokens and how it is measured; ``limit`` and ``aim`` bound time ÷ dense minus the share."""

    batch: int
    limit: float
    aim: float | None
    rounds: int
    runs: int


SIZES = (Size(8, 0.05, 0.02, rounds=8, runs=5), Size(1, 0.08, None, rounds=16, runs=12))
QUICK = (Size(1, 0.08, None, rounds=2, runs=2),)


@dataclass(frozen=True)
class Row:
    """One case: tokens, the share that ran, the largest error relative to the largest value, and the time."""

    tokens: int
    share_drawn: float
    share: float
    relative_error: float
    timing: Timing
    limit: float
    aim: float | None
    within_limit: bool
    within_aim: bool | None


def check(values: Arrays, given: Arrays, op: CpuSession, dense: CpuSession) -> tuple[float, float]:
    """Return the share that runs, and the largest error of either model on a few tokens, relative to the largest value.

    Raises:
        VerificationError: A model does not compute what the reference computes.
    """
    ran = op.run(given)
    x, logits = given["x"][0, :TOKENS_CHECKED], given["gate_logits"][0, :TOKENS_CHECKED]
    y, counts = gated_learners(x, logits, **values, signature=BLOCK.signature)
    if not np.array_equal(ran["counts"][0, :TOKENS_CHECKED], counts):
        raise VerificationError("the portable body routes tokens differently from the reference")
    w1, b1, w2, b2 = (values[name].astype(np.float64) for name in ("w1", "b1", "w2", "b2"))
    mlp = activate(BLOCK.signature.activation, x @ w1 + b1) @ w2 + b2[-1]
    worst = 0.0
    for name, got, expected in (
        ("op", ran["out"], x + y),
        ("dense", dense.run({"x": given["x"]})["out"], x + mlp),
    ):
        error = float(np.abs(got[0, :TOKENS_CHECKED] - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise VerificationError(f"the {name} model is off by {error:.3g}, tolerance {TOLERANCE:g}")
        worst = max(worst, error)
    return float(ran["counts"].mean()) / BLOCK.signature.num_learners, worst


def measure(size: Size, values: Arrays, op: CpuSession, dense: CpuSession) -> list[Row]:
    """All shares at one number of tokens."""
    rng = np.random.default_rng(size.batch)
    given = {share: BLOCK.feeds(rng, size.batch, share) for share in SHARES}
    checked = {share: check(values, case, op, dense) for share, case in given.items()}
    runs = {share: partial(op.run, case, ["out"]) for share, case in given.items()}
    baseline = partial(dense.run, {"x": given[SHARES[0]]["x"]})
    timings = interleaved(runs, baseline, rounds=size.rounds, runs=size.runs)
    rows = []
    for drawn, timing in timings.items():
        share, error = checked[drawn]
        limit, aim = share + size.limit, None if size.aim is None else share + size.aim
        within_aim = None if aim is None else timing.ratio <= aim
        tokens = size.batch * BLOCK.tokens_per_sample
        rows.append(Row(tokens, drawn, share, error, timing, limit, aim, timing.ratio <= limit, within_aim))
    return rows


def main() -> None:
    """Measure, print and write."""
    options = parser(__doc__ or "").parse_args()
    values = BLOCK.weights(np.random.default_rng(0))
    op, dense = (
        CpuSession(model, Path(), threads=THREADS) for model in (BLOCK.op_model(values), BLOCK.dense_model(values))
    )
    rows = [row for size in (QUICK if options.quick else SIZES) for row in measure(size, values, op, dense)]
    columns = ("tokens", "share run", "time ÷ dense", "quartiles", "ms", "dense ms", "limit", "", "aim", "")
    verdict = {True: "ok", False: "over", None: ""}
    table = [
        (
            str(r.tokens),
            f"{r.share:.3f}",
            f"{r.timing.ratio:.3f}",
            f"{r.timing.ratio_q25:.3f} - {r.timing.ratio_q75:.3f}",
            f"{r.timing.ms:.2f}",
            f"{r.timing.baseline_ms:.2f}",
            f"{r.limit:.3f}",
            verdict[r.within_limit],
            "" if r.aim is None else f"{r.aim:.3f}",
            verdict[r.within_aim],
        )
        for r in rows
    ]
    print_table(f"Portable body against the dense MLP, {op.name}, {THREADS} threads", columns, table)
    case = asdict(BLOCK) | {"dtype": "fp32", "threads": THREADS}
    write_result("portable_body", {"case": case, "rows": [asdict(row) for row in rows]}, options)


if __name__ == "__main__":
    main()
