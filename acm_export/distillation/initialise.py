"""Initialise learners from the teacher's weights, most important directions first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from acm_export.distillation.statistics import SiteStatistics
    from acm_export.modules import ACMLayer


def learners_from_ffn(layer: ACMLayer, up: nn.Linear, down: nn.Linear, statistics: SiteStatistics) -> None:
    """Distribute the hidden neurons of an FFN over the learners, most important neurons first.

    Importance is the root mean square of the neuron's activation × the norm of its output weights. The bias of a prefix
    includes the mean contribution of the learners that do not run. If the learners have the FFN's activation and at
    least as many hidden units as the FFN in total, all of them together compute the same as the FFN.

    Args:
        layer: Layer to initialise, changed in place.
        up: Up projection of the teacher, weight ``[width, D]``.
        down: Down projection of the teacher, weight ``[D, width]``.
        statistics: Statistics of the site.
    """
    spec = layer.spec
    importance = statistics.hidden_square.sqrt() * down.weight.detach().double().norm(dim=0).cpu()
    order = importance.argsort(descending=True, stable=True)[: spec.num_learners * spec.hidden_dim]
    kept = order.to(up.weight.device)
    with torch.no_grad():
        layer.w2.zero_()  # hidden units beyond the teacher's contribute nothing
        layer.w1[:, : len(kept)] = up.weight[kept].T
        layer.b1[: len(kept)] = 0.0 if up.bias is None else up.bias[kept]
        layer.w2[: len(kept)] = down.weight[:, kept].T
        contributions = statistics.hidden_mean.unsqueeze(1) * down.weight.detach().T.double().cpu()
        mean_output = contributions.sum(0) + (0.0 if down.bias is None else down.bias.detach().double().cpu())
        _set_biases(layer, mean_output, contributions[order])


def learners_from_linear(layer: ACMLayer, linear: nn.Linear, statistics: SiteStatistics) -> None:
    """Initialise the learners of a projection with the principal directions of its outputs, largest variance first.

    No linear map with the same number of hidden units has a smaller mean squared error on the recorded tokens.

    Args:
        layer: Layer to initialise, without an activation, changed in place.
        linear: Projection of the teacher.
        statistics: Statistics of the site.
    """
    spec = layer.spec
    _, vectors = torch.linalg.eigh(statistics.output_covariance)
    count = min(spec.num_learners * spec.hidden_dim, spec.model_dim)
    best = vectors.flip(1)[:, :count]
    weight = linear.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64) if linear.bias is None else linear.bias.detach().double().cpu()
    with torch.no_grad():
        layer.w2.zero_()
        layer.w1[:, :count] = (weight.T @ best).to(layer.w1)
        layer.b1[:count] = ((bias - statistics.output_mean) @ best).to(layer.b1)
        layer.w2[:count] = best.T.to(layer.w2)
        layer.b2[:] = statistics.output_mean.to(layer.b2)


def _set_biases(layer: ACMLayer, mean_output: torch.Tensor, contributions: torch.Tensor) -> None:
    """Set the biases so that the mean output of every prefix equals the mean output of the teacher.

    Args:
        layer: Layer to change in place.
        mean_output: Mean output of the teacher's site ``[D]``.
        contributions: Mean contribution of each hidden unit of the learners ``[units, D]``.
    """
    h = layer.spec.hidden_dim
    for count in range(layer.spec.num_learners + 1):
        layer.b2[count] = (mean_output - contributions[: count * h].sum(0)).to(layer.b2)
