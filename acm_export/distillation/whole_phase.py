"""Phase 3: train the whole model on its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from acm_export.data.collate import model_inputs
from acm_export.distillation.gated import GatedPass, gated
from acm_export.distillation.losses import negative_entropy, negative_spread, sample_budgets
from acm_export.distillation.phase import Arrays, ParameterGroup, Phase, StepLoss
from acm_export.distillation.record import PaddingListener
from acm_export.distillation.threshold_table import ThresholdTable, thresholds_by_share
from acm_export.modules import ACMLayer, acm_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from transformers import PreTrainedModel

    from acm_export.distillation.state import State
    from acm_export.distillation.tasks import AnyTask
    from acm_export.modules import ACMSpec
    from acm_export.surgery import ModelInterface

_GATE_RATE = 10.0
"""Learning rate of gates ÷ rate of the rest in the paper's recipe: phase 3 must move gates off their labels."""
_LEAST_SHARE = 0.1
"""Smallest share of learners when training for every budget; with fewer, the model is of no practical use."""


class WholePhase(Phase):
    """Phase 3: train the whole model on the task, gates and learners together.

    Args:
        student: Model with ACM layers.
        teacher: Dense model; the paper's recipe uses it only if there are no labels.
        interface: How to run both models.
        task: Training task.
        costs: FLOPs of one learner, by place, relative to their mean.
        budget: Target β of the paper's losses, with sampled choices. None for a model that serves every budget: each
            sample then gets the threshold of a random budget, and its tokens make the choices that the operator makes
            at that threshold.
        table: Table from budgets to thresholds.
    """

    number = 3

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        interface: ModelInterface,
        task: AnyTask,
        costs: Mapping[str, float],
        budget: float | None,
        table: ThresholdTable,
    ) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # in a tuple, so that it is not registered as a submodule
        self._interface, self._task, self._costs, self._budget, self._table = interface, task, costs, budget, table
        self._batch_thresholds: torch.Tensor | None = None

    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters of the model; gates learn faster in the paper's recipe."""
        gates = {id(p) for _, layer in acm_layers(self.student) for p in layer.gate.parameters()}
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in self.student.parameters():
            parts[id(parameter) in gates].append(parameter)
        return [ParameterGroup(parts[0], 1.0), ParameterGroup(parts[1], 1.0 if self._budget is None else _GATE_RATE)]

    def after_step(self, state: State, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Move the table towards the thresholds of the batch."""
        if self._batch_thresholds is not None:
            self._table.update(mean(self._batch_thresholds))
            state.thresholds = None if self._table.thresholds is None else self._table.thresholds.cpu()

    def forward(self, inputs: Arrays) -> StepLoss:
        """Loss of the task, plus the terms that enforce the budget."""
        first = next(iter(inputs.values()))
        shares = thresholds = None
        if self._budget is None:
            shares = _spread_shares(len(first), first.device)
            thresholds = self._table.at(shares)
        with (
            PaddingListener(self.student, self._interface) as padding,
            gated(self.student, GatedPass(padding, thresholds, noise=thresholds is None)) as run,
        ):
            output = self.student(**model_inputs(inputs))
        teacher_output = None
        if self._budget is None or not self._task.needs_labels:
            with torch.no_grad():
                teacher_output = self._teacher[0](**model_inputs(inputs))
        value = self._task.loss(output, inputs, teacher_output, run.valid)
        min_learners = {name: self._spec(name).min_learners for name in run.choices}
        budgets = sample_budgets(run.choices, min_learners, self._costs, run.valid)
        if self._budget is not None:
            value = value + 0.1 * (budgets.mean() - self._budget).abs()
            value = value + 0.05 * negative_entropy(run.probabilities, run.valid) + 0.05 * negative_spread(budgets)
        elif shares is not None:
            self._batch_thresholds = thresholds_by_share(run.margins, self._costs)
            floor = self._floor(min_learners)
            value = value + (budgets.mean() - floor - (1 - floor) * shares.mean()).square()
        return StepLoss(value, run.checksums, len(next(iter(run.margins.values()))), budget=budgets.mean().detach())

    def _floor(self, min_learners: Mapping[str, int]) -> float:
        """β when only ``min_learners`` run."""
        total = sum(self._costs[name] * self._spec(name).num_learners for name in min_learners)
        return float(sum(self._costs[name] * count for name, count in min_learners.items()) / total)

    def _spec(self, name: str) -> ACMSpec:
        return cast("ACMLayer", self.student.get_submodule(name)).spec


def _spread_shares(samples: int, device: torch.device) -> torch.Tensor:
    """One random share per sample ``[samples]``, spread evenly between the smallest share and 1."""
    evenly = (torch.randperm(samples, device=device) + torch.rand(samples, device=device)) / samples
    return _LEAST_SHARE + (1 - _LEAST_SHARE) * evenly
