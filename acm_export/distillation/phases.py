"""The losses of the three phases, each a module whose parameters are what the phase trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.distillation.budgets import negative_entropy, negative_spread, sample_budgets
from acm_export.distillation.choices import logits_at
from acm_export.distillation.collate import model_inputs
from acm_export.distillation.dial import Dial, thresholds_of
from acm_export.distillation.gated import GatedPass, gated
from acm_export.distillation.labels import gains, priced_labels, relative_labels, squared_errors
from acm_export.distillation.prefixes import prefix_outputs
from acm_export.distillation.record import Masks
from acm_export.modules import acm_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from acm_export.distillation.record import Recorder, Seen
    from acm_export.distillation.tasks import AnyTask
    from acm_export.modules import ACMLayer
    from acm_export.surgery import Family

Arrays = dict[str, torch.Tensor]

_GATE_RATE = 10.0
"""Learning rate of gates ÷ that of the rest of the model in phase 3."""


@dataclass
class Loss:
    """Of one step.

    Args:
        value: What is minimised.
        checks: By layer, finite where the layer is sound.
        tokens: That went through an ACM layer, padding left out.
        by_layer: Parts of the value, in the phases that train layers one by one.
        budget: β of the step, where there is one.
    """

    value: torch.Tensor
    checks: dict[str, torch.Tensor]
    tokens: int
    by_layer: dict[str, torch.Tensor] = field(default_factory=dict)
    budget: torch.Tensor | None = None

    def everything(self) -> torch.Tensor:
        """The loss and what there is by layer, ``[1 + layers]``; not finite where any part of the model is broken."""
        return torch.stack([self.value.detach().float(), *(v.detach().float() for v in self.checks.values())])

    def broken_layer(self) -> str | None:
        """The first layer that is not finite."""
        return next((name for name, value in self.checks.items() if not bool(value.isfinite())), None)


class Layers(nn.Module):
    """ACM layers by place; names of modules have no dots."""

    def __init__(self, layers: Mapping[str, ACMLayer]) -> None:
        super().__init__()
        self.places = tuple(layers)
        self.layers = nn.ModuleList(layers.values())

    def items(self) -> Any:
        """Pairs of place and layer."""
        return zip(self.places, self.layers, strict=True)


class LearnersPhase(Layers):
    """Phase 1: every prefix of learners imitates the site that it replaces (arXiv 2312.10193, Method).

    Args:
        layers: By place.
        variances: By place, of the teacher's outputs: errors are measured in them.
        recorder: Of the teacher.
    """

    def __init__(self, layers: Mapping[str, ACMLayer], variances: Mapping[str, float], recorder: Recorder) -> None:
        super().__init__(layers)
        self._variances, self._seen = variances, _Teacher(recorder)

    def trained(self) -> list[tuple[list[nn.Parameter], float]]:
        """Weights and biases of the learners."""
        return [([p for _, layer in self.items() for p in (layer.w1, layer.b1, layer.w2, layer.b2)], 1.0)]

    def forward(self, inputs: Arrays) -> Loss:
        """Mean over prefixes of the squared error, in variances of the output, averaged over the sites."""
        losses, seen = {}, self._seen(inputs, self.places)
        for (place, layer), found in zip(self.items(), seen, strict=True):
            errors = squared_errors(prefix_outputs(layer, found.x), found.o)
            losses[place] = errors.float().mean() / max(self._variances[place], 1e-12)
        return Loss(torch.stack(list(losses.values())).mean(), losses, len(seen[0].x), losses)


class GatesPhase(Layers):
    """Phase 2: gates learn from the errors of the prefixes.

    The paper's labels ask for the first learner whose successor improves little. For any budget, each token has a price
    of a learner drawn from what learners are worth in the batch, the gate is to choose the cheapest prefix at that
    price, and the logarithm of the price is the threshold: so margins come to mean the same in every layer.

    Args:
        layers: By place.
        recorder: Of the teacher.
        weights: By place, of squared errors; None for the paper's labels.
        costs: By place, FLOPs of a learner ÷ their mean.
    """

    def __init__(
        self,
        layers: Mapping[str, ACMLayer],
        recorder: Recorder,
        weights: Mapping[str, float] | None,
        costs: Mapping[str, float],
    ) -> None:
        super().__init__(layers)
        self._seen, self._weights, self._costs = _Teacher(recorder), weights, costs

    def trained(self) -> list[tuple[list[nn.Parameter], float]]:
        """Weights and biases of the gates."""
        return [([p for _, layer in self.items() for p in layer.gate.parameters()], 1.0)]

    def forward(self, inputs: Arrays) -> Loss:
        """Mean cross-entropy over the sites."""
        seen = self._seen(inputs, self.places)
        with torch.no_grad():
            errors = {
                place: squared_errors(prefix_outputs(layer, found.x).float(), found.o.float())
                for (place, layer), found in zip(self.items(), seen, strict=True)
            }
        logits = {}
        for (place, layer), found in zip(self.items(), seen, strict=True):
            with torch.autocast(found.x.device.type, enabled=False):
                logits[place] = layer.gate(found.x)
        losses = self._priced(logits, errors) if self._weights else self._relative(logits, errors)
        checks = {place: errors[place].sum() + z.detach().sum() for place, z in logits.items()}
        return Loss(torch.stack(list(losses.values())).mean(), checks, len(seen[0].x), losses)

    def _relative(self, logits: Arrays, errors: Arrays) -> Arrays:
        return {place: F.cross_entropy(z, relative_labels(errors[place].sqrt())) for place, z in logits.items()}

    def _priced(self, logits: Arrays, errors: Arrays) -> Arrays:
        weights: Any = self._weights
        worth = {
            place: gains(value * weights[place] / self._costs[place]).clamp(min=1e-9)
            for place, value in errors.items()
            if value.shape[1] > 1
        }
        log_worth = {place: value.log() for place, value in worth.items()}
        table = thresholds_of(log_worth, self._costs)
        middle = table[len(table) // 2]  # becomes threshold 0: trained gates run about half of the learners
        prices = Dial(table - middle)
        losses = {}
        for place, z in logits.items():
            if place not in worth:
                losses[place] = 0.0 * z.sum()
                continue
            price = prices.at(torch.rand(len(z), device=z.device))
            losses[place] = F.cross_entropy(logits_at(z, price), priced_labels(log_worth[place] - middle, price))
        return losses


class WholePhase(nn.Module):
    """Phase 3: the whole model, gates and learners together, on the task.

    Args:
        student: With ACM layers.
        teacher: Dense; the paper's recipe asks it only where there are no labels.
        family: Of both.
        task: What the model is for.
        costs: By place, FLOPs of a learner ÷ their mean.
        budget: β that the paper's losses aim at; None for a model that serves every budget: then each sample has a
            threshold of its own, that of a budget drawn at random.
        dial: From budgets to thresholds.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        family: Family,
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
        """All parameters of the model; gates, which are small and new, learn faster."""
        gates = {id(p) for _, layer in acm_layers(self.student) for p in layer.gate.parameters()}
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in self.student.parameters():
            parts[id(parameter) in gates].append(parameter)
        return [(parts[0], 1.0), (parts[1], _GATE_RATE)]

    def forward(self, inputs: Arrays) -> Loss:
        """Task loss and what keeps the budget."""
        size = len(next(iter(inputs.values())))
        with Masks(self.student, self._family) as masks:
            shares = thresholds = None
            if self._budget is None:
                device = next(iter(inputs.values())).device
                shares = (torch.randperm(size, device=device) + torch.rand(size, device=device)) / size
                thresholds = self.dial.at(shares)
            with gated(self.student, GatedPass(masks, thresholds)) as run:
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


class _Teacher:
    """What the teacher's sites see, without gradients."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, inputs: Arrays, places: tuple[str, ...]) -> list[Seen]:
        with torch.no_grad():
            _, seen = self._recorder.run(model_inputs(inputs))
        return [seen[place] for place in places]


def _spec(model: PreTrainedModel, name: str) -> Any:
    return model.get_submodule(name).spec
