"""Draw the results of examples 05 to 07: quality over β, and the number of learners for each token.

Run: ``python examples/figures.py -o docs/images [--digits CHECKPOINT] [--speech FOLDER]``. The curves come from the
results under benchmarks/results; CHECKPOINT is an ACM model of digits, FOLDER the folder of example 07. Needs
the extras [demo,report].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import InMemory, OneFile
from matplotlib.figure import Figure

from acm_export.calibration.examples import AudioExample, ImageExample, find_examples
from acm_export.data.batches import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from acm_export.calibration.examples import Example

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "cpu-2core"
SERIES = {
    "a": ("(a) one file, calibrated", "#1f77b4", "o"),
    "b": ("(b) one model per budget", "#d9822b", "s"),
    "c": ("(c) same count for every token", "#2f9e63", "^"),
    "d": ("(d) dense, equal FLOPs", "#7a7a7a", "D"),
}
BUDGET, CHOSEN, EACH = 0.4, 5, 5


def curve(
    rows: Sequence[dict[str, Any]], value: str, label: str, dense: float | None, path: Path, error: float = 0.0
) -> None:
    """Draw one line over β per method, and the dense model as a dashed line with its standard error."""
    figure = Figure(figsize=(5.2, 3.4), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    for name, (title, colour, marker) in SERIES.items():
        if name in rows[0]:
            points = sorted((row[name]["measured"], row[name][value]) for row in rows)
            axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=title, markersize=5)
    if dense is not None:
        axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense")
        axes.axhspan(dense - error, dense + error, color="black", alpha=0.08, linewidth=0)
    axes.set_xlabel("β: share of learner FLOPs that is executed")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.savefig(path)


def digits_map(examples: Sequence[Example], path: Path) -> None:
    """Draw images, cheapest first, and below each the executed share of each patch."""
    images = [example for example in examples if isinstance(example, ImageExample)]
    figure = Figure(figsize=(0.95 * len(images) + 0.9, 2.4), layout="constrained", dpi=110)
    grid = figure.subplots(2, len(images), squeeze=False)
    shown = None
    for above, below, example in zip(*grid, images, strict=True):
        above.imshow(example.pixels.mean(-1), cmap="gray")
        above.set_title(f"β {example.budget:.2f}", fontsize=8)
        shown = below.imshow(example.shares, cmap="plasma", vmin=0, vmax=1)
    for axes in grid.flat:
        axes.set_axis_off()
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="executed ÷ all")
    figure.savefig(path)


def speech_map(examples: Sequence[Example], texts: Sequence[str], path: Path) -> None:
    """Draw waveforms over the executed share of each token."""
    sounds = [example for example in examples if isinstance(example, AudioExample)]
    figure = Figure(figsize=(6.4, 1.35 * len(sounds)), layout="constrained", dpi=110)
    grid = figure.subplots(len(sounds), 1, squeeze=False)
    shown = None
    for axes, example, text in zip(grid.flat, sounds, texts, strict=True):
        pieces = len(example.envelope)
        top = float(np.abs(example.envelope).max()) or 1.0
        shown = axes.imshow(
            example.shares[None], cmap="plasma", vmin=0, vmax=1, alpha=0.6, extent=(0, pieces, -top, top), aspect="auto"
        )
        axes.fill_between(np.arange(pieces) + 0.5, *example.envelope.T, color="black", linewidth=0.4)
        axes.set_title(f"“{text}”, β {example.budget:.2f}", fontsize=9)
        axes.set_axis_off()
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="executed ÷ all learners")
    figure.savefig(path)


def draw_curves(output: Path) -> None:
    """Draw the results that exist."""
    for name, value, label in (
        ("acmize_digits", "accuracy", "accuracy, held-out images"),
        ("acmize_sentences", "cosine", "cosine to the teacher's embedding"),
        ("acmize_sentences", "neighbour", "same nearest neighbour as the teacher"),
        ("acmize_speech", "word_error_rate", "word error rate, unseen voices"),
    ):
        file = RESULTS / f"{name}.json"
        if not file.is_file():
            print(f"skipped {file.name}: it does not exist")
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        dense = found.get("dense", {}).get("accuracy") or found.get("dense_word_error_rate")
        error = found.get("dense", {}).get("standard_error", 0.0)
        suffix = "" if value != "neighbour" else "-neighbour"
        curve(found["rows"], value, label, dense, output / f"{name.replace('_', '-')}{suffix}.png", error)


def draw_digits(checkpoint: Path, output: Path) -> None:
    """Draw held-out images of the first fold at β 0.4."""
    from digits import folds

    train, test = next(folds(5))
    with TemporaryDirectory(prefix="acm-export-example-") as name:
        model = OneFile(checkpoint, train, (BUDGET,), Path(name), batch=64, samples=400, probe_samples=64)
        thresholds = model.at(BUDGET)[0].thresholds
        batches = (Batch({"pixel_values": batch["pixel_values"]}) for batch in test.batches(90))
        digits_map(find_examples(model.session, batches, thresholds, CHOSEN), output / "acmize-digits-tokens.png")


def draw_speech(folder: Path, output: Path) -> None:
    """Draw a few utterances of unseen voices, each run alone, at β 0.4."""
    from speech import PEOPLE, UNSEEN_PEOPLE, batched, speak

    samples = speak(EACH * 20, PEOPLE, 1, folder / "train.npz").samples()[: EACH * 20]
    tests = speak(EACH, UNSEEN_PEOPLE, 2, folder / "test.npz")
    with TemporaryDirectory(prefix="acm-export-example-") as name:
        voices = InMemory("voices", samples)
        model = OneFile(folder / "speech-acm", voices, (BUDGET,), Path(name), batch=20, probe_samples=40)
        thresholds = model.at(BUDGET)[0].thresholds
        examples: list[Example] = []
        for sample in tests.samples()[:EACH]:
            one = batched([sample])
            feeds = {name: one[name].numpy() for name in ("input_values", "attention_mask")}
            examples += find_examples(model.session, [Batch(feeds)], thresholds, 1)
        speech_map(examples, tests.texts[:EACH], output / "acmize-speech-tokens.png")


def main() -> None:
    """Draw the requested figures."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument(
        "-o", "--output", type=Path, default=Path("docs/images"), help="folder to write (%(default)s)"
    )
    arguments.add_argument("--digits", type=Path, metavar="CHECKPOINT", help="an ACM model of fold 1 of example 05")
    arguments.add_argument("--speech", type=Path, metavar="FOLDER", help="the folder of example 07")
    options = arguments.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    draw_curves(options.output)
    if options.digits:
        draw_digits(options.digits, options.output)
    if options.speech:
        draw_speech(options.speech, options.output)


if __name__ == "__main__":
    main()
