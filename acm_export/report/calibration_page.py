"""Report of a calibration as one self-contained HTML file."""

from __future__ import annotations

import html
from functools import partial
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from acm_export.calibration.examples import ImageExample
from acm_export.report.calibration_charts import (
    count_chart,
    curve_chart,
    curves,
    example_audio,
    example_image,
    layer_shares,
    threshold_chart,
)
from acm_export.verification.measurement import JENSEN_SHANNON

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from acm_export.calibration.examples import Example
    from acm_export.calibration.result import CalibrationResult
    from acm_export.onnx_file.budget_table import Calibration

_GIGA = 1e9
_WIDTHS = {"on-wide": 7.2, "on-narrow": 3.8}
"""Widths of charts in inches, by CSS class."""

_TEMPLATE = Path(__file__).with_name("calibration.html")

_OVER_IMAGES = (
    "the executed share of each patch's learner compute, in percent where there is room for it. Bright patches cost "
    "most."
)
_BEHIND_SOUNDS = (
    "behind the waveform, the executed share of the learner compute at each moment. Bright moments cost most."
)


def calibration_page(result: CalibrationResult) -> str:
    """The report as HTML."""
    manifest = result.manifest
    record = manifest.calibration
    if record is None:
        raise ValueError("the manifest has no calibration")
    example = ", ".join(f"{name} {dims}" for name, dims in manifest.example_inputs.items())
    parts = {
        "title": f"Budgets of {html.escape(manifest.source.name)}",
        "subtitle": html.escape(
            f"{result.path.name} · {len(manifest.layers)} adaptive layers · {manifest.precision} · "
            f"solver {record.solver} · trained budget β₀ = {record.trained_budget:.3f}"
        ),
        "notes": "".join(f'<p class="note">{html.escape(note)}</p>' for note in result.notes),
        "divergence_text": _divergence_text(record),
        "curves": _curves(result, record),
        "samples": f"{record.samples:,}",
        "held_out": f"{record.held_out_samples:,}",
        "requests": _requests(record),
        "example": html.escape(example),
        "flops": _flops(result, record),
        "histograms": _histograms(result),
        "examples": _examples(result, record),
        "num_layers": str(len(manifest.layers)),
        "thresholds": _thresholds(result, record),
        "knots": _knots(record),
        "footer": html.escape(
            f"Written by {manifest.producer}. Run in {result.runtime}. Data sha256 {record.data_sha256[:16]}…"
        ),
    }
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def _divergence_text(record: Calibration) -> str:
    what = (
        "the Jensen-Shannon divergence between its class probabilities and those with all learners, from 0 to 0.69 nats"
        if record.divergence == JENSEN_SHANNON
        else "the squared error against its output with all learners, divided by the variance of that output"
    )
    return (
        f"How much the model's output changes when learners are left out: {what}; lower is better. The table is "
        "compared with two simpler ways to spend the same budget: one threshold for all layers, and the same number of "
        "learners for every token, regardless of the gates."
    )


def _curves(result: CalibrationResult, record: Calibration) -> str:
    if not result.curves:
        return "<p>There were too few samples to hold any out.</p>"
    axis = "Jensen-Shannon divergence, nats" if record.divergence == JENSEN_SHANNON else "squared error ÷ variance"
    positive = {family: [(x, y) for x, y in points if y > 0] for family, points in curves(result, "divergence").items()}
    divergence = {family: points for family, points in positive.items() if points}
    if not divergence:
        return "<p>No setting changed the output on the held-out data.</p>"
    caption = f"Held-out data, {record.held_out_samples} samples"
    charts = [_chart(lambda width: curve_chart(divergence, axis, width, log=True), caption)]
    accuracy = curves(result, "accuracy")
    if accuracy:
        percent = {family: [(x, 100 * y) for x, y in points] for family, points in accuracy.items()}
        caption = f"Accuracy; one sample is {100 / record.held_out_samples:.2g} points"
        charts.append(_chart(lambda width: curve_chart(percent, "accuracy, %", width, log=False), caption))
    return "".join(charts)


def _requests(record: Calibration) -> str:
    rows = [
        (
            f"{r.requested:.3f}",
            f"{r.calibration:.3f}",
            "–" if r.held_out is None else f"{r.held_out:.3f}",
            "–" if r.held_out is None else f"{r.held_out - r.requested:+.3f}",
            "–" if r.standard_error is None else f"± {2 * r.standard_error:.3f}",
        )
        for r in record.requests
    ]
    return _table(("requested β", "on the calibration data", "held out", "difference", "± 2 standard errors"), rows)


def _flops(result: CalibrationResult, record: Calibration) -> str:
    manifest = result.manifest
    gates = manifest.fixed_flops - manifest.rest_flops
    budgets = sorted({record.table.smallest, *(r.requested for r in record.requests), record.trained_budget, 1.0})
    rows = []
    for budget in budgets:
        total = manifest.model_flops(budget)
        name = f"{budget:.3f}" + (" (τ = 0)" if budget == record.trained_budget else "")
        learners = budget * manifest.all_learners_flops
        flops = (_flops_text(value) for value in (learners, gates, manifest.rest_flops, total))
        fixed, relative = (total - learners) / total, total / manifest.model_flops(1)
        rows.append((name, *flops, f"{100 * fixed:.0f}%", f"{100 * relative:.0f}%"))
    columns = ("β", "learners", "gates", "rest", "all FLOPs", "other than learners", "relative to β = 1")
    return _table(columns, rows)


def _flops_text(flops: float) -> str:
    return f"{flops / 1e9:,.2f} G" if flops >= _GIGA else f"{flops / 1e6:,.3f} M"


def _histograms(result: CalibrationResult) -> str:
    shown = [("τ = 0, as trained", result.trained)]
    requested = {r.requested for r in result.manifest.calibration.requests} if result.manifest.calibration else {}
    shown += [(f"β {c.budget:.3g}", c.knot.measured) for c in result.comparisons if c.budget in requested]
    parts = []
    for index, (title, measured) in enumerate(shown):
        draw = partial(count_chart, dict(layer_shares(result, measured.histograms)), "share of the layer's tokens")
        body = _chart(draw, f"{title}: measured β {measured.budget:.3f}")
        body += _layer_table(result, measured.histograms)
        opened = " open" if index == 0 else ""
        parts.append(f"<details{opened}><summary>{html.escape(title)}</summary>{body}</details>")
    return "".join(parts)


def _layer_table(result: CalibrationResult, histograms: Sequence[Sequence[int]]) -> str:
    executed = [
        layer.learner_flops * sum(count * tokens for count, tokens in enumerate(histogram))
        for layer, histogram in zip(result.manifest.layers, histograms, strict=True)
    ]
    rows = []
    for layer, histogram, flops in zip(result.manifest.layers, histograms, executed, strict=True):
        possible = layer.learner_flops * layer.num_learners * sum(histogram) or 1
        share = flops / (sum(executed) or 1)
        rows.append((html.escape(layer.name), f"{flops / possible:.3f}", f"{100 * share:.1f}%"))
    table = _table(("layer", "β of the layer", "share of all executed learner FLOPs"), rows)
    return f'<details><summary>Share of FLOPs by layer</summary><div class="wide">{table}</div></details>'


def _examples(result: CalibrationResult, record: Calibration) -> str:
    if not result.examples:
        return ""
    half = (len(result.examples) + 1) // 2
    groups = (("cheapest", result.examples[:half]), ("most expensive", result.examples[half:][::-1]))
    where = _OVER_IMAGES if isinstance(result.examples[0], ImageExample) else _BEHIND_SOUNDS
    text = f"Held-out samples at the trained budget, β₀ = {record.trained_budget:.3f}: {where}"
    parts = ["<h2>Where the model spends compute</h2>", f"<p>{text}</p>"]
    for title, examples in groups:
        figures = "".join(_example(example) for example in examples)
        parts.append(f'<h3>The {title}</h3><div class="images">{figures}</div>')
    return "".join(parts)


def _example(example: Example) -> str:
    drawn = example_image(example) if isinstance(example, ImageExample) else example_audio(example)
    label = "" if example.label is None else f", class {example.label}"
    return f'<figure><div class="inside">{drawn}</div><figcaption>β {example.budget:.3f}{label}</figcaption></figure>'


def _thresholds(result: CalibrationResult, record: Calibration) -> str:
    return "".join(
        f"<figure>{threshold_chart(record.table.budgets, record.table.thresholds[e.name], e.min_learners)}"
        f"<figcaption>{html.escape(e.name)}</figcaption></figure>"
        for e in result.manifest.layers
        if e.num_learners > e.min_learners
    )


def _knots(record: Calibration) -> str:
    accuracy = any(knot.accuracy is not None for knot in record.knots)
    rows = [
        (f"{knot.budget:.4f}", f"{knot.divergence:.4g}", *([f"{100 * (knot.accuracy or 0):.1f}"] if accuracy else []))
        for knot in record.knots
    ]
    return _table(("β", "divergence", *(["accuracy %"] if accuracy else [])), rows)


def _chart(draw: Callable[[float], str], caption: str) -> str:
    """A chart in two widths, for wide and narrow screens; CSS shows one of them."""
    both = "".join(f'<div class="{name}">{draw(width)}</div>' for name, width in _WIDTHS.items())
    return f"<figure>{both}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
