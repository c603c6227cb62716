"""The loss of phase 3, which trains the whole model on its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acm_export.data.collate import model_inputs
from acm_export.distillation.budgets import negative_entropy, negative_spread, sample_budgets
from acm_export.distillation.dial import Dial, thresholds_of
from acm_export.distillation.gated import GatedPass, gated
from acm_export.distillation.loss import Arrays, Loss
from acm_export.distillation.record import Masks
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.distillation.tasks import AnyTask
    from acm_export.surgery import ModelFamily

_GATE_RATE = 10.0
"""Learning rate of gates ÷ that of the rest of the model, where the paper's labels have to be overcome in phase 3."""
_LEAST_SHARE = 0.1
"""Of learners, which a model for every budget is trained with: with fewer nobody would run it."""


class WholePhase(nn.Module):
    """Phase 3: the whole model, gates and learners together, on the task.

    Args:
        student: With ACM layers.
        teacher: Dense; the paper's recipe asks it only where there are no labels.
        family: Of both.
        task: What the model is for.
        costs: By place, FLOPs of a learner ÷ their mean.
        budget: β that the paper's losses aim at, with choices that are drawn; None for a model that serves every
            budget: then each sample has a threshold of its own, that of a budget drawn at random, and its tokens make
            the choices that the operator makes at it.
        dial: From budgets to thresholds.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        family: ModelFamily,
        task: AnyTask,
        costs: Mapping[str, float],
        budget: float | None,
        dial: Dial,
    ) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # in a tuple: not a part of what is trained
        self._family, self._task, self._costs, self._budget, self.dial = family, task, costs, budget, dial
        self.found: torch.Tensor | None = None

    def trained(self) -> list[tuple[list[nn.Parameter], float]]:
        """All parameters of the model; the paper's gates learn faster."""
        gates = {id(p) for _, layer in acm_layers(self.student) for p in layer.gate.parameters()}
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in self.student.parameters():
            parts[id(parameter) in gates].append(parameter)
        return [(parts[0], 1.0), (parts[1], 1.0 if self._budget is None else _GATE_RATE)]

    def forward(self, inputs: Arrays) -> Loss:
        """Task loss and what keeps the budget."""
        size = len(next(iter(inputs.values())))
        with Masks(self.student, self._family) as masks:
            shares = thresholds = None
            if self._budget is None:
                device = next(iter(inputs.values())).device
                evenly = (torch.randperm(size, device=device) + torch.rand(size, device=device)) / size
                shares = _LEAST_SHARE + (1 - _LEAST_SHARE) * evenly
                thresholds = self.dial.at(shares)
            with gated(self.student, GatedPass(masks, thresholds, noise=thresholds is None)) as run:
                output = self.student(**model_inputs(inputs))
        teacher_output = None
        if self._budget is None or not self._task.needs_labels:
            with torch.no_grad():
                teacher_output = self._teacher[0](**model_inputs(inputs))
        value = self._task.loss(output, inputs, teacher_output, run.valid)
        least = {name: _spec(self.student, name).min_learners for name in run.choices}
        budgets = sample_budgets(run.choices, least, self._costs, run.valid)
        if self._budget is not None:
            value = value + 0.1 * (budgets.mean() - self._budget).abs()
            value = value + 0.05 * negative_entropy(run.probabilities, run.valid) + 0.05 * negative_spread(budgets)
        elif shares is not None:
            self.found = thresholds_of(run.margins, self._costs)
            floor = self._floor(least)
            value = value + (budgets.mean() - floor - (1 - floor) * shares.mean()).square()
        return Loss(value, run.checksums, len(next(iter(run.margins.values()))), budget=budgets.mean().detach())

    def _floor(self, least: Mapping[str, int]) -> float:
        """β when only ``min_learners`` run."""
        counts = {name: _spec(self.student, name).num_learners for name in least}
        everything = sum(self._costs[name] * counts[name] for name in least)
        return float(sum(self._costs[name] * least[name] for name in least) / everything)


def _spec(model: PreTrainedModel, name: str) -> Any:
    return model.get_submodule(name).spec
