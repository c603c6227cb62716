"""``acm-export latency``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from acm_export.cli.common import need_export_packages, numbers, progress, verb, write_json, write_table

if TYPE_CHECKING:
    from acm_export.timing.checks import Demands
    from acm_export.timing.result import Result

_RUNTIMES = ("onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "pytorch")
_WITH_TRTEXEC = (
    "model", "trtexec_times", "batch", "streams", "assert_p99", "compare", "max_regression", "output", "as_json",
    "debug",
)  # fmt: skip
_FILE = click.Path(path_type=Path, dir_okay=False)
_PATH = click.Path(path_type=Path)


def _batches(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(item) for item in value.split(",") if item.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} are no batch sizes, as in 1,8") from error
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} are no batch sizes, as in 1,8")
    return sizes


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not 0 < value < float("inf"):
        raise click.BadParameter(f"{value} are no seconds, as in 2.5")
    return value


@click.command(short_help="Time a file for each budget and for controlled routing.")
@click.argument("model", type=_PATH, required=False)
@click.option("--budgets", callback=numbers, metavar="B,...", help="From the calibrated table; else the file's own.")
@click.option("--threshold", type=float, help="One τ for every gated learner, for files that are not calibrated.")
@click.option("--baseline", type=_PATH, help="Dense ONNX file, engine or checkpoint, as MODEL is; timed in between.")
@click.option("--data", help="Data to time, as for calibrate; random inputs by default.")
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option("--batch", callback=_batches, default="1", show_default=True, metavar="N,...", help="Samples of a run.")
@click.option(
    "--duration", type=float, callback=_seconds, default=2.0, show_default=True, metavar="SECONDS",
    help="Of timed runs, for each routing and budget, and as long for the baseline.",
)  # fmt: skip
@click.option("--runs", type=click.IntRange(1), metavar="N", help="Timed runs, in place of --duration.")
@click.option(
    "--runtime", type=click.Choice(_RUNTIMES), help="What runs it: by default tensorrt for engines, else onnxruntime."
)
@click.option("--plugin", type=_FILE, metavar="LIB", help="Plugin library; by default the one beside MODEL.")
@click.option("--engine-cache", type=_PATH, metavar="DIR", help="Where onnxruntime-tensorrt keeps what it builds.")
@click.option(
    "--onnx", "source", type=_FILE, metavar="SOURCE.onnx", help="What the engine was built from, to measure β."
)
@click.option("--checkpoint", type=_PATH, metavar="DIR", help="Folder that MODEL was exported from, for pytorch.")
@click.option("--streams", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Runs at once.")
@click.option("--cuda-graph", is_flag=True, help="Launch each run as one CUDA graph, where the runtime can.")
@click.option("--assert-p99", multiple=True, metavar="T@B", help="Fail where p99 exceeds this, as in 4ms@0.5.")
@click.option("--compare", type=_FILE, metavar="OLD.json", help="Fail where a median grew against this result.")
@click.option("--max-regression", default="5%", show_default=True, metavar="P", help="By how much it may grow.")
@click.option("--trtexec-times", type=_FILE, metavar="FILE", help="Read times of trtexec, in place of running MODEL.")
@click.option("-o", "--output", type=_FILE, help="Write the result to this JSON file.")
@click.option("--plot", type=_FILE, metavar="F.png|svg", help="Draw time against β.")
@verb
def latency(
    model: Path | None,
    budgets: list[float],
    threshold: float | None,
    baseline: Path | None,
    data: str | None,
    processor: Path | None,
    batch: tuple[int, ...],
    duration: float,
    runs: int | None,
    runtime: str | None,
    plugin: Path | None,
    source: Path | None,
    checkpoint: Path | None,
    engine_cache: Path | None,
    streams: int,
    cuda_graph: bool,
    assert_p99: tuple[str, ...],
    compare: Path | None,
    max_regression: str,
    trtexec_times: Path | None,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time MODEL, a file or an engine, with tokens routed as the data want, all least, all most, and skewed.

    Times go from feeding to outputs in host memory, after a warm-up, in blocks between which the baseline is timed.
    Exit code 1 where an assertion or comparison does not hold, or after an interrupt or an error of the runtime, which
    keep the runs that were done. How not to fool oneself: docs/measuring.md.

    \b
    Examples:
      acm-export latency calibrated.onnx --budgets 0.25,0.5,1 --data images.npz --baseline dense.onnx -o cpu.json
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --assert-p99 4ms@0.5
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --compare cpu.json --max-regression 5%
      acm-export latency calibrated.plan --budgets 0.25,0.5,1 --data images.npz --baseline dense.plan --cuda-graph
      acm-export latency calibrated.onnx --runtime pytorch --checkpoint acm-vit-b --baseline vit-b --budgets 0.5
      acm-export latency m.plan --trtexec-times times.json --assert-p99 4ms
    """
    from acm_export.timing.device import load_average

    load = load_average()
    from acm_export.timing.backends import Asked
    from acm_export.timing.checks import read_demands
    from acm_export.timing.clock import SystemClock
    from acm_export.timing.measure import Effort
    from acm_export.timing.request import Request, Surveyor, carry_out, check_outputs, read_trtexec

    command = shlex.join(["acm-export", *sys.argv[1:]])
    demands = read_demands(assert_p99, compare, max_regression)
    check_outputs((model, baseline, source, trtexec_times, plugin, data, checkpoint), output, plot)
    if trtexec_times is not None:
        _only(_WITH_TRTEXEC, "--trtexec-times")
        result = read_trtexec(trtexec_times, model, demands, batch, streams, command)
        _report(result, 1, demands, output, None, as_json=as_json)
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    if runtime == "pytorch":
        need_export_packages()
    asked = Asked(runtime, cuda_graph, plugin, source, checkpoint, engine_cache)
    effort = Effort(duration, runs)
    request = Request(model, asked, budgets, threshold, batch, streams, baseline, data, processor, effort)
    surveyor = Surveyor(SystemClock(), progress, lambda text: click.echo(text, err=True), command, load)
    result, planned = carry_out(request, demands, surveyor)
    _report(result, planned, demands, output, plot, as_json=as_json)


def _only(allowed: tuple[str, ...], option: str) -> None:
    """Refuse options that mean nothing beside another."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and parameter.name not in allowed:
            raise click.UsageError(f"{parameter.opts[0]} means nothing with {option}, which runs nothing")


def _report(
    result: Result, planned: int, demands: Demands, output: Path | None, plot: Path | None, *, as_json: bool
) -> None:
    """Write and show a result, and end with exit code 1 where it is partial or does not hold."""
    from acm_export.base.files import write_text
    from acm_export.report.latency_chart import write_picture
    from acm_export.timing import checks
    from acm_export.timing.result_file import to_text

    _show(result, as_json=as_json)  # first: no space left on a disk must not cost the numbers
    if output is not None:
        write_text(to_text(result), output)
    if plot is not None:
        write_picture(result, plot)
    for difference in checks.differences(demands.old, result) if demands.old is not None else ():
        click.echo(f"{click.style('warning:', fg='yellow')} {difference}", err=True)
    failures = list(checks.failures(demands, result))
    if result.partial:
        kept = "they are shown alone" if output is None else f"they are in {output}, marked as partial"
        what = "interrupted" if result.error is None else f"{result.error}; stopped"
        failures.append(f"{what} after {len(result.runs)} of {planned} runs; {kept}")
    for failure in failures:
        click.echo(f"{click.style('error:', fg='red')} {failure}", err=True)
    if failures:
        raise SystemExit(1)


def _show(result: Result, *, as_json: bool) -> None:
    from acm_export.report.latency import describe_latency, device_table, latency_table

    if as_json:
        write_json(result.to_json())
    else:
        write_table(latency_table(result), *describe_latency(result))
        if (apart := device_table(result)) is not None:
            write_table(apart)
    for warning in result.warnings:
        click.echo(f"{click.style('warning:', fg='yellow')} {warning}", err=True)
