"""How good a model is at each budget, on the operator that will run, with one threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from acm_export.data.collate import model_inputs
from acm_export.distillation.dial import Dial, thresholds_of
from acm_export.distillation.gated import gated
from acm_export.distillation.record import Masks
from acm_export.modules import acm_layers
from acm_export.modules.gated_learners import margins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transformers import PreTrainedModel

    from acm_export.distillation.tasks import AnyTask
    from acm_export.modules import ACMLayer
    from acm_export.surgery import ModelFamily

Arrays = dict[str, torch.Tensor]
Thresholds = list[float] | Mapping[str, list[float]]
BUDGETS = (1.0, 0.75, 0.6, 0.5, 0.4, 0.25)
_ROUNDS, _CLOSE = 8, 0.003
"""Passes to look for a threshold in, and how near to its budget is near enough."""


@dataclass(frozen=True)
class Point:
    """One setting of a model.

    Args:
        budget: β, measured.
        quality: Of the task, larger is better.
        threshold: Of all layers; None where every token runs ``count`` learners, or as near to it as a layer allows.
        count: k.
        requested: β that the threshold was made for on the training data.
    """

    budget: float
    quality: float
    threshold: float | None = None
    count: int | None = None
    requested: float | None = None


@dataclass(frozen=True)
class Curve:
    """Quality against budget.

    Args:
        quality_name: What is measured.
        samples: That it was measured on.
        dense: Quality of the teacher.
        thresholds: One model, one threshold for all layers, from β = 1 down.
        same_count: Every token the same learner count, from N down.
    """

    quality_name: str
    samples: int
    dense: float
    thresholds: tuple[Point, ...]
    same_count: tuple[Point, ...]


class _Counting:
    """Runs layers as the operator does and counts what ran."""

    def __init__(self, masks: Masks, costs: Mapping[str, float]) -> None:
        self._masks, self._costs = masks, costs
        self.executed = self.everything = 0.0
        self.margins: dict[str, list[torch.Tensor]] = {}

    def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
        """The forward of one layer."""
        z = layer.gate(x)
        valid = self._masks.tokens
        known = z if valid is None or valid.shape != z.shape[:-1] else z[valid]
        y, counts = layer.run(x, z)
        counted = counts if known is z else counts[valid]
        self.executed += self._costs[name] * float(counted.sum())
        self.everything += self._costs[name] * layer.spec.num_learners * counted.numel()
        self.margins.setdefault(name, []).append(margins(known).reshape(-1, known.shape[-1] - 1))
        return y


class Evaluation:
    """Measures a student and its teacher.

    Args:
        student: With ACM layers.
        teacher: Dense.
        family: Of both.
        task: What quality is.
        costs: By place, FLOPs of a learner ÷ their mean.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        family: ModelFamily,
        task: AnyTask,
        costs: Mapping[str, float],
    ) -> None:
        self._student, self._teacher, self._family, self._task, self._costs = student, teacher, family, task, costs
        self._dial: Dial | None = None

    def curve(
        self, training: Callable[[], Iterable[Arrays]], held_out: Callable[[], Iterable[Arrays]], samples: int
    ) -> Curve:
        """Thresholds from training data, quality on held-out data.

        Args:
            training: Gives the batches that thresholds are found on.
            held_out: Gives the batches that count.
            samples: In the latter.
        """
        points = []
        for budget in BUDGETS:
            threshold = float("-inf") if budget == 1.0 else self.threshold_for(budget, training)
            measured, quality = self.at([threshold], held_out)
            points.append(Point(measured, quality, threshold, None, budget))
        most = max(layer.spec.num_learners for _, layer in acm_layers(self._student))
        least = min(layer.spec.min_learners for _, layer in acm_layers(self._student))
        same = []
        for count in range(most, least - 1, -1):
            measured, quality = self.at(same_count(count, most), held_out)
            same.append(Point(measured, quality, None, count))
        return Curve(self._task.quality_name, samples, self._dense(held_out), tuple(points), tuple(same))

    def at(self, thresholds: Thresholds, batches: Callable[[], Iterable[Arrays]]) -> tuple[float, float]:
        """β and quality with these thresholds of learners 1, 2, ..., of all layers or of each by its name.

        The last one is that of all further learners.
        """
        run, quality, weight = self._pass(thresholds, batches, with_quality=True)
        return run.executed / run.everything, quality / max(weight, 1e-12)

    def threshold_for(self, budget: float, batches: Callable[[], Iterable[Arrays]]) -> float:
        """The threshold of all layers that gives a budget.

        From the margins that a pass with the trained thresholds shows, corrected by what later passes execute.
        """
        if self._dial is None:
            run, _, _ = self._pass([0.0], batches, with_quality=False)
            self._dial = Dial(
                thresholds_of({name: torch.cat(parts) for name, parts in run.margins.items()}, self._costs)
            )
        low, high, share, threshold = 0.0, 1.0, budget, 0.0
        for _ in range(_ROUNDS):
            threshold = float(self._dial.at(torch.tensor(share)))
            run, _, _ = self._pass([threshold], batches, with_quality=False)
            off = run.executed / run.everything - budget
            if abs(off) < _CLOSE:
                break
            low, high = (share, high) if off < 0 else (low, share)
            share = share - off if low < share - off < high else (low + high) / 2
        return threshold

    @torch.no_grad()
    def _pass(
        self, thresholds: Thresholds, batches: Callable[[], Iterable[Arrays]], *, with_quality: bool
    ) -> tuple[_Counting, float, float]:
        quality = weight = 0.0
        before = {name: layer.thresholds.clone() for name, layer in acm_layers(self._student)}
        for name, layer in acm_layers(self._student):
            given = thresholds[name] if isinstance(thresholds, Mapping) else thresholds
            values = [given[min(n, len(given) - 1)] for n in range(layer.spec.num_learners)]
            layer.thresholds.copy_(layer.thresholds.new_tensor(values))
        try:
            with Masks(self._student, self._family) as masks:
                counting: Any = _Counting(masks, self._costs)
                with gated(self._student, counting):
                    for batch in batches():
                        output = self._student(**model_inputs(batch))
                        if with_quality:
                            teacher = None if self._task.needs_labels else self._teacher(**model_inputs(batch))
                            part, of = self._task.quality(output, batch, teacher, masks.tokens)
                            quality, weight = quality + part, weight + of
        finally:
            for name, layer in acm_layers(self._student):
                layer.thresholds.copy_(before[name])
        return counting, quality, weight

    @torch.no_grad()
    def _dense(self, batches: Callable[[], Iterable[Arrays]]) -> float:
        quality = weight = 0.0
        with Masks(self._teacher, self._family) as masks:
            for batch in batches():
                output = self._teacher(**model_inputs(batch))
                part, of = self._task.quality(output, batch, output, masks.tokens)
                quality, weight = quality + part, weight + of
        return quality / max(weight, 1e-12)


def same_count(count: int, most: int) -> list[float]:
    """Thresholds with which every token runs so many learners, out of ``most``."""
    return [float("-inf") if learner < count else float("inf") for learner in range(most)]
