"""Shared by examples 05 to 07: one calibrated file, its settings, comparisons, and paired differences."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.calibration.calibrate import calibrate
from acm_export.exporter import export
from acm_export.runtimes.session import TappedSession
from acm_export.verification.measurement import Accumulator

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from common import parser, print_table, write_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from acm_export.data.open_data import Samples
    from acm_export.onnx_file.manifest import LayerEntry

__all__ = [
    "BUDGETS",
    "Difference",
    "InMemory",
    "OneFile",
    "Setting",
    "Stages",
    "between",
    "paired",
    "parser",
    "print_table",
    "write_result",
]

BUDGETS = (1.0, 0.75, 0.6, 0.4, 0.25)
Feeds = dict[str, np.ndarray[Any, Any]]
Array = np.ndarray[Any, Any]


class InMemory:
    """Named samples for ``acmize`` and ``calibrate``.

    Args:
        name: Name for reports.
        items: One mapping of arrays for each sample, without a batch axis.
    """

    def __init__(self, name: str, items: Sequence[dict[str, Any]]) -> None:
        self.name, self._items = name, items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._items[index]


class Stages:
    """Prints each stage of a distillation, but not its steps."""

    def stage(self, title: str, batches: int | None) -> None:
        """Print the stage."""
        print(f"  {title}" + (f", {batches} steps" if batches else ""), flush=True)

    def batch(self, note: str = "") -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Setting:
    """Thresholds for a share of the samples.

    Args:
        weight: Share of the samples.
        thresholds: Thresholds of all layers, concatenated.
    """

    weight: float
    thresholds: Array


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its normal 95% interval."""

    mean: float
    low: float
    high: float


class OneFile:
    """A checkpoint, exported once and calibrated: every budget comes from the same file.

    Args:
        checkpoint: Folder with ACM layers.
        data: Samples to calibrate on.
        budgets: Budgets that the table must meet; others are interpolated.
        folder: Folder for the files.
        options: Options of ``calibrate``.
    """

    def __init__(self, checkpoint: Path, data: Samples, budgets: Sequence[float], folder: Path, **options: Any) -> None:
        path = folder / f"{checkpoint.name}.onnx"
        export(checkpoint, output=path)
        calibrated = calibrate(path, data, budgets, folder / f"{checkpoint.name}-calibrated.onnx", **options)
        if calibrated.manifest.calibration is None:
            raise ValueError(f"{path} was not calibrated")
        self._table = calibrated.manifest.calibration.table
        self.session = TappedSession(path)

    def at(self, budget: float) -> tuple[Setting, ...]:
        """Return the calibrated thresholds."""
        return (Setting(1.0, np.concatenate(list(self._table.at(budget).values()))),)

    def trained(self) -> tuple[Setting, ...]:
        """Return the thresholds that the gates were trained with."""
        return (Setting(1.0, np.zeros(self.session.num_thresholds, np.float32)),)

    def same_count(self, budget: float) -> tuple[Setting, ...]:
        """Return thresholds that give every token of a layer the same k, independent of the gates.

        Between two integers the first layers run one more learner; the remainder is a mixture of two such settings.
        """
        return between(self.session.layers, budget)

    def run(
        self, settings: Sequence[Setting], batches: Sequence[Feeds], quality: Callable[[Feeds, Feeds], Array]
    ) -> tuple[float, Array]:
        """Measure a mixture of settings.

        Args:
            settings: Settings whose weights add up to 1.
            batches: Batches of unseen data.
            quality: Function from a batch and the model's outputs to values ``[samples, ...]``.

        Returns:
            The executed β, and the expected values of every sample.
        """
        budget, total = 0.0, np.zeros(())
        for setting in settings:
            total_of, values = Accumulator(self.session.layers), []
            for batch in batches:
                feeds = {value.name: batch[value.name] for value in self.session.inputs}
                outputs, counts, masks = self.session.run_with_masks(feeds, setting.thresholds)
                samples = len(next(iter(feeds.values())))
                total_of.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, samples)
                values.append(quality(batch, outputs))
            budget += setting.weight * total_of.result().budget
            total = total + setting.weight * np.concatenate(values)
        return budget, total


def between(layers: Sequence[LayerEntry], budget: float) -> tuple[Setting, ...]:
    """Return the two same-k settings whose budgets enclose ``budget``, and their weights."""
    most = max(layer.num_learners for layer in layers)
    steps = [[k + (index < more) for index in range(len(layers))] for k in range(most) for more in range(len(layers))]
    steps.append([most] * len(layers))
    known = [_budget(layers, counts) for counts in steps]
    upper = next((i for i, value in enumerate(known) if value >= budget), len(known) - 1)
    if upper == 0 or known[upper] <= budget:
        return (Setting(1.0, _fixed(layers, steps[upper])),)
    lower = upper - 1
    weight = (budget - known[lower]) / (known[upper] - known[lower])
    return (Setting(1 - weight, _fixed(layers, steps[lower])), Setting(weight, _fixed(layers, steps[upper])))


def _budget(layers: Sequence[LayerEntry], counts: Sequence[int]) -> float:
    ran = [min(max(k, e.min_learners), e.num_learners) * e.learner_flops for e, k in zip(layers, counts, strict=True)]
    return sum(ran) / sum(layer.num_learners * layer.learner_flops for layer in layers)


def _fixed(layers: Sequence[LayerEntry], counts: Sequence[int]) -> Array:
    parts = [
        np.where(np.arange(layer.num_learners) < count, -np.inf, np.inf)
        for layer, count in zip(layers, counts, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def paired(ours: Array, theirs: Array) -> Difference:
    """Compare values of the same samples, ``[samples]``."""
    difference = np.asarray(ours, np.float64) - theirs
    half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return Difference(mean, mean - half, mean + half)
