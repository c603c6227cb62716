"""Statistics of a teacher's sites, for initialising learners and weighting errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import UsageError, first_line
from acm_export.distillation.record import SiteRecorder
from acm_export.modules.outputs import named_outputs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

    from acm_export.distillation.record import SiteTensors
    from acm_export.surgery import ModelInterface, Site


@dataclass(frozen=True)
class SiteStatistics:
    """Statistics of one site over all tokens without padding; float64.

    Args:
        hidden_mean: Mean of the hidden values of an FFN ``[width]``.
        hidden_square: Mean square of the hidden values ``[width]``.
        output_mean: Mean output ``[D]``.
        output_variance: Mean squared distance between an output and the mean output.
        output_covariance: Covariance of the outputs of a projection ``[D, D]``; None for an FFN.
        sensitivity: Mean square of the gradient of a random direction of the model's output with respect to the site's
            output: squared error of the model's output per unit of squared error at the site.
    """

    hidden_mean: torch.Tensor
    hidden_square: torch.Tensor
    output_mean: torch.Tensor
    output_variance: float
    output_covariance: torch.Tensor | None
    sensitivity: float


class _Sums:
    def __init__(self, site: Site) -> None:
        width, d = site.hidden_dim, site.model_dim
        self.tokens, self.gradient, self.spread = 0, 0.0, 0.0
        self.hidden, self.squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        self.output = torch.zeros(d, dtype=torch.float64)
        self.products = None if site.down is not None else torch.zeros(d, d, dtype=torch.float64)


def gather_statistics(
    model: PreTrainedModel,
    interface: ModelInterface,
    sites: tuple[Site, ...],
    batches: Iterable[Mapping[str, torch.Tensor]],
) -> dict[str, SiteStatistics]:
    """Gather statistics in some forward and backward passes of the teacher.

    Args:
        model: Teacher, on the device of the batches.
        interface: How to run the model.
        sites: Sites to measure.
        batches: Inputs by name; at least one batch. Random directions come from torch's generator.

    Returns:
        Statistics by place.

    Raises:
        UsageError: The model's outputs have no gradient.
    """
    sums = {site.place: _Sums(site) for site in sites}
    with SiteRecorder(model, interface, sites, record_gradients=True) as recorder:
        for inputs in batches:
            output, tensors = recorder.run(inputs)
            _backward(named_outputs(output, interface.outputs))
            gradients = recorder.gradients()
            model.zero_grad(set_to_none=True)
            for place, total in sums.items():
                _add(total, tensors[place], gradients[place])
    return {place: _finish(total) for place, total in sums.items()}


def _backward(outputs: Mapping[str, torch.Tensor]) -> None:
    directions = [_random_direction(value) for value in outputs.values() if value.requires_grad]
    if not directions:
        found = ", ".join(f"{name} ({str(value.dtype).removeprefix('torch.')})" for name, value in outputs.items())
        raise UsageError(
            f"no output of the model has a gradient; it returns {found or 'no tensors'}",
            "return floating-point scores, computed without detach() or torch.no_grad()",
        )
    try:
        torch.stack(directions).sum().backward()
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise UsageError(
            f"the model cannot be trained, because it overwrites a tensor that its gradient needs: {first_line(error)}",
            "write x = x + f(x) in place of x += f(x) in its forward",
        ) from error


def _random_direction(value: torch.Tensor) -> torch.Tensor:
    return (value.float() * torch.randn_like(value, dtype=torch.float32)).sum() / len(value)


def _add(total: _Sums, tensors: SiteTensors, gradient: torch.Tensor) -> None:
    h, o = tensors.hidden.detach().double().cpu(), tensors.output.double().cpu()
    total.tokens += len(o)
    total.hidden += h.sum(0)
    total.squares += h.square().sum(0)
    total.output += o.sum(0)
    total.spread += float(o.square().sum())
    if total.products is not None:
        total.products += o.T @ o
    total.gradient += float(gradient.double().square().sum()) / o.shape[1]


def _finish(total: _Sums) -> SiteStatistics:
    n = max(total.tokens, 1)
    mean = total.output / n
    covariance = None if total.products is None else total.products / n - torch.outer(mean, mean)
    variance = max(total.spread / n - float(mean.square().sum()), 0.0)
    return SiteStatistics(total.hidden / n, total.squares / n, mean, variance, covariance, total.gradient / n)


def error_weights(statistics: Mapping[str, SiteStatistics]) -> dict[str, float]:
    """Weights, by place, that make the squared errors of all places comparable.

    A weighted error of 1 changes the model's output as much as replacing a site's outputs by their mean, on average
    over all places.
    """
    harm = {place: found.sensitivity * found.output_variance for place, found in statistics.items()}
    unit = max(sum(harm.values()) / len(harm), torch.finfo(torch.float32).tiny)
    return {place: found.sensitivity / unit for place, found in statistics.items()}
