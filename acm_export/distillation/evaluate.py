"""Measure quality at each budget with the deployed operator and one threshold for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from acm_export.data.collate import model_inputs
from acm_export.distillation.gated import gated
from acm_export.distillation.record import PaddingListener
from acm_export.distillation.threshold_table import ThresholdTable, thresholds_by_share
from acm_export.modules import acm_layers
from acm_export.modules.gated_learners import margins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import nn

    from acm_export.distillation.tasks import AnyTask
    from acm_export.modules import ACMLayer
    from acm_export.surgery import ModelInterface

Arrays = dict[str, torch.Tensor]
Thresholds = list[float] | Mapping[str, list[float]]
BUDGETS = (1.0, 0.75, 0.6, 0.5, 0.4, 0.25)
_ROUNDS, _TOLERANCE = 8, 0.003
"""Maximum number of passes in the search for a threshold, and the budget error at which the search stops."""


@dataclass(frozen=True)
class CurvePoint:
    """Quality at one setting of a model.

    Args:
        budget: Measured β.
        quality: Quality of the task; larger is better.
        threshold: Threshold of all layers, or None if ``count`` is set.
        count: Learner count k of every token, or as close to k as a layer allows; None if ``threshold`` is set.
        requested: β that the threshold was chosen for, on the training data.
    """

    budget: float
    quality: float
    threshold: float | None = None
    count: int | None = None
    requested: float | None = None

    @property
    def setting(self) -> str:
        """The threshold or the learner count, for tables."""
        if self.threshold is not None:
            return f"τ = {self.threshold:.3g}"
        return f"{self.count} learner{'s' * (self.count != 1)} for every token"


@dataclass(frozen=True)
class Curve:
    """Quality against budget.

    Args:
        quality_name: Name of the quality measure.
        samples: Number of held-out samples.
        dense: Quality of the teacher.
        thresholds: Points with one threshold for all layers, from β = 1 down.
        same_count: Points with the same learner count for every token, from N down.
    """

    quality_name: str
    samples: int
    dense: float
    thresholds: tuple[CurvePoint, ...]
    same_count: tuple[CurvePoint, ...]


class _CountingRunner:
    """Runs layers like the operator, and counts the executed learners."""

    def __init__(self, padding: PaddingListener, costs: Mapping[str, float]) -> None:
        self._padding, self._costs = padding, costs
        self._executed = self._total = 0.0
        self.margins: dict[str, list[torch.Tensor]] = {}

    @property
    def budget(self) -> float:
        """β over all passes so far."""
        return self._executed / self._total

    def run(self, name: str, layer: ACMLayer, x: torch.Tensor) -> torch.Tensor:
        """The forward pass of one layer."""
        z = layer.gate(x)
        valid = self._padding.valid_at(name)
        y, counts = layer.run(x, z)
        if valid is not None and valid.shape == z.shape[:-1]:
            z, counts = z[valid], counts[valid]
        self._executed += self._costs[name] * float(counts.sum())
        self._total += self._costs[name] * layer.spec.num_learners * counts.numel()
        self.margins.setdefault(name, []).append(margins(z).reshape(-1, z.shape[-1] - 1))
        return y


class Evaluation:
    """Measures the quality of a student and its teacher.

    Args:
        student: Model with ACM layers.
        teacher: Dense model.
        interface: How to run both models.
        task: Task that defines the quality.
        costs: FLOPs of one learner, by place, relative to their mean.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        interface: ModelInterface,
        task: AnyTask,
        costs: Mapping[str, float],
    ) -> None:
        self._student, self._teacher, self._interface = student, teacher, interface
        self._task, self._costs = task, costs
        self._table: ThresholdTable | None = None

    def curve(
        self, training: Callable[[], Iterable[Arrays]], held_out: Callable[[], Iterable[Arrays]], samples: int
    ) -> Curve:
        """Find thresholds on training data and measure quality on held-out data.

        Args:
            training: Returns the batches to choose thresholds on.
            held_out: Returns the batches to measure quality on.
            samples: Number of held-out samples.
        """
        points = []
        for budget in BUDGETS:
            threshold = float("-inf") if budget == 1.0 else self.threshold_for(budget, training)
            measured, quality = self.at([threshold], held_out)
            points.append(CurvePoint(measured, quality, threshold, None, budget))
        most = max(layer.spec.num_learners for _, layer in acm_layers(self._student))
        fewest = min(layer.spec.min_learners for _, layer in acm_layers(self._student))
        same = []
        for count in range(most, fewest - 1, -1):
            measured, quality = self.at(same_count(count, most), held_out)
            same.append(CurvePoint(measured, quality, None, count))
        return Curve(self._task.quality_name, samples, self._dense_quality(held_out), tuple(points), tuple(same))

    def at(self, thresholds: Thresholds, batches: Callable[[], Iterable[Arrays]]) -> tuple[float, float]:
        """Measure β and quality at these thresholds.

        Args:
            thresholds: Thresholds of learners 1, 2, ..., for all layers or by layer name; the last one also applies to
                all later learners.
            batches: Returns the batches to measure on.
        """
        run, quality = self._run(thresholds, batches, with_quality=True)
        return run.budget, quality

    def threshold_for(self, budget: float, batches: Callable[[], Iterable[Arrays]]) -> float:
        """Find the threshold of all layers that gives a budget.

        The search starts from the margins of a pass with the trained thresholds, and corrects the threshold by the β
        measured in further passes.
        """
        if self._table is None:
            run, _ = self._run([0.0], batches, with_quality=False)
            self._table = ThresholdTable(
                thresholds_by_share({name: torch.cat(parts) for name, parts in run.margins.items()}, self._costs)
            )
        low, high, share, threshold = 0.0, 1.0, budget, 0.0
        for _ in range(_ROUNDS):
            threshold = float(self._table.at(torch.tensor(share)))
            run, _ = self._run([threshold], batches, with_quality=False)
            excess = run.budget - budget
            if abs(excess) < _TOLERANCE:
                break
            low, high = (share, high) if excess < 0 else (low, share)
            share = share - excess if low < share - excess < high else (low + high) / 2
        return threshold

    @torch.no_grad()
    def _run(
        self, thresholds: Thresholds, batches: Callable[[], Iterable[Arrays]], *, with_quality: bool
    ) -> tuple[_CountingRunner, float]:
        quality = weight = 0.0
        with (
            self._temporary_thresholds(thresholds),
            PaddingListener(self._student, self._interface) as padding,
            gated(self._student, _CountingRunner(padding, self._costs)) as runner,
        ):
            for batch in batches():
                output = self._student(**model_inputs(batch))
                if with_quality:
                    teacher = None if self._task.needs_labels else self._teacher(**model_inputs(batch))
                    part, of = self._task.quality(output, batch, teacher, padding.valid)
                    quality, weight = quality + part, weight + of
        return runner, quality / max(weight, 1e-12)

    @contextmanager
    def _temporary_thresholds(self, thresholds: Thresholds) -> Iterator[None]:
        before = {name: layer.thresholds.clone() for name, layer in acm_layers(self._student)}
        for name, layer in acm_layers(self._student):
            given = thresholds[name] if isinstance(thresholds, Mapping) else thresholds
            values = [given[min(n, len(given) - 1)] for n in range(layer.spec.num_learners)]
            layer.thresholds.copy_(layer.thresholds.new_tensor(values))
        try:
            yield
        finally:
            for name, layer in acm_layers(self._student):
                layer.thresholds.copy_(before[name])

    @torch.no_grad()
    def _dense_quality(self, batches: Callable[[], Iterable[Arrays]]) -> float:
        quality = weight = 0.0
        with PaddingListener(self._teacher, self._interface) as padding:
            for batch in batches():
                output = self._teacher(**model_inputs(batch))
                part, of = self._task.quality(output, batch, output, padding.valid)
                quality, weight = quality + part, weight + of
        return quality / max(weight, 1e-12)


def same_count(count: int, most: int) -> list[float]:
    """Thresholds at which every token runs ``count`` learners out of ``most``."""
    return [float("-inf") if learner < count else float("inf") for learner in range(most)]
