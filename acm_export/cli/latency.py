"""``acm-export latency``."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acm_export.base.durations import parse_duration
from acm_export.base.errors import UsageError
from acm_export.cli.common import DATA, PROCESSOR, need_export_packages, numbers, verb, warn, write_json, write_table

if TYPE_CHECKING:
    from acm_export.timing.result import LatencyResult

_RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "pytorch")
_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path)


def _batches(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(item) for item in value.split(",") if item.strip())
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} is not a list of batch sizes; write it as 1,8")
    return sizes


def _duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Seconds."""
    try:
        return None if value is None else parse_duration(value, "s")
    except UsageError as error:
        raise click.BadParameter(f"{error}; {error.hint}") from error


def _percentiles(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[float]:
    return [percent for value in values for percent in numbers(context, parameter, value)]


@click.command(short_help="Time a model for each budget and for controlled routing.")
@click.argument("model", type=_PATH, required=False)
@click.option(
    "--budgets", callback=numbers, metavar="B,...", help="Budgets β to time. [default: the current setting of MODEL]"
)
@click.option("--threshold", type=float, help="One τ for every gated learner, for models that are not calibrated.")
@click.option(
    "--baseline",
    type=_PATH,
    help="Dense model to time between blocks of MODEL: an ONNX file, an engine or a checkpoint.",
)
@click.option(
    "--baseline-int8",
    is_flag=True,
    help="Also time an int8 version of --baseline, quantised with the options of MODEL; needs --data if static.",
)
@click.option("--data", help=f"Real inputs: {DATA}. [default: random inputs]")
@click.option("--processor", type=_PATH, help=PROCESSOR)
@click.option("--batch", callback=_batches, default="1", show_default=True, metavar="N,...", help="Batch sizes.")
@click.option(
    "--duration",
    callback=_duration,
    default="2s",
    show_default=True,
    metavar="T",
    help="Duration of the timed runs for each batch size, budget and routing, and the same for the baseline.",
)
@click.option("--runs", type=click.IntRange(1), metavar="N", help="Number of timed runs, instead of --duration.")
@click.option(
    "--warm-up",
    callback=_duration,
    metavar="T",
    help="Duration of the warm-up before the timed runs. [default: until times are stable, at most 5 s]",
)
@click.option(
    "--percentile",
    "percentiles",
    multiple=True,
    callback=_percentiles,
    metavar="P,...",
    help="Percentiles in addition to p50, p90, p95 and p99, such as 99.9; may be repeated.",
)
@click.option(
    "--runtime",
    type=click.Choice(_RUNTIMES),
    help="Runtime. [default: tensorrt for an engine, else onnxruntime]",
)
@click.option("--plugin", type=_FILE, metavar="LIB", help="Plugin library. [default: the one next to MODEL]")
@click.option("--engine-cache", type=_PATH, metavar="DIR", help="Folder for the engines of onnxruntime-tensorrt.")
@click.option(
    "--onnx", type=_FILE, metavar="SOURCE.onnx", help="The ONNX file that the engine was built from, to measure β."
)
@click.option("--checkpoint", type=_PATH, metavar="DIR", help="Folder that MODEL was exported from, for pytorch.")
@click.option(
    "--part", metavar="NAME", help="Part of a --baseline folder, for pytorch. [default: the part that MODEL contains]"
)
@click.option(
    "--streams", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Concurrent streams."
)
@click.option("--cuda-graph", is_flag=True, help="Launch each run as a CUDA graph, if the runtime can.")
@click.option(
    "--assert-p99", multiple=True, metavar="T@B", help="Fail if p99 exceeds a time, such as 4ms@0.5; may be repeated."
)
@click.option(
    "--compare",
    type=_FILE,
    metavar="OLD.json",
    help="Fail if a run is slower than in this earlier result: its ratio to the baseline if both have one, else its "
    "median.",
)
@click.option(
    "--max-regression",
    default="5%",
    show_default=True,
    metavar="P",
    help="Largest accepted slowdown of a run, with --compare.",
)
@click.option(
    "--trtexec-times", type=_FILE, metavar="FILE", help="Read the times that trtexec exported; MODEL is not run."
)
@click.option("-o", "--output", type=_FILE, help="Write the result to this JSON file.")
@click.option("--plot", type=_FILE, metavar="F.png|svg", help="Plot latency against β.")
@verb
def latency(model: Path | None, *, as_json: bool, **options: Any) -> None:
    """Time MODEL, an ONNX file or an engine, with routing by the gates and with controlled routing.

    Controlled routing gives every token the fewest learners (least), all of them (most), or one of the two (skewed).
    Times are from inputs to outputs in host memory, after a warm-up. The baseline is timed between the blocks of the
    model. The exit code is 1 if an assertion or comparison fails, and after an interrupt or a runtime error; finished
    runs are kept. Measurement pitfalls: docs/measuring.md.

    \b
    Examples:
      acm-export latency calibrated.onnx --budgets 0.25,0.5,1 --data images.npz --baseline dense.onnx -o cpu.json
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --assert-p99 4ms@0.5
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --compare cpu.json --max-regression 5%
      acm-export latency int8.onnx --data images.npz --baseline dense.onnx --baseline-int8
      acm-export latency calibrated.plan --budgets 0.25,0.5,1 --data images.npz --baseline dense.plan --cuda-graph
      acm-export latency calibrated.onnx --runtime pytorch --checkpoint acm-vit-b --baseline vit-b --budgets 0.5
      acm-export latency m.plan --trtexec-times times.json --assert-p99 4ms
    """
    if model is None and options["trtexec_times"] is None:
        raise click.UsageError("missing argument MODEL")
    _check_combinations()
    if options["runtime"] == "pytorch":
        need_export_packages()
    from acm_export.base.errors import LatencyError
    from acm_export.timing.latency import latency as measure_latency
    from acm_export.timing.result import ResultNotWrittenError

    command = shlex.join(["acm-export", *sys.argv[1:]])
    try:
        result = measure_latency(model, **options, progress=_Steps(), command=command)
    except ResultNotWrittenError as error:  # a full disk must not lose the results
        reason = ": ".join(filter(None, (str(error), error.hint)))
        result = replace(error.result, failures=(*error.result.failures, reason))
    _show(result, as_json=as_json)
    if result.failures:
        raise LatencyError("; ".join(result.failures))


def _check_combinations() -> None:
    """Refuse options that have no effect beside the others."""
    context = click.get_current_context()

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE

    if given("duration") and given("runs"):
        raise click.UsageError("--duration and --runs exclude each other; give one of them")
    if given("max_regression") and not given("compare"):
        raise click.UsageError("--max-regression has no effect without --compare; give --compare OLD.json")


class _Steps:
    """Logs each step as a line: a progress bar would draw while runs are timed."""

    def stage(self, title: str, batches: int | None) -> None:  # noqa: ARG002
        logging.getLogger("acm_export").info("%s", title)

    def batch(self, note: str = "") -> None:
        """Nothing to show."""


def _show(result: LatencyResult, *, as_json: bool) -> None:
    from acm_export.report.latency import (
        breakdown_table,
        describe_latency,
        latency_table,
        length_table,
        percentile_table,
    )

    if as_json:
        write_json(result.to_json())
    else:
        write_table(latency_table(result), *describe_latency(result))
        for table in (length_table(result), percentile_table(result), breakdown_table(result)):
            if table is not None:
                write_table(table)
    for warning in result.warnings:
        warn(warning)
