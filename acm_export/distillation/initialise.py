"""Initialise learners from the teacher's weights, most important directions first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from acm_export.distillation.statistics import SiteStatistics
    from acm_export.modules import ACMLayer
    from acm_export.modules.ffn_weights import FFNWeights


_CHUNK = 1 << 22
"""Weights that are copied or converted at a time, to avoid copying a whole matrix."""


def learners_from_ffn(layer: ACMLayer, weights: FFNWeights, statistics: SiteStatistics) -> None:
    """Distribute the hidden neurons of an FFN over the learners, most important neurons first.

    Importance is the root mean square of the neuron's hidden value × the norm of its output weights; the hidden value
    of a gated FFN is the product of both branches. The bias of a prefix includes the mean contribution of the learners
    that do not run. If the learners have the FFN's activation and at least as many hidden units as the FFN in total,
    all of them together compute the same as the FFN.

    Args:
        layer: Layer to initialise, changed in place.
        weights: Weights of the teacher's FFN.
        statistics: Statistics of the site.

    Raises:
        ValueError: The layer is a GLU and the FFN is not, or the reverse.
    """
    spec = layer.spec
    if spec.glu != (weights.v1 is not None):
        kinds = ["gated" if gated else "not gated" for gated in (spec.glu, weights.v1 is not None)]
        raise ValueError(f"the layer is {kinds[0]}, but the FFN is {kinds[1]}")
    importance = statistics.hidden_square.sqrt() * _column_norms(weights.w2)
    order = importance.argsort(descending=True, stable=True)
    kept = order[: spec.num_learners * spec.hidden_dim].to(weights.w1.device)
    with torch.no_grad():
        layer.w2.zero_()  # hidden units beyond the teacher's contribute nothing
        _copy_up(layer.w1, layer.b1, weights.w1, weights.b1, kept, weights.scale)
        if layer.v1 is not None and layer.c1 is not None and weights.v1 is not None:
            _copy_up(layer.v1, layer.c1, weights.v1, weights.c1, kept)
        for units in _chunks(len(kept), spec.model_dim):
            layer.w2[units] = weights.w2[:, kept[units]].T.to(layer.w2) / weights.scale
        _set_biases(layer, weights, statistics.hidden_mean, order)


def learners_from_linear(
    layer: ACMLayer, weight: torch.Tensor, bias: torch.Tensor | None, statistics: SiteStatistics
) -> None:
    """Initialise the learners of a projection with the principal directions of its outputs, largest variance first.

    No linear map with the same number of hidden units has a smaller mean squared error on the recorded tokens.

    Args:
        layer: Layer to initialise, without an activation, changed in place.
        weight: Weight of the teacher's projection ``[D, D]``, in the layout of ``nn.Linear``.
        bias: Its bias ``[D]``, or None.
        statistics: Statistics of the site.

    Raises:
        ValueError: The statistics are those of an FFN.
    """
    spec = layer.spec
    if statistics.output_covariance is None:
        raise ValueError("the statistics are those of an FFN; a projection needs the covariance of its outputs")
    _, vectors = torch.linalg.eigh(statistics.output_covariance)
    count = min(spec.num_learners * spec.hidden_dim, spec.model_dim)
    best = vectors.flip(1)[:, :count]
    weight = weight.detach().double().cpu()
    offset = -statistics.output_mean if bias is None else bias.detach().double().cpu() - statistics.output_mean
    with torch.no_grad():
        layer.w2.zero_()
        layer.w1[:, :count] = (weight.T @ best).to(layer.w1)
        layer.b1[:count] = (offset @ best).to(layer.b1)
        layer.w2[:count] = best.T.to(layer.w2)
        layer.b2[:] = statistics.output_mean.to(layer.b2)


def _copy_up(
    to_weight: torch.Tensor,
    to_bias: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    kept: torch.Tensor,
    scale: float = 1.0,
) -> None:
    """Copy the neurons ``kept`` of an up projection, times a factor, into the first columns of a layer's."""
    for units in _chunks(len(kept), weight.shape[1]):
        to_weight[:, units] = weight[kept[units]].T.to(to_weight) * scale
    to_bias[: len(kept)] = 0.0 if bias is None else bias[kept].to(to_bias) * scale


def _set_biases(layer: ACMLayer, weights: FFNWeights, hidden_mean: torch.Tensor, order: torch.Tensor) -> None:
    """Set the biases so that the mean output of every prefix equals the mean output of the teacher.

    Args:
        layer: Layer to change in place.
        weights: Weights of the teacher's FFN.
        hidden_mean: Mean of each hidden value ``[width]``, float64.
        order: The neurons, most important first.
    """
    h, count = layer.spec.hidden_dim, layer.spec.num_learners
    missing = _mean_contribution(weights.w2, order[count * h :], hidden_mean)
    for learners in range(count, -1, -1):
        bias = missing if weights.b2 is None else missing + weights.b2.detach().double().cpu()
        layer.b2[learners] = bias.to(layer.b2)
        if learners:
            missing += _mean_contribution(weights.w2, order[(learners - 1) * h : learners * h], hidden_mean)


def _mean_contribution(w2: torch.Tensor, neurons: torch.Tensor, hidden_mean: torch.Tensor) -> torch.Tensor:
    """Mean of what some neurons add to the output, float64 ``[D]``."""
    total = torch.zeros(len(w2), dtype=torch.float64)
    for units in _chunks(len(neurons), len(w2)):
        columns = w2.detach()[:, neurons[units].to(w2.device)].cpu().double()
        total += columns @ hidden_mean[neurons[units]]
    return total


def _column_norms(w2: torch.Tensor) -> torch.Tensor:
    """Norm of the output weights of each neuron, float64 ``[width]``."""
    width = w2.shape[1]
    return torch.cat([w2.detach()[:, units].cpu().double().norm(dim=0) for units in _chunks(width, len(w2))])


def _chunks(count: int, each: int) -> list[slice]:
    """Slices of ``count`` neurons with ``each`` weights, about ``_CHUNK`` weights a slice."""
    step = max(1, _CHUNK // each)
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
