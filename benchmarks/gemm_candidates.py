"""Designs of the staircase's two GEMMs in Triton on a GPU, against cuBLAS; also the gate and the permutation of rows.

Candidates (gemm_*_designs.py) are first compiled and run once by a pool of processes. One that does not return is
recorded as hung, and its process is killed. The others are compared with PyTorch in float32 and timed alone, in CUDA
graphs. GEMMs have one input set, since their hidden values are three times the L2 cache; gates and the permutation take
turns on four. Warp-specialised candidates run only with --warp-specialized: with Triton 3.6.0 on an H100 none returned.

    python benchmarks/gemm_candidates.py --device h100 [--seconds 150] [--warp-specialized] [--list]
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import TimeoutError as NotReturnedError
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch
from common import ResultFile, parser, print_table
from device_timing import Rotation, device_facts, median_us
from gemm_inputs import Candidate, Inputs
from kernel_cases import SETS, steered_layer
from tile_candidates import Sizes
from tile_trials import SIZES, reason_of
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.pool import AsyncResult

    Calls = Sequence[Callable[[], object]]

TOKENS = 25216
"""128 images of ViT-B/16."""

FIRST_RUN_SECONDS = 70.0
"""Seconds for compiling and running all candidates once; part of --seconds."""

QUICK_TOKENS = 2048

REPEATS = 10
"""Calls in one graph where a single input set is used."""


def candidates() -> Iterator[Candidate]:
    """All candidates, the warp-specialised ones last."""
    yield Candidate("permute_rows", Sizes(32, 0, 256, 4, 3))
    for gate, rows, width, warps in [
        (0, 16, 64, 4), (0, 32, 64, 8), (0, 16, 128, 4), (1, 16, 1024, 4), (1, 8, 1024, 4), (1, 32, 1024, 8),
        (1, 16, 256, 4), (1, 32, 256, 4), (2, 64, 64, 4), (2, 32, 128, 4),
    ]:  # fmt: skip  # a table
        yield Candidate("gate", Sizes(rows, 0, width, warps, 3), gate=gate)
    common = [
        Sizes(128, 128, 64, 8, 3, 128), Sizes(128, 128, 64, 8, 4), Sizes(128, 128, 64, 4, 3), Sizes(128, 256, 64, 8, 3),
        Sizes(128, 256, 64, 8, 4), Sizes(256, 128, 64, 8, 3), Sizes(64, 256, 64, 4, 3), Sizes(256, 128, 64, 16, 3, 128),
    ]  # fmt: skip  # a table
    for design in ("up_gather", "up_gather_tma", "up_sorted"):
        yield from (Candidate(design, sizes) for sizes in (*common, Sizes(128, 128, 32, 8, 4, 128)))
    for design in ("up_gather", "up_sorted"):
        yield from (Candidate(design, sizes, gelu=False) for sizes in (common[0], common[3]))
    for programs, flatten, halves, *given in [
        (132, 1, 0, 128, 256, 64, 8, 3), (132, 0, 0, 128, 256, 64, 8, 3), (132, 1, 1, 128, 256, 64, 8, 3),
        (264, 1, 0, 128, 128, 64, 8, 2, 128), (264, 0, 0, 128, 128, 64, 8, 2, 128), (132, 1, 0, 256, 128, 64, 8, 3),
        (132, 1, 1, 128, 256, 64, 8, 4), (264, 0, 0, 128, 128, 64, 4, 2),
    ]:  # fmt: skip  # a table
        yield Candidate("up_persistent", Sizes(*given), programs, flatten=bool(flatten), halves=bool(halves))
    for design in ("down_pointers", "down_tma"):
        yield from (Candidate(design, sizes) for sizes in common)
    for programs, *given in [(132, 128, 256, 64, 8, 3), (132, 128, 256, 64, 8, 4), (264, 128, 128, 64, 8, 3)]:
        yield Candidate("down_persistent", Sizes(*given), programs)
    for design, programs, *given in [
        ("up_listed", 132, 128, 256, 64, 4, 3), ("up_listed", 132, 128, 256, 64, 4, 4),
        ("up_listed", 132, 128, 128, 64, 4, 4), ("up_listed", 264, 128, 128, 64, 4, 2),
        ("up_listed", 132, 256, 128, 64, 4, 4), ("up_listed", 132, 128, 128, 64, 4, 3),
        ("down_persistent", 132, 128, 256, 64, 4, 3), ("down_persistent", 132, 128, 256, 64, 4, 4),
        ("down_persistent", 132, 128, 128, 64, 4, 4), ("down_persistent", 132, 128, 128, 64, 4, 5),
        ("down_persistent", 132, 256, 128, 64, 4, 4),
    ]:  # fmt: skip  # a table
        yield Candidate(design, Sizes(*given), programs, specialized=True)


@cache
def _worker_inputs(tokens: int) -> Inputs:
    return Inputs(tokens, 0.5)


def first_run(given: Candidate, tokens: int) -> str:
    """Compile a candidate and run it once, in a process of the pool; returns why that failed, or nothing."""
    try:
        _worker_inputs(tokens).call(given)()
        torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001  compilers and drivers may raise anything
        return reason_of(error)
    return ""


def first_runs(chosen: Sequence[Candidate], tokens: int) -> dict[Candidate, tuple[str, str]]:
    """State and reason of each candidate that cannot be measured: it failed or did not return in time."""
    end = time.monotonic() + FIRST_RUN_SECONDS
    with get_context("spawn").Pool(max(1, min(14, (os.cpu_count() or 1) - 1))) as pool:  # kills them at the end
        running = [(given, pool.apply_async(first_run, (given, tokens))) for given in chosen]
        ended = {given: _outcome(result, end) for given, result in running}
    return {given: outcome for given, outcome in ended.items() if outcome}


def _outcome(result: AsyncResult[str], end: float) -> tuple[str, str] | None:
    try:
        reason = result.get(max(0.0, end - time.monotonic()))
    except NotReturnedError:
        return "hung", f"its first run did not return within {FIRST_RUN_SECONDS:.0f} s"
    return ("failed", reason) if reason else None


@dataclass(frozen=True)
class Row:
    """One figure: ``state`` is measured, failed, hung or not run; TFLOP/s count only executed learners."""

    what: str
    share: float | None
    state: str
    us: float | None = None
    tflops: float | None = None
    error: float | None = None
    reason: str = ""


class Figures:
    """Takes the median of ``rounds`` blocks and writes every row at once; after ``seconds`` no measurement starts."""

    def __init__(self, result: ResultFile, seconds: float, rounds: int) -> None:
        self.rows: list[Row] = []
        self._result, self._end, self._rounds = result, time.monotonic() + seconds, rounds

    def add(self, row: Row) -> None:
        """Record a row."""
        self.rows.append(row)
        self._result.add("rows", [asdict(one) for one in self.rows])
        shown = f"{row.us:.1f} µs" if row.us else f"{row.state}: {row.reason}"
        print(f"{row.what}, share {row.share}: {shown}", flush=True)

    def measure(
        self,
        what: str,
        share: float | None,
        calls: Callable[[], Sequence[Callable[[], object]]],
        flops: float | None = None,
        error: Callable[[], float] | None = None,
    ) -> None:
        """Check and time calls that take turns in one graph."""
        if time.monotonic() > self._end:
            self.add(Row(what, share, "not run", reason="the time given with --seconds was used up"))
            return
        try:
            found, turns = error() if error else None, calls()
            us = median_us(Rotation([lambda: [call() for call in turns]]), rounds=self._rounds) / len(turns)
            self.add(Row(what, share, "measured", us, flops / us / 1e6 if flops else None, found))
        except Exception as failure:  # noqa: BLE001  compilers and drivers may raise anything
            self.add(Row(what, share, "failed", reason=reason_of(failure)))


def library(inputs: Inputs, square: int) -> Iterator[tuple[str, Calls, float | None]]:
    """Name, calls and FLOPs of PyTorch's functions, with all learners for every token."""
    x, w1, b1, w2, b2 = inputs.x_sets[0], inputs.w1, inputs.b1, inputs.w2, inputs.b2[-1]
    hidden, flops = inputs.filled[: inputs.num_tokens], inputs.gemm_flops
    a, b = (torch.randn(square, square, device="cuda").bfloat16() for _ in range(2))
    yield f"cuBLAS, {square} x {square} x {square}", REPEATS * [lambda: a @ b], 2.0 * square**3
    for layout, v1, v2 in [("", w1, w2), (", weights (out, in)", w1.T.contiguous().T, w2.T.contiguous().T)]:
        fused = partial(torch._addmm_activation, b1, x, v1, use_gelu=True)  # noqa: SLF001
        yield f"cuBLAS, GEMM 1{layout}", REPEATS * [partial(torch.addmm, b1, x, v1)], flops
        yield f"cuBLAS, GEMM 1 with fused GELU{layout}", REPEATS * [fused], flops
        yield f"cuBLAS, GEMM 2{layout}", REPEATS * [partial(torch.addmm, b2, hidden, v2)], flops
    yield "PyTorch, GELU of all hidden values", REPEATS * [partial(F.gelu, hidden)], None
    gates = [lambda x=x: F.linear(x.float(), inputs.weight, inputs.bias) for x in inputs.x_sets]
    yield "PyTorch, gate in float32", gates, None


def measure(figures: Figures, chosen: Sequence[Candidate], share: float, *, quick: bool) -> None:
    """All figures at one share of the learners: PyTorch (where all learners run), candidates, the package."""
    inputs = Inputs(QUICK_TOKENS if quick else TOKENS, share)
    if share == 1:
        for what, calls, flops in library(inputs, 1024 if quick else 8192):
            figures.measure(what, share, partial(tuple, calls), flops)
    for given in chosen:
        gemm = given.design.startswith(("up", "down"))
        if share == 1 or given.design != "gate":
            turns = REPEATS * [0] if gemm else list(range(SETS))
            figures.measure(
                str(given),
                share,
                partial(_calls, inputs, given, turns),
                inputs.gemm_flops if gemm else None,
                partial(inputs.error, given),
            )
    layer, logits = steered_layer(SIZES, "cuda"), F.one_hot(inputs.counts.long(), inputs.num_choices).float()
    op = [partial(layer.run, x, logits) for x in inputs.x_sets]
    figures.measure("package, op without its gate", share, partial(tuple, op), 2 * inputs.gemm_flops)
    gates = [partial(layer.gate_logits, x) for x in inputs.x_sets]
    figures.measure("package, gate", share, partial(tuple, gates))


def _calls(inputs: Inputs, given: Candidate, turns: Sequence[int]) -> Calls:
    return [inputs.call(given, turn) for turn in turns]


def copy_bandwidth(size: int, rounds: int) -> float:
    """TB/s read and written by a copy on the device."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / median_us(Rotation([lambda: target.copy_(source)]), rounds=rounds) / 1e6


def run(options: argparse.Namespace, chosen: list[Candidate]) -> Figures:
    """Run everything."""
    tokens, rounds = (QUICK_TOKENS, 1) if options.quick else (TOKENS, 5)
    result = ResultFile("gemm_candidates", options)
    result.add_all({"device": device_facts(), "sizes": SIZES, "tokens": tokens})
    figures = Figures(result, options.seconds, rounds)
    unusable = first_runs(chosen, tokens)
    for given, (state, reason) in unusable.items():
        figures.add(Row(str(given), None, state, reason=reason))
    result.add("copy_tb_per_s", copy_bandwidth(1 << (24 if options.quick else 30), rounds))
    for share in (1.0, 0.5):
        measure(figures, [one for one in chosen if one not in unusable], share, quick=options.quick)
    print(f"wrote {result.path}")
    return figures


def main() -> None:
    """List or measure; exit code 1 if a candidate failed or hung."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seconds", type=float, default=150.0, help="no figure starts later (%(default)s)")
    arguments.add_argument("--warp-specialized", action="store_true", help="also run candidates that may hang")
    arguments.add_argument("--list", action="store_true", help="list the candidates; needs no GPU")
    options = arguments.parse_args()
    chosen = [one for one in candidates() if options.list or options.warp_specialized or not one.specialized]
    if options.list:
        print(*chosen, sep="\n")
        return
    if not torch.cuda.is_available():
        sys.exit("error: this measures a GPU, and PyTorch sees none; --list prints the candidates")
    with torch.no_grad():
        rows = run(options, chosen).rows
    fastest = sorted((row for row in rows if row.us), key=lambda row: (row.what.split(",")[0], row.share, row.us))
    print_table(
        "figures",
        ["what", "share", "µs", "TFLOP/s"],
        [[r.what, f"{r.share}", f"{r.us:.1f}", f"{r.tflops:.0f}" if r.tflops else ""] for r in fastest],
    )
    sys.exit(any(row.state in ("failed", "hung") for row in rows))


if __name__ == "__main__":
    main()
