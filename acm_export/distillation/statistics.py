"""What has to be known about a teacher's sites before learners can be made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from acm_export.distillation.record import Recorder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

    from acm_export.surgery import ModelFamily, Site


@dataclass(frozen=True)
class SiteStatistics:
    """Of one site, over tokens that are no padding; float64.

    Args:
        hidden_mean: Of the hidden values of an FFN ``[width]``.
        hidden_square: Mean of their squares ``[width]``.
        output_mean: ``[D]``.
        output_covariance: ``[D, D]``.
        sensitivity: Mean square of the gradient of a random direction of the model's output at the site's output: the
            squared error that the model's output has for a squared error of 1 at the site.
    """

    hidden_mean: torch.Tensor
    hidden_square: torch.Tensor
    output_mean: torch.Tensor
    output_covariance: torch.Tensor
    sensitivity: float

    @property
    def output_variance(self) -> float:
        """Mean squared distance of an output from the mean output."""
        return float(self.output_covariance.diagonal().sum())


class _Sums:
    def __init__(self, width: int, d: int) -> None:
        self.tokens, self.gradient = 0, 0.0
        self.hidden, self.squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        self.output, self.products = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)


def gather_statistics(
    model: PreTrainedModel,
    family: ModelFamily,
    sites: tuple[Site, ...],
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> dict[str, SiteStatistics]:
    """Run some batches forward and backward through the teacher.

    Args:
        model: The teacher, on the device of the batches.
        family: Of the model.
        sites: To look at.
        batches: Inputs by name; at least one. Random directions come from torch's generator.

    Returns:
        By place.
    """
    sums = {site.place: _Sums(site.widths[-1][0], site.model_dim) for site in sites}
    fields = family.outputs[type(model).__name__]
    with Recorder(model, family, sites, listen_gradients=True) as recorder:
        for inputs in batches:
            output, seen = recorder.run(inputs)
            sum(_random_direction(output[name]) for name in fields).backward()  # type: ignore[union-attr]
            gradients = recorder.gradients()
            model.zero_grad(set_to_none=True)
            for place, total in sums.items():
                _add(total, seen[place].hidden, seen[place].o, gradients[place])
    return {place: _finish(total) for place, total in sums.items()}


def _random_direction(value: torch.Tensor) -> torch.Tensor:
    return (value.float() * torch.randn_like(value, dtype=torch.float32)).sum() / len(value)


def _add(total: _Sums, hidden: torch.Tensor, output: torch.Tensor, gradient: torch.Tensor) -> None:
    h, o = hidden.detach().double().cpu(), output.double().cpu()
    total.tokens += len(o)
    total.hidden += h.sum(0)
    total.squares += h.square().sum(0)
    total.output += o.sum(0)
    total.products += o.T @ o
    total.gradient += float(gradient.double().square().sum()) / o.shape[1]


def _finish(total: _Sums) -> SiteStatistics:
    n = max(total.tokens, 1)
    mean = total.output / n
    covariance: Any = total.products / n - torch.outer(mean, mean)
    return SiteStatistics(total.hidden / n, total.squares / n, mean, covariance, total.gradient / n)


def error_weights(statistics: Mapping[str, SiteStatistics]) -> dict[str, float]:
    """For each place, by what its squared errors are multiplied so that those of all places can be compared.

    1 is what the model's output suffers, on average over the places, when a site gives its mean output in the place of
    its outputs.
    """
    harm = {place: found.sensitivity * found.output_variance for place, found in statistics.items()}
    unit = max(sum(harm.values()) / len(harm), torch.finfo(torch.float32).tiny)
    return {place: found.sensitivity / unit for place, found in statistics.items()}
