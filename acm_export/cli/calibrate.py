"""``acm-export calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import numbers, progress, verb, write_json, write_table


@click.command(short_help="Find gate thresholds for any budget, and write them into a file.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="An .npz file, a folder of images, or MODULE:FUNCTION that yields feeds.")
@click.option("--budgets", callback=numbers, metavar="B,...", help="Shares of learner FLOPs, as in 0.25,0.4,0.6.")
@click.option("--flops", metavar="F,...", help="Budgets as FLOPs of the whole model for one sample, as in 17.5G,20G.")
@click.option("--latency-target", metavar="T,...", help="Budgets as times on the device, as in 4ms,6ms.")
@click.option(
    "--latency-file", type=click.Path(path_type=Path, dir_okay=False), help="What `latency --json` measured of MODEL."
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option(
    "--solver", type=click.Choice(["sensitivity", "uniform"]), default="sensitivity", show_default=True,
    help="How thresholds are chosen.",
)  # fmt: skip
@click.option("--budget-input", is_flag=True, help="Let the graph take the budget as an input of every call.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to this HTML file.")
@click.option("--processor", type=click.Path(path_type=Path), help="Folder with preprocessor_config.json, for images.")
@click.option("--samples", type=click.IntRange(1), help="Use the first so many samples.")
@click.option("--probe-samples", type=click.IntRange(1), default=256, show_default=True, help="To probe learners with.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Samples at a time.")
@click.option(
    "--precision", type=click.FloatRange(0, min_open=True), metavar="P",
    help="Fail where two standard errors of a budget exceed this, and say how many samples are enough.",
)  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="What runs it.")
@verb
def calibrate(
    model: Path,
    data: str,
    budgets: list[float],
    flops: str | None,
    latency_target: str | None,
    latency_file: Path | None,
    output: Path,
    solver: str,
    budget_input: bool,
    report: Path | None,
    processor: Path | None,
    samples: int | None,
    probe_samples: int,
    batch: int,
    precision: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Run data through MODEL and write a file with a table from budgets to thresholds.

    The table reaches from the smallest possible budget to 1 and meets the given ones; `set-budget` picks from it. Four
    fifths of the data make the table, the rest checks it. The file is set to the trained thresholds, τ = 0; with
    --budget-input its default is the budget that those have.

    \b
    Examples:
      acm-export calibrate acm-vit-b.onnx --data images.npz --budgets 0.25,0.4,0.6 -o calibrated.onnx
      acm-export calibrate acm-vit-b.onnx --data photos/ --processor acm-vit-b --flops 20G -o calibrated.onnx
      acm-export calibrate m.onnx --data images.npz --latency-target 4ms --latency-file orin.json -o m4.onnx
    """
    if (latency_target is None) != (latency_file is None):
        raise click.UsageError("--latency-target and --latency-file belong together")
    from acm_export.base.optional import require

    require("onnxruntime")
    if report is not None:
        require("matplotlib")
    from acm_export.base.files import check_writable, write_text
    from acm_export.calibration.budgets import requested_budgets
    from acm_export.calibration.calibrate import Options, find
    from acm_export.data.sources import open_source
    from acm_export.onnx_file.rewrite import write_calibrated
    from acm_export.report.calibration import calibration_json, calibration_table, describe_calibration
    from acm_export.runtimes.onnx_runtime import CpuSession, CudaSession

    asked = requested_budgets(model, budgets, flops, latency_target, latency_file)
    options = Options(
        solver, budget_input, batch, samples, probe_samples, precision,
        CudaSession if device == "cuda" else CpuSession, with_examples=report is not None,
    )  # fmt: skip
    check_writable(output)
    if report is not None:
        check_writable(report, "--report")
    with progress() as shown:
        source = open_source(data, processor, model.absolute().parent)
        calibrated = find(model, source, asked, output, options, shown)
        if report is not None:
            from acm_export.report.calibration_page import page

            shown.stage("drawing the report", None)
            text = page(calibrated)
    write_calibrated(model, calibrated.manifest, output)
    if report is not None:
        write_text(text, report, "--report")
    if as_json:
        write_json(calibration_json(calibrated))
        return
    write_table(calibration_table(calibrated), *describe_calibration(calibrated))
