"""A latency result as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.timing.result import Result

_TIMES = ("mean", "std", "p50", "p90", "p95", "p99", "max")


def latency_table(result: Result) -> Table:
    """One row for each run, in milliseconds of host time."""
    runtime, streams = result.runtime, max((run.streams for run in result.runs), default=1)
    parts = [
        " ".join(filter(None, (runtime.name, runtime.version))), runtime.provider, result.device.name,
        f"{streams} streams at once" if streams > 1 else None, "CUDA graphs" if result.cuda_graph else None, "ms",
    ]  # fmt: skip
    title = f"{result.model.file}: {', '.join(part for part in parts if part)}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("batch", justify="right")
    table.add_column("routing")
    columns = ("β asked", "β", *_TIMES, "runs", "samples/s", *(("÷ baseline",) if result.baseline else ()))
    for column in columns:
        table.add_column(column, justify="right")
    for index, run in enumerate(result.runs):
        host = run.host_ms
        values = [getattr(host, name) for name in _TIMES]
        table.add_row(
            "" if run.batch is None else str(run.batch), run.routing,
            "" if run.budget_requested is None else f"{run.budget_requested:.3g}",
            "" if run.budget_measured is None else f"{run.budget_measured:.3f}",
            *("" if value is None else short(value) for value in values),
            str(host.n), "" if run.throughput is None else short(run.throughput),
            *((f"{result.baseline.runs[index].ratio:.2f}",) if result.baseline else ()),
        )  # fmt: skip
    return table


def device_table(result: Result) -> Table | None:
    """Where host time goes, one row for each run, in milliseconds; None where the runtime tells nothing."""
    if all(run.device_ms is None for run in result.runs):
        return None
    table = Table(title="where it goes, ms", title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("batch", justify="right")
    table.add_column("routing")
    for column in ("β", "host p50", "device p50", "device p99", "enqueue p50", "transfer p50"):
        table.add_column(column, justify="right")
    for run in result.runs:
        device, enqueue, transfer = run.device_ms, run.enqueue_ms, run.transfer_ms
        table.add_row(
            "" if run.batch is None else str(run.batch), run.routing,
            "" if run.budget_measured is None else f"{run.budget_measured:.3f}", short(run.host_ms.p50),
            "" if device is None else short(device.p50), "" if device is None else short(device.p99),
            "" if enqueue is None else short(enqueue.p50), "" if transfer is None else short(transfer.p50),
        )  # fmt: skip
    return table


def short(value: float) -> str:
    """Three digits, more where they stand before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def describe_latency(result: Result) -> Iterator[str]:
    """Lines below the table."""
    line = result.fit
    if line.fixed_ms is not None and line.ms_per_budget is not None:
        good = "" if line.r2 is None else f", R² {line.r2:.3f}"
        yield (
            f"p50 = {line.fixed_ms:.4g} ms + {line.ms_per_budget:.4g} ms · β{good}, over data, least and most of "
            f"batch {result.runs[0].batch}"
        )
    else:
        yield "no line of time against β: it takes three different β of one batch"
    if result.baseline is not None:
        yield f"÷ baseline: ratio of the medians, {result.baseline.model.file} timed in between"
