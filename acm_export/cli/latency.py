"""``acm-export latency``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from acm_export.cli.common import numbers, progress, verb, write_json, write_table

if TYPE_CHECKING:
    from acm_export.latency.checks import Assertion
    from acm_export.latency.result import Result

_RUNTIMES = ("onnxruntime", "onnxruntime-cuda")
_FILE = click.Path(path_type=Path, dir_okay=False)


def _batches(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(item) for item in value.split(",") if item.strip())
    except ValueError as error:
        raise click.BadParameter(f"{value!r} are no batch sizes, as in 1,8") from error
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{value!r} are no batch sizes, as in 1,8")
    return sizes


@click.command(short_help="Time a file for each budget and for controlled routing.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--budgets", callback=numbers, metavar="B,...", help="From the calibrated table; else the file's own.")
@click.option("--threshold", type=float, help="One τ for every gated learner, for files that are not calibrated.")
@click.option("--baseline", type=_FILE, help="An ONNX file with the same inputs, timed in between.")
@click.option("--data", help="An .npz file, a folder of images, or MODULE:FUNCTION; else random inputs.")
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option("--batch", callback=_batches, default="1", show_default=True, metavar="N,...", help="Samples of a run.")
@click.option(
    "--duration", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, metavar="SECONDS",
    help="Of timed runs, for each routing and budget, and as long for the baseline.",
)  # fmt: skip
@click.option("--runs", type=click.IntRange(1), metavar="N", help="Timed runs, in place of --duration.")
@click.option("--runtime", type=click.Choice(_RUNTIMES), default=_RUNTIMES[0], show_default=True, help="What runs it.")
@click.option("--assert-p99", multiple=True, metavar="T@B", help="Fail where p99 exceeds this, as in 4ms@0.5.")
@click.option("--compare", type=_FILE, metavar="OLD.json", help="Fail where a median grew against this result.")
@click.option("--max-regression", default="5%", show_default=True, metavar="P", help="By how much it may grow.")
@click.option("-o", "--output", type=_FILE, help="Write the result to this JSON file.")
@click.option("--plot", type=_FILE, metavar="F.png|svg", help="Draw time against β.")
@verb
def latency(
    model: Path,
    budgets: list[float],
    threshold: float | None,
    baseline: Path | None,
    data: str | None,
    processor: Path | None,
    batch: tuple[int, ...],
    duration: float,
    runs: int | None,
    runtime: str,
    assert_p99: tuple[str, ...],
    compare: Path | None,
    max_regression: str,
    output: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time MODEL, a portable file, with tokens routed as the data want, all least, all most, and as skewed as can be.

    Times go from feeding to outputs in host memory, after a warm-up, in blocks between which the baseline is timed.
    Exit code 1 where an assertion or comparison does not hold, or after an interrupt, which keeps the runs that were
    done. How not to fool oneself: docs/measuring.md.

    \b
    Examples:
      acm-export latency calibrated.onnx --budgets 0.25,0.5,1 --data images.npz --baseline dense.onnx -o cpu.json
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --assert-p99 4ms@0.5
      acm-export latency calibrated.onnx --budgets 0.5 --data images.npz --compare cpu.json --max-regression 5%
    """
    from acm_export.latency.device import load_average
    from acm_export.optional import require

    load = load_average()
    require("onnxruntime")
    from acm_export.calibration.sources import open_source
    from acm_export.files import check_writable, sha256_of, write_text
    from acm_export.latency import checks
    from acm_export.latency.clock import SystemClock
    from acm_export.latency.latency import Origin, time_file
    from acm_export.latency.measure import Effort
    from acm_export.latency.plan import plan, prepare
    from acm_export.latency.result import read_result, to_text
    from acm_export.latency.runtime import RUNTIMES
    from acm_export.latency.sides import Sides, check_baseline
    from acm_export.report.latency_chart import check_picture, write_picture

    planned = plan(model, budgets=budgets, threshold=threshold, batches=batch, session=RUNTIMES[runtime])
    assertions = [checks.parse_assertion(text) for text in assert_p99]
    checks.check_assertions(assertions, [choice.budget_requested for choice in planned.choices])
    allowed = checks.parse_percent(max_regression)
    old = None if compare is None else read_result(compare)
    if old is not None and compare is not None:
        checks.check_comparable(old, compare, sha256_of(model), model)
    if baseline is not None:
        check_baseline(baseline, planned.inputs, model)
    for target in (output, plot):
        if target is not None and target.resolve() in {
            path.resolve() for path in (model, baseline) if path is not None
        }:
            raise click.UsageError(f"{target} is what is measured, and would be replaced")
    if output is not None:
        check_writable(output)
    if plot is not None:
        check_picture(plot)
        check_writable(plot, "--plot")
    source = None if data is None else open_source(data, processor, model.absolute().parent)
    with progress() as shown:
        prepared = prepare(planned, source, shown)
    if old is not None:
        checks.check_common(old, [(run.feeds.shapes, run.routing, run.budget_requested) for run in prepared])
    sides = Sides(planned, baseline)
    origin = Origin(shlex.join(["acm-export", *sys.argv[1:]]), load, baseline)
    try:
        result = time_file(
            planned,
            prepared,
            sides,
            Effort(duration, runs),
            SystemClock(),
            origin,
            lambda text: click.echo(text, err=True),
        )
    finally:
        sides.close()
    if output is not None:
        write_text(to_text(result), output)
    if plot is not None:
        write_picture(result, plot)
    _show(result, as_json=as_json)
    _judge(result, len(prepared), output, assertions, old, allowed)


def _show(result: Result, *, as_json: bool) -> None:
    from acm_export.report.latency import describe_latency, latency_table

    if as_json:
        write_json(result.to_json())
    else:
        write_table(latency_table(result), *describe_latency(result))
    for warning in result.warnings:
        click.echo(f"{click.style('warning:', fg='yellow')} {warning}", err=True)


def _judge(
    result: Result, planned: int, output: Path | None, assertions: list[Assertion], old: Result | None, allowed: float
) -> None:
    from acm_export.latency import checks

    failures = list(checks.failed_assertions(assertions, result.runs))
    if old is not None:
        for difference in checks.differences(old, result):
            click.echo(f"{click.style('warning:', fg='yellow')} {difference}", err=True)
        failures += checks.regressions(old, result, allowed)
    if result.partial:
        kept = "they are shown alone" if output is None else f"they are in {output}, marked as partial"
        failures.append(f"interrupted after {len(result.runs)} of {planned} runs; {kept}")
    for failure in failures:
        click.echo(f"{click.style('error:', fg='red')} {failure}", err=True)
    if failures:
        raise SystemExit(1)
