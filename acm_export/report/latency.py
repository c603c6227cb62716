"""A latency result as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from acm_export.timing.routing import DATA

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from acm_export.timing.result import LatencyResult, RunResult
    from acm_export.timing.statistics import Statistics

_STATISTICS = ("mean", "std", "p50", "p90", "p95", "p99", "max")


def latency_table(result: LatencyResult) -> Table:
    """One row for each run, with host times in milliseconds; empty columns are omitted."""
    runtime, streams = result.runtime, max((run.streams for run in result.runs), default=1)
    parts = (
        result.precision if "int8" in (result.precision or "") else None,
        " ".join(filter(None, (runtime.name, runtime.version))),
        runtime.provider,
        result.device.name,
        f"{streams} concurrent streams" if streams > 1 else None,
        "CUDA graphs" if result.cuda_graph else None,
        "ms",
    )
    shown, columns = _whole(result)
    runs = [result.runs[index] for index in shown]
    columns["target β"] = ["" if r.budget_requested is None else f"{r.budget_requested:.3g}" for r in runs]
    columns["β"] = ["" if r.budget_measured is None else f"{r.budget_measured:.3f}" for r in runs]
    for name in _STATISTICS:
        columns[name] = [_short(getattr(r.host_ms, name)) for r in runs]
    columns["runs"] = [str(r.host_ms.n) for r in runs]
    columns["samples/s"] = [_short(r.throughput) for r in runs]
    if result.baseline is not None:
        columns["÷ baseline"] = [f"{result.baseline.runs[index].ratio:.2f}" for index in shown]
    if result.baseline_int8 is not None:
        columns["÷ int8 baseline"] = [f"{result.baseline_int8.runs[index].ratio:.2f}" for index in shown]
    return _table(f"{result.model.file}: {', '.join(part for part in parts if part)}", columns)


def length_table(result: LatencyResult) -> Table | None:
    """One row for each bucket of lengths, for the runs that the gates routed; None if all requests have one shape."""
    shown = [i for i, run in enumerate(result.runs) if not run.is_whole and run.routing == DATA]
    if not shown:
        return None
    runs = [result.runs[index] for index in shown]
    columns = {name: cells for name, cells in _run_columns(runs).items() if name != "routing"}
    columns["requests"] = ["" if r.lengths is None else str(r.lengths.requests) for r in runs]
    columns["target β"] = ["" if r.budget_requested is None else f"{r.budget_requested:.3g}" for r in runs]
    columns["β"] = ["" if r.budget_measured is None else f"{r.budget_measured:.3f}" for r in runs]
    for name in ("mean", "p50", "p90", "p99", "max"):
        columns[name] = [_short(getattr(r.host_ms, name)) for r in runs]
    columns["runs"] = [str(r.host_ms.n) for r in runs]
    if result.baseline is not None:
        columns["÷ baseline"] = [f"{result.baseline.runs[index].ratio:.2f}" for index in shown]
    if result.baseline_int8 is not None:
        columns["÷ int8 baseline"] = [f"{result.baseline_int8.runs[index].ratio:.2f}" for index in shown]
    return _table("by length, routed by the gates (ms)", columns)


def breakdown_table(result: LatencyResult) -> Table | None:
    """Host, device, enqueue and transfer time of each run; None if the runtime reports no device times."""
    shown, columns = _whole(result)
    runs = [result.runs[index] for index in shown]
    if all(run.device_ms is None for run in runs):
        return None
    columns["β"] = ["" if r.budget_measured is None else f"{r.budget_measured:.3f}" for r in runs]
    columns["host p50"] = [_short(r.host_ms.p50) for r in runs]
    columns["device p50"] = [_median(r.device_ms) for r in runs]
    columns["device p99"] = ["" if r.device_ms is None else _short(r.device_ms.p99) for r in runs]
    columns["enqueue p50"] = [_median(r.enqueue_ms) for r in runs]
    columns["transfer p50"] = [_median(r.transfer_ms) for r in runs]
    return _table("time breakdown (ms)", columns)


def percentile_table(result: LatencyResult) -> Table | None:
    """The additional percentiles that were requested; None if there are none."""
    shown, columns = _whole(result)
    runs = [result.runs[index] for index in shown]
    if all(run.percentiles is None for run in runs):
        return None
    columns["target β"] = ["" if r.budget_requested is None else f"{r.budget_requested:.3g}" for r in runs]
    for time in ("host_ms", "device_ms"):
        for name in dict.fromkeys(name for run in runs for name in (run.percentiles or {}).get(time, {})):
            cells = [_short((run.percentiles or {}).get(time, {}).get(name)) for run in runs]
            columns[f"{time.removesuffix('_ms')} {name}"] = cells
    return _table("additional percentiles (ms)", columns)


def describe_latency(result: LatencyResult) -> Iterator[str]:
    """Notes below the table."""
    if result.runtime.name != "trtexec" and all(run.budget_requested is None for run in result.runs):
        others = [run.routing for run in result.runs if run.routing != DATA]
        controlled = "; skewed, least and most use controlled routing" if others else ""
        yield f"no budgets requested: data ran at the thresholds of the file or of --threshold{controlled}"
    line = result.fit
    if line.fixed_ms is not None and line.ms_per_budget is not None:
        r2 = "" if line.r2 is None else f", R² {line.r2:.3f}"
        yield (
            f"p50 = {line.fixed_ms:.4g} ms + {line.ms_per_budget:.4g} ms · β{r2}, over data, least and most at "
            f"batch {result.runs[0].batch}"
        )
    else:
        yield "latency was not fitted against β: that needs at least three different β at one batch size"
    lengths = result.runs[0].lengths if result.runs else None
    if lengths is not None:
        yield f"{lengths.requests} requests of {lengths}, each at its own shape and equally often"
    if result.baseline is not None:
        how = "ratio of the medians" if lengths is None else "median of the ratios of single requests"
        yield f"÷ baseline: {how}; {result.baseline.model.file} was timed between the blocks"
    if result.baseline_int8 is not None:
        yield f"÷ int8 baseline: the same for {result.baseline_int8.model.file}, in the same blocks"


def _whole(result: LatencyResult) -> tuple[list[int], dict[str, Sequence[str]]]:
    """Indices of the runs over all requests, and their first columns."""
    shown = [index for index, run in enumerate(result.runs) if run.is_whole]
    return shown, _run_columns([result.runs[index] for index in shown])


def _run_columns(runs: Sequence[RunResult]) -> dict[str, Sequence[str]]:
    batches = ["" if run.batch is None else str(run.batch) for run in runs]
    axis = next((run.lengths.axis for run in runs if run.lengths is not None), "length")
    lengths = ["" if run.lengths is None else str(run.lengths).removesuffix(f" {axis}") for run in runs]
    shown = {axis: lengths} if len(set(lengths)) > 1 else {}
    return {"batch": batches, **shown, "routing": [run.routing for run in runs]}


def _table(title: str, columns: dict[str, Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    for name in shown:
        table.add_column(name, justify="left" if name == "routing" else "right")
    for row in zip(*shown.values(), strict=True):
        table.add_row(*row)
    return table


def _median(statistics: Statistics | None) -> str:
    return "" if statistics is None else _short(statistics.p50)


def _short(value: float | None) -> str:
    """Three significant digits, or all digits of the integer part; empty for None."""
    if value is None:
        return ""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
