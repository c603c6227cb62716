"""Phases 1 and 2: train each ACM layer separately on the inputs of the teacher's site (arXiv 2312.10193, Method)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.data.collate import model_inputs
from acm_export.distillation.choices import logits_at, prefix_outputs
from acm_export.distillation.phase import Arrays, ParameterGroup, Phase, StepLoss
from acm_export.distillation.threshold_table import ThresholdTable, thresholds_by_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from acm_export.distillation.record import SiteRecorder, SiteTensors
    from acm_export.modules import ACMLayer

IMPROVEMENT = 1.2
"""Factor by which one more learner must reduce the error to be worth running (arXiv 2312.10193, Method)."""


class _LayerwisePhase(Phase):
    """ACM layers by place, and the teacher that they imitate; submodule names cannot contain the dots of a place."""

    def __init__(self, layers: Mapping[str, ACMLayer], recorder: SiteRecorder) -> None:
        super().__init__()
        self._places, self._recorder = tuple(layers), recorder
        self._layers = nn.ModuleList(layers.values())

    def items(self) -> Iterator[tuple[str, ACMLayer]]:
        """Pairs of place and layer."""
        return zip(self._places, cast("list[ACMLayer]", list(self._layers)), strict=True)

    def teacher_tensors(self, inputs: Arrays) -> list[SiteTensors]:
        """Inputs and outputs of the teacher's sites, in the order of the layers, without gradients."""
        with torch.no_grad():
            _, tensors = self._recorder.run(model_inputs(inputs))
        return [tensors[place] for place in self._places]


class LearnersPhase(_LayerwisePhase):
    """Phase 1: train every prefix of learners to imitate the site that the layer replaces.

    Args:
        layers: ACM layers by place.
        variances: Variance of the teacher's outputs, by place; errors are divided by it.
        recorder: Recorder of the teacher's sites.
    """

    number = 1

    def __init__(self, layers: Mapping[str, ACMLayer], variances: Mapping[str, float], recorder: SiteRecorder) -> None:
        super().__init__(layers, recorder)
        self._variances = variances

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weights and biases of the learners; the gate is a submodule of the layer."""
        return [ParameterGroup([p for _, layer in self.items() for p in layer.parameters(recurse=False)], 1.0)]

    def forward(self, inputs: Arrays) -> StepLoss:
        """Squared error ÷ variance of the output, averaged over prefixes, tokens and sites."""
        losses, tensors = {}, self.teacher_tensors(inputs)
        for (place, layer), site in zip(self.items(), tensors, strict=True):
            errors = squared_errors(prefix_outputs(layer, site.x), site.output)
            losses[place] = errors.float().mean() / max(self._variances[place], 1e-12)
        return StepLoss(torch.stack(list(losses.values())).mean(), losses, len(tensors[0].x), losses)


class GatesPhase(_LayerwisePhase):
    """Phase 2: train gates on the errors of the prefixes.

    The paper's label is the first prefix that one more learner improves little. For a model that serves every budget,
    each token gets a price per learner, sampled from the gains of the learners in the batch. The label is then the
    prefix with the least error + price × learners, and the logarithm of the price is the threshold, so margins mean the
    same in every layer.

    Args:
        layers: ACM layers by place.
        recorder: Recorder of the teacher's sites.
        weights: Weights of the squared errors by place; None for the paper's labels.
        costs: FLOPs of one learner, by place, relative to their mean.
    """

    number = 2

    def __init__(
        self,
        layers: Mapping[str, ACMLayer],
        recorder: SiteRecorder,
        weights: Mapping[str, float] | None,
        costs: Mapping[str, float],
    ) -> None:
        super().__init__(layers, recorder)
        self._weights, self._costs = weights, costs

    def parameter_groups(self) -> list[ParameterGroup]:
        """Weights and biases of the gates."""
        return [ParameterGroup([p for _, layer in self.items() for p in layer.gate.parameters()], 1.0)]

    def forward(self, inputs: Arrays) -> StepLoss:
        """Cross-entropy, averaged over tokens and sites."""
        tensors = self.teacher_tensors(inputs)
        with torch.no_grad():
            errors = {
                place: squared_errors(prefix_outputs(layer, site.x).float(), site.output.float())
                for (place, layer), site in zip(self.items(), tensors, strict=True)
            }
        logits = {}
        for (place, layer), site in zip(self.items(), tensors, strict=True):
            with torch.autocast(site.x.device.type, enabled=False):
                logits[place] = layer.gate(site.x)
        losses = self._priced(logits, errors, self._weights) if self._weights else self._relative(logits, errors)
        checks = {place: errors[place].sum() + z.detach().sum() for place, z in logits.items()}
        return StepLoss(torch.stack(list(losses.values())).mean(), checks, len(tensors[0].x), losses)

    @staticmethod
    def _relative(logits: Arrays, errors: Arrays) -> Arrays:
        return {place: F.cross_entropy(z, relative_labels(errors[place].sqrt())) for place, z in logits.items()}

    def _priced(self, logits: Arrays, errors: Arrays, weights: Mapping[str, float]) -> Arrays:
        log_worth = {
            place: learner_gains(value * weights[place] / self._costs[place]).clamp(min=1e-9).log()
            for place, value in errors.items()
        }
        table = thresholds_by_share(log_worth, self._costs)
        middle = table[len(table) // 2]  # becomes threshold 0, at which trained gates run about half of the learners
        prices = ThresholdTable(table - middle)
        losses = {}
        for place, z in logits.items():
            price = prices.at(torch.rand(len(z), device=z.device))
            losses[place] = F.cross_entropy(logits_at(z, price), priced_labels(log_worth[place] - middle, price))
        return losses


def squared_errors(prefixes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distances ``[tokens, C]`` of prefix outputs ``[tokens, C, D]`` from the target ``[tokens, D]``."""
    return (prefixes - target.unsqueeze(1)).square().sum(-1)


def relative_labels(errors: torch.Tensor, factor: float = IMPROVEMENT) -> torch.Tensor:
    """The paper's labels: the first choice after which one more learner improves by less than the factor.

    Args:
        errors: Distances d(n) ``[tokens, C]``, not squared.
        factor: Smallest d(n) / d(n + 1) at which a learner is worth running.

    Returns:
        Indices of choices ``[tokens]``; the last choice if every learner is worth running.
    """
    enough = errors[:, :-1] < factor * errors[:, 1:]
    last = enough.new_ones((len(errors), 1))
    return torch.cat((enough, last), 1).int().argmax(1)


def learner_gains(squared: torch.Tensor) -> torch.Tensor:
    """How much each learner reduces the error: slopes of the convex hull of squared errors ``[tokens, C]``.

    Returns:
        ``[tokens, C - 1]``, never increasing from one learner to the next. Running the learners whose gain is above a
        price minimises error + price × learners.
    """
    choices = squared.shape[1]
    slopes = torch.full((len(squared), choices - 1), float("-inf"), device=squared.device, dtype=squared.dtype)
    for n in range(choices - 1):  # learner n + 1: the best of all chords that start before it and end at or after it
        starts, ends = torch.arange(n + 1, device=squared.device), torch.arange(n + 1, choices, device=squared.device)
        chords = (squared[:, starts, None] - squared[:, None, ends]) / (ends[None, :] - starts[:, None])
        slopes[:, n] = chords.amax(2).amin(1)
    return slopes


def priced_labels(gains: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """Choose the prefix that minimises error + price × learners.

    Args:
        gains: Result of :func:`learner_gains`, ``[tokens, C - 1]``.
        price: Price of a learner ``[tokens]``.

    Returns:
        Indices of choices ``[tokens]``.
    """
    return (gains > price.unsqueeze(1)).sum(1)
