"""The losses of phases 1 and 2, which train every layer by itself on what the teacher's site sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from acm_export.data.collate import model_inputs
from acm_export.distillation.choices import logits_at
from acm_export.distillation.dial import Dial, thresholds_of
from acm_export.distillation.labels import gains, priced_labels, relative_labels, squared_errors
from acm_export.distillation.loss import Arrays, Loss
from acm_export.distillation.prefixes import prefix_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from acm_export.distillation.record import Recorder, Seen
    from acm_export.modules import ACMLayer


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
            place: gains(value * weights[place] / self._costs[place]).clamp(min=1e-9) for place, value in errors.items()
        }
        log_worth = {place: value.log() for place, value in worth.items()}
        table = thresholds_of(log_worth, self._costs)
        middle = table[len(table) // 2]  # becomes threshold 0: trained gates run about half of the learners
        prices = Dial(table - middle)
        losses = {}
        for place, z in logits.items():
            price = prices.at(torch.rand(len(z), device=z.device))
            losses[place] = F.cross_entropy(logits_at(z, price), priced_labels(log_worth[place] - middle, price))
        return losses


class _Teacher:
    """What the teacher's sites see, without gradients."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self, inputs: Arrays, places: tuple[str, ...]) -> list[Seen]:
        with torch.no_grad():
            _, seen = self._recorder.run(model_inputs(inputs))
        return [seen[place] for place in places]
