"""The plot of a latency result: time against β, with the fitted line, p99 and the baselines."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from acm_export.base.files import move_into_place, staging_folder
from acm_export.base.optional import require
from acm_export.timing.result import first_batch

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.timing.result import LatencyResult

_STYLES = {"data": ("o", "#1f77b4"), "skewed": ("s", "#d9822b"), "least": ("v", "#2f9e63"), "most": ("^", "#8e5ea2")}


def write_plot(result: LatencyResult, path: Path) -> None:
    """Plot the runs of the first batch size.

    Args:
        result: Result to plot.
        path: Path of the plot, .png or .svg.

    Raises:
        OutputError: The plot cannot be written.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    first = [(index, result.runs[index]) for index in first_batch(result.runs)]
    for routing, (marker, color) in _STYLES.items():
        runs = [run for _, run in first if run.routing == routing and run.budget_measured is not None]
        budgets = [run.budget_measured for run in runs if run.budget_measured is not None]
        if not runs:
            continue
        axes.scatter(budgets, [r.host_ms.p50 for r in runs], marker=marker, color=color, label=f"{routing}: p50")
        axes.scatter(budgets, [r.host_ms.p99 for r in runs], marker=marker, facecolors="none", edgecolors=color)
        axes.vlines(budgets, [r.host_ms.p50 for r in runs], [r.host_ms.p99 for r in runs], color=color, linewidth=0.8)
    axes.scatter([], [], facecolors="none", edgecolors="gray", label="hollow: p99")
    line = result.fit
    if line.fixed_ms is not None and line.ms_per_budget is not None:
        label = f"{line.fixed_ms:.3g} ms + {line.ms_per_budget:.3g} ms · β"
        axes.plot([0, 1], [line.fixed_ms, line.fixed_ms + line.ms_per_budget], color="gray", linewidth=1, label=label)
    for name, baseline, style in (
        ("baseline", result.baseline, "--"),
        ("int8 baseline", result.baseline_int8, ":"),
    ):
        if baseline is not None:
            level = median(baseline.runs[i].host_ms.p50 for i, _ in first)
            axes.axhline(level, color="black", linestyle=style, linewidth=1, label=f"{name}: p50 {level:.3g} ms")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("β (measured share of learner FLOPs that run)")
    axes.set_ylabel("latency (ms)")
    lengths = "" if result.runs[0].lengths is None else f", {result.runs[0].lengths}"
    axes.set_title(
        f"{result.model.file}, batch {result.runs[0].batch}{lengths}, {result.runtime.provider}", fontsize=10
    )
    axes.grid(linewidth=0.4)
    axes.legend(frameon=False, fontsize=8)
    with staging_folder(path, "--plot") as staging, require("matplotlib").rc_context({"svg.hashsalt": "acm-export"}):
        figure.savefig(staging / path.name, dpi=150)
        move_into_place(staging / path.name, path)
