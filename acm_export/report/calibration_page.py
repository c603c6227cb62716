"""A calibration as one HTML file that needs nothing but a browser."""

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
    from acm_export.calibration.result import Calibrated
    from acm_export.onnx_file.budget_table import Calibration

_GIGA = 1e9
_WIDTHS = {"on-wide": 7.2, "on-narrow": 3.8}
"""Of charts, in inches, by the class of pages that show them."""

_TEMPLATE = Path(__file__).with_name("calibration.html")

_OVER_IMAGES = (
    "over each patch the share of its learner computation that was executed, in percent where there is room for it. "
    "Bright patches cost most."
)
_BEHIND_SOUNDS = (
    "behind the waveform the share of each moment's learner computation that was executed. Bright moments cost most."
)


def page(calibrated: Calibrated) -> str:
    """The report as text."""
    manifest = calibrated.manifest
    record = manifest.calibration
    if record is None:
        raise ValueError("the manifest has no calibration")
    example = ", ".join(f"{name} {dims}" for name, dims in manifest.example_inputs.items())
    parts = {
        "title": f"Budgets of {html.escape(manifest.source.name)}",
        "subtitle": html.escape(
            f"{calibrated.path.name} · {len(manifest.layers)} adaptive layers · {manifest.dtype} · "
            f"solver {record.solver} · trained budget β₀ = {record.trained_budget:.3f}"
        ),
        "notes": "".join(f'<p class="note">{html.escape(note)}</p>' for note in calibrated.notes),
        "divergence_text": _divergence_text(record),
        "curves": _curves(calibrated, record),
        "samples": f"{record.samples:,}",
        "held_out": f"{record.held_out_samples:,}",
        "requests": _requests(record),
        "example": html.escape(example),
        "flops": _flops(calibrated, record),
        "histograms": _histograms(calibrated),
        "examples": _examples(calibrated, record),
        "num_layers": str(len(manifest.layers)),
        "thresholds": _thresholds(calibrated, record),
        "knots": _knots(record),
        "footer": html.escape(
            f"Written by {manifest.producer}. Ran in {calibrated.runtime}. Data sha256 {record.data_sha256[:16]}…"
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
        f"How far the model's answer moves when learners are left out: {what}; lower is better. Beside this table "
        "stand two simpler ways to spend the same budget: one threshold for all layers, and the same number of "
        "learners for every token, whatever the gates say."
    )


def _curves(calibrated: Calibrated, record: Calibration) -> str:
    if not calibrated.curves:
        return "<p>There were too few samples to hold any out.</p>"
    axis = "Jensen-Shannon divergence, nats" if record.divergence == JENSEN_SHANNON else "squared error ÷ variance"
    positive = {
        family: [(x, y) for x, y in points if y > 0] for family, points in curves(calibrated, "divergence").items()
    }
    divergence = {family: points for family, points in positive.items() if points}
    if not divergence:
        return "<p>No setting moved the output on the held-out data.</p>"
    caption = f"Held-out data, {record.held_out_samples} samples"
    charts = [_chart(lambda width: curve_chart(divergence, axis, width, log=True), caption)]
    accuracy = curves(calibrated, "accuracy")
    if accuracy:
        percent = {family: [(x, 100 * y) for x, y in points] for family, points in accuracy.items()}
        caption = f"Against the labels; one sample is {100 / record.held_out_samples:.2g} points"
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
    return _table(("β asked for", "on the data of the table", "held out", "difference", "chance"), rows)


def _flops(calibrated: Calibrated, record: Calibration) -> str:
    manifest = calibrated.manifest
    gates = manifest.fixed_flops - manifest.rest_flops
    budgets = sorted({record.table.smallest, *(r.requested for r in record.requests), record.trained_budget, 1.0})
    rows = []
    for budget in budgets:
        total = manifest.model_flops(budget)
        name = f"{budget:.3f}" + (" (τ = 0)" if budget == record.trained_budget else "")
        learners = budget * manifest.all_learners_flops
        rows.append(
            (name, *(_flops_text(value) for value in (learners, gates, manifest.rest_flops, total)),
             f"{100 * (total - learners) / total:.0f}%", f"{100 * total / manifest.model_flops(1):.0f}%")
        )  # fmt: skip
    columns = ("β", "learners", "gates", "rest", "all FLOPs", "not learners", "of β = 1")
    return _table(columns, rows)


def _flops_text(flops: float) -> str:
    return f"{flops / 1e9:,.2f} G" if flops >= _GIGA else f"{flops / 1e6:,.3f} M"


def _histograms(calibrated: Calibrated) -> str:
    shown = [("τ = 0, as trained", calibrated.trained)]
    requested = (
        {r.requested for r in calibrated.manifest.calibration.requests} if calibrated.manifest.calibration else {}
    )
    shown += [(f"β {c.budget:.3g}", c.knot.measured) for c in calibrated.comparisons if c.budget in requested]
    parts = []
    for index, (title, measured) in enumerate(shown):
        draw = partial(count_chart, dict(layer_shares(calibrated, measured.histograms)), "share of the layer's tokens")
        body = _chart(draw, f"{title}: measured β {measured.budget:.3f}")
        body += _layer_table(calibrated, measured.histograms)
        opened = " open" if index == 0 else ""
        parts.append(f"<details{opened}><summary>{html.escape(title)}</summary>{body}</details>")
    return "".join(parts)


def _layer_table(calibrated: Calibrated, histograms: Sequence[Sequence[int]]) -> str:
    executed = [
        layer.learner_flops * sum(count * tokens for count, tokens in enumerate(histogram))
        for layer, histogram in zip(calibrated.manifest.layers, histograms, strict=True)
    ]
    rows = [
        (html.escape(layer.name), f"{flops / (layer.learner_flops * layer.num_learners * sum(histogram) or 1):.3f}",
         f"{100 * flops / (sum(executed) or 1):.1f}%")
        for layer, histogram, flops in zip(calibrated.manifest.layers, histograms, executed, strict=True)
    ]  # fmt: skip
    table = _table(("layer", "its β", "of all executed learner FLOPs"), rows)
    return f'<details><summary>Share of FLOPs by layer</summary><div class="wide">{table}</div></details>'


def _examples(calibrated: Calibrated, record: Calibration) -> str:
    if not calibrated.examples:
        return ""
    half = (len(calibrated.examples) + 1) // 2
    groups = (("cheapest", calibrated.examples[:half]), ("costliest", calibrated.examples[half:][::-1]))
    where = _OVER_IMAGES if isinstance(calibrated.examples[0], ImageExample) else _BEHIND_SOUNDS
    text = f"Held-out data at the trained budget, β₀ = {record.trained_budget:.3f}: {where}"
    parts = ["<h2>Where the model looks twice</h2>", f"<p>{text}</p>"]
    for title, examples in groups:
        figures = "".join(_example(example) for example in examples)
        parts.append(f'<h3>The {title}</h3><div class="images">{figures}</div>')
    return "".join(parts)


def _example(example: Example) -> str:
    drawn = example_image(example) if isinstance(example, ImageExample) else example_audio(example)
    label = "" if example.label is None else f", class {example.label}"
    return f'<figure><div class="inside">{drawn}</div><figcaption>β {example.budget:.3f}{label}</figcaption></figure>'


def _thresholds(calibrated: Calibrated, record: Calibration) -> str:
    return "".join(
        f"<figure>{threshold_chart(record.table.budgets, record.table.thresholds[e.name], e.min_learners)}"
        f"<figcaption>{html.escape(e.name)}</figcaption></figure>"
        for e in calibrated.manifest.layers
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
    """A chart drawn twice, for wide and for narrow pages; the page shows one."""
    both = "".join(f'<div class="{name}">{draw(width)}</div>' for name, width in _WIDTHS.items())
    return f"<figure>{both}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
