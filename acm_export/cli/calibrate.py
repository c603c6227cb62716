"""``acm-export calibrate``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import DATA, PROCESSOR, numbers, progress, verb, write_json, write_table


@click.command(short_help="Find gate thresholds for any budget and write them to a file.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=f"Calibration data: {DATA}.")
@click.option("--budgets", callback=numbers, metavar="B,...", help="Shares of learner FLOPs, as in 0.25,0.4,0.6.")
@click.option("--flops", metavar="F,...", help="Budgets as FLOPs of the whole model for one sample, as in 17.5G,20G.")
@click.option("--latency-target", metavar="T,...", help="Budgets as latencies on the device, as in 4ms,6ms.")
@click.option(
    "--latency-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Result of `latency` for MODEL, for --latency-target.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option(
    "--solver",
    type=click.Choice(["sensitivity", "uniform"]),
    default="sensitivity",
    show_default=True,
    help="How thresholds are chosen.",
)
@click.option("--budget-input", is_flag=True, help="Make the budget an input of the graph, set in every call.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a report to this HTML file.")
@click.option("--processor", type=click.Path(path_type=Path), help=PROCESSOR)
@click.option("--samples", type=click.IntRange(1), help="Largest number of samples; the first ones are used.")
@click.option(
    "--probe-samples", type=click.IntRange(1), default=256, show_default=True, help="Samples for probing learners."
)
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Batch size.")
@click.option(
    "--precision",
    type=click.FloatRange(0, min_open=True),
    metavar="P",
    help="Fail if two standard errors of a budget exceed P; the error says how many samples are enough.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device to run MODEL on."
)
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
    """Run data through MODEL and write a file with a budget table, which maps budgets to thresholds.

    The table covers all budgets from the smallest possible one to 1 and meets the given ones; `set-budget` picks from
    it. Four in five samples build the table, the fifth checks it. The new file is set to the trained thresholds, τ = 0;
    with --budget-input, its default is the budget that these thresholds have.

    \b
    Examples:
      acm-export calibrate acm-vit-b.onnx --data images.npz --budgets 0.25,0.4,0.6 -o calibrated.onnx
      acm-export calibrate acm-vit-b.onnx --data photos/ --processor acm-vit-b --flops 20G -o calibrated.onnx
      acm-export calibrate m.onnx --data images.npz --latency-target 4ms --latency-file orin.json -o m4.onnx
    """
    from acm_export.base.optional import require

    require("onnxruntime")
    from acm_export.base.files import check_suffix, check_writable, write_text
    from acm_export.calibration.budgets import parse_flops, parse_milliseconds
    from acm_export.calibration.calibrate import calibrate as run
    from acm_export.report.calibration import calibration_table, describe_calibration

    if report is not None:
        check_suffix(report, (".html",), "--report")
        check_writable(report, "--report")
        require("matplotlib")
    with progress() as shown:
        result = run(
            model,
            data,
            budgets,
            output,
            flops=[parse_flops(text) for text in (flops or "").split(",") if text.strip()],
            latency_targets=[parse_milliseconds(text) for text in (latency_target or "").split(",") if text.strip()],
            latency_file=latency_file,
            solver=solver,
            budget_input=budget_input,
            processor=processor,
            samples=samples,
            probe_samples=probe_samples,
            batch=batch,
            precision=precision,
            device=device,
            examples=report is not None,
            progress=shown,
        )
        if report is not None:
            from acm_export.report.calibration_page import calibration_page

            shown.stage("drawing the report", None)
            write_text(calibration_page(result), report, "--report")
    if as_json:
        write_json(result.to_json())
        return
    write_table(calibration_table(result), *describe_calibration(result))
