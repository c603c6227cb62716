"""Charts of a calibration, as SVG that uses the colours of the page around it."""

from __future__ import annotations

import io
import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.optional import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from acm_export.calibration.examples import AudioExample, ImageExample
    from acm_export.calibration.result import CalibrationResult

_INK, _FAINT = "#010203", "#040506"
"""Placeholder colours, used for nothing else; the finished SVG has the page's colours instead."""

_SERIES = {"table": "#1f77b4", "uniform": "#d9822b", "same count": "#2f9e63"}
_TITLES = {"table": "this table", "uniform": "one threshold for all layers", "same count": "same count for every token"}
_MARKERS = {"table": "o", "uniform": "s", "same count": "^"}

_NARROW = 5.0
"""Width in inches below which the legend goes above the chart, so that it does not cover the lines."""


def curve_chart(points: Mapping[str, Sequence[tuple[float, float]]], axis: str, width: float, *, log: bool) -> str:
    """Draw one line over β for each family.

    Args:
        points: (β, value) by family, ascending.
        axis: Label of the value axis.
        width: Width in inches.
        log: Whether the value axis is logarithmic.

    Returns:
        SVG.
    """
    figure, axes = _figure(width, 3.6)
    for family, series in points.items():
        x, y = zip(*series, strict=True)
        style = {"linewidth": 2.2, "zorder": 3} if family == "table" else {"linewidth": 1.4, "zorder": 2}
        axes.plot(x, y, marker=_MARKERS[family], color=_SERIES[family], label=_TITLES[family], markersize=5, **style)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("β: executed share of learner FLOPs")
    axes.set_ylabel(axis)
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1)} if width < _NARROW else {}
    axes.legend(frameon=False, labelcolor=_INK, **above)
    return _svg(figure)


def count_chart(shares: Mapping[str, Sequence[float]], title: str, width: float) -> str:
    """Draw the learner counts of each layer's tokens as stacked bars.

    Args:
        shares: Shares of the tokens with 0, 1, ... learners, by layer.
        title: Title of the chart.
        width: Width in inches.

    Returns:
        SVG.
    """
    figure, axes = _figure(width, 0.9 + 0.26 * len(shares))
    most = max(len(values) for values in shares.values())
    palette = require("matplotlib").colormaps["viridis"](np.linspace(0.12, 0.95, most))
    names = list(shares)[::-1]
    prefix = _common_prefix(names)
    shown = [name.removeprefix(prefix) for name in names]
    left = np.zeros(len(names))
    for count in range(most):
        widths = np.array([shares[name][count] if count < len(shares[name]) else 0.0 for name in names])
        axes.barh(shown, widths, left=left, color=palette[count], label=str(count), height=0.8)
        left += widths
    axes.set_xlim(0, 1)
    axes.set_xlabel(title)
    axes.set_ylabel(prefix.rstrip("."), fontsize=7)
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(visible=False)
    axes.legend(
        ncols=min(most, int(1.4 * width)),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        frameon=False,
        labelcolor=_INK,
        fontsize=8,
        title="learners",
        title_fontsize=8,
    ).get_title().set_color(_INK)
    return _svg(figure)


def _common_prefix(names: Sequence[str]) -> str:
    """The common leading parts of dotted names, with the dot after them."""
    parts = [name.split(".") for name in names]
    shared = [column[0] for column in itertools.takewhile(lambda c: len(set(c)) == 1, zip(*parts, strict=False))]
    return ".".join(shared[: min(map(len, parts)) - 1]) + "." if shared and len(names) > 1 else ""


def threshold_chart(budgets: Sequence[float], rows: Sequence[Sequence[float]], min_learners: int) -> str:
    """Thresholds of one layer over β, one line for each gated learner; SVG."""
    figure, axes = _figure(3.4, 2.1)
    values = np.array(rows)
    palette = require("matplotlib").colormaps["viridis"](
        np.linspace(0.12, 0.85, max(values.shape[1] - min_learners, 1))
    )
    for index, n in enumerate(range(min_learners, values.shape[1])):
        axes.plot(budgets, values[:, n], color=palette[index], label=f"{n + 1}", linewidth=1.4)
    axes.set_xlabel("β", fontsize=8)
    axes.set_ylabel("threshold τ", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, labelcolor=_INK, title="learner", title_fontsize=7).get_title().set_color(
        _INK
    )
    return _svg(figure)


def example_image(example: ImageExample) -> str:
    """An image with the share of learner FLOPs drawn over its patches; SVG with the pixels inside."""
    figure, axes = _figure(1.7, 1.7)
    height, width = example.pixels.shape[:2]
    pixels = example.pixels.squeeze(-1) if example.pixels.shape[2] == 1 else example.pixels
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.imshow(
        example.shares,
        cmap="plasma",
        vmin=0,
        vmax=1,
        alpha=0.45,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    if example.shares.size <= 64:
        rows, columns = example.shares.shape
        for (row, column), share in np.ndenumerate(example.shares):
            axes.text(
                (column + 0.5) * width / columns - 0.5,
                (row + 0.5) * height / rows - 0.5,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=6,
                color="white",
                path_effects=[require("matplotlib.patheffects").withStroke(linewidth=1.6, foreground="black")],
            )
    axes.set_axis_off()
    return _svg(figure)


def example_audio(example: AudioExample) -> str:
    """A waveform over the share of learner FLOPs of its tokens; SVG."""
    figure, axes = _figure(3.4, 1.3)
    pieces = len(example.envelope)
    top = float(np.abs(example.envelope).max()) or 1.0
    axes.imshow(
        example.shares[None],
        cmap="plasma",
        vmin=0,
        vmax=1,
        alpha=0.6,
        extent=(0, pieces, -top, top),
        aspect="auto",
        interpolation="nearest",
    )
    axes.fill_between(np.arange(pieces) + 0.5, *example.envelope.T, color=_INK, linewidth=0.4)
    axes.set_xlim(0, pieces)
    axes.set_axis_off()
    return _svg(figure)


def curves(result: CalibrationResult, value: str) -> dict[str, list[tuple[float, float]]]:
    """(β, value) on held-out data by family; ``value`` is a field of a measurement."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in result.curves:
        measured = getattr(point.measured, value)
        if measured is not None:
            found.setdefault(point.family, []).append((point.measured.budget, measured))
    order = [family for family in _SERIES if family in found]
    return {family: sorted(found[family]) for family in order}


def layer_shares(result: CalibrationResult, histograms: Sequence[Sequence[int]]) -> Iterator[tuple[str, list[float]]]:
    """Each layer's name and the shares of its tokens by learner count."""
    for layer, histogram in zip(result.manifest.layers, histograms, strict=True):
        total = sum(histogram) or 1
        yield layer.name, [tokens / total for tokens in histogram]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    require("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(_FAINT)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: Any) -> str:
    """Finished SVG: no date or random names, text as text, scaled with the page."""
    buffer = io.StringIO()
    with require("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": "acm-export"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "var(--ink)").replace(_FAINT, "var(--line)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
