"""The staircase kernels on a GPU compared with the dense MLP, cuBLAS, and other ways to skip learners, with limits.

Everything is bfloat16. All sides run as CUDA graphs over rotating inputs; blocks of a case alternate with blocks of its
baseline (device_timing.py). Learner counts are random, binomial(N, share) for each token, and come from the gate
(kernel_cases.py). The dense MLP is the fastest of several (dense_rivals.py). The result file is rewritten after every
figure, so a run that is cut off keeps what it measured.

    python benchmarks/kernels.py --device h100 [--seconds 180] [--tiles OTHER.json]
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import kernel_figures as figures
import numpy as np
import torch
from common import ResultFile, parser
from device_timing import device_facts
from kernel_bench import QUICK, Bench, Setting
from kernel_cases import read_table
from kernel_report import Report
from packed_kernels import packed
from rival_figures import rivals

if TYPE_CHECKING:
    from kernel_report import Row


def measure(bench: Bench) -> None:
    """Run all parts, the most important first."""
    setting, attempt = bench.setting, bench.report.attempt
    attempt("peak", partial(figures.peak, bench))
    attempt("dense", partial(figures.dense, bench))
    limited: list[tuple[int, float, float | None]] = [(setting.batch, share, share + 0.1) for share in setting.shares]
    limited += [(setting.image, 0.5, 0.9), (setting.image, 1.0, None)]
    for tokens, share, limit in [*limited, *((tokens, 0.5, None) for tokens in setting.few)]:
        attempt(f"{tokens} tokens, share {share}", partial(figures.gated, bench, tokens, share, limit))
    attempt("rate", partial(figures.rate, bench))
    attempt("routing", partial(figures.routing, bench))
    attempt("rivals", partial(rivals, bench))
    attempt("entries", partial(figures.table_entries, bench))
    attempt("line", partial(figures.line, bench))
    attempt("energy", partial(figures.energy, bench))
    attempt("pack", partial(packed, bench))


def plot(rows: list[Row], path: Path) -> None:
    """Plot time of the op against executed multiply-adds, with the fit and the residuals."""
    points = [row for row in rows if row.part == figures.LINE and "executed" in row.facts]
    fits = [row.facts for row in rows if row.part == figures.LINE and "r2" in row.facts]
    if not fits:
        return
    from matplotlib import pyplot as plt

    fit, x, us = fits[0], np.array([row.facts["executed"] for row in points]), [row.us for row in points]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 6), sharex=True, height_ratios=(2, 1))
    top.plot(x, us, "o")
    top.plot(x, fit["fixed_us"] + fit["us_per_x"] * x, "-", label=f"R² = {fit['r2']:.4f}")
    top.set(ylabel="µs", title="Time of the op", ylim=(0, None))
    top.legend()
    bottom.plot(x, fit["residuals_us"], "o")
    bottom.axhline(0)
    bottom.set(xlabel="executed multiply-adds", ylabel="residual (µs)")
    figure.tight_layout()
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=120)


def main() -> None:
    """Measure, print and write; exit code 1 if a figure failed."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--seconds", type=float, default=180.0, help="time limit; no figure starts later (%(default)s)"
    )
    arguments.add_argument("--tiles", type=Path, help="tile table to use instead of plugins/kernels/tiles.json")
    options = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: this measures a GPU; for tile waste without one: python benchmarks/tile_waste.py")
    table = read_table(options.tiles) if options.tiles else None
    result = ResultFile("kernels", options)
    bench = Bench(Setting(table=table, **(QUICK if options.quick else {})), Report(result, options.seconds))
    result.add("device", device_facts())
    result.add("tiles", options.tiles.name if options.tiles else "of the package")
    with torch.no_grad():
        measure(bench)
    bench.report.show()
    bench.report.attempt("plot", partial(plot, bench.report.rows, result.path))
    print(f"wrote {result.path}")
    sys.exit(bench.report.failed)


if __name__ == "__main__":
    main()
