"""Measurements of one threshold setting over data: learner counts, budget, divergence and accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry

JENSEN_SHANNON = "Jensen-Shannon divergence of the class probabilities, nats"
SQUARED = "squared error of the output ÷ its variance"


@dataclass(frozen=True)
class Measurement:
    """Measurement of one threshold setting.

    Args:
        histograms: Valid tokens of each layer that ran 0, 1, ..., N learners.
        budget: β, executed ÷ all learner FLOPs over valid tokens and layers.
        standard_error: Standard error of β, from the variance between samples; None for fewer than two samples.
        divergence: Divergence from the output with all learners, mean over samples.
        accuracy: Share of correctly classified samples, if there are labels and class scores.
        samples: Number of samples.
    """

    histograms: tuple[tuple[int, ...], ...]
    budget: float
    standard_error: float | None
    divergence: float
    accuracy: float | None
    samples: int


class Accumulator:
    """Accumulates batches into one measurement, in constant memory.

    Args:
        layers: Layers of the manifest.
    """

    def __init__(self, layers: Sequence[LayerEntry]) -> None:
        self._layers = layers
        self._histograms = [np.zeros(e.num_learners + 1, np.int64) for e in layers]
        self._sums = np.zeros(5)  # of executed e and possible p per sample: ee, ep, pp, e, p
        self._divergence = 0.0
        self._right: int | None = None
        self._samples = 0

    def add(
        self,
        counts: Sequence[NDArray[np.int32]],
        masks: Sequence[NDArray[np.bool_] | None],
        divergence: float,
        right: int | None,
        samples: int,
    ) -> None:
        """Add a batch.

        Args:
            counts: Learner counts of each layer, ``[samples, ...]``.
            masks: Valid tokens of each layer, or None if all are valid.
            divergence: Sum of the samples' divergences.
            right: Number of correctly classified samples, or None.
            samples: Number of samples in the batch.
        """
        executed, possible = np.zeros(samples), np.zeros(samples)
        for index, (layer, count, mask) in enumerate(zip(self._layers, counts, masks, strict=True)):
            valid = np.ones_like(count, bool) if mask is None else mask
            self._histograms[index] += np.bincount(count[valid], minlength=layer.num_learners + 1)
            executed += layer.learner_flops * _by_sample(count * valid, samples)
            possible += layer.learner_flops * layer.num_learners * _by_sample(valid, samples)
        self._sums += [executed @ executed, executed @ possible, possible @ possible, executed.sum(), possible.sum()]
        self._divergence += divergence
        if right is not None:
            self._right = right + (self._right or 0)
        self._samples += samples

    def result(self) -> Measurement:
        """Measurement over all batches."""
        histograms = tuple(tuple(h.tolist()) for h in self._histograms)
        budget = budget_of(self._layers, histograms)
        ee, ep, pp, _, p = self._sums
        n = self._samples
        # Standard error of a ratio of sums, from the residuals e - β p (Cochran, Sampling Techniques, 6.4).
        scatter = max(ee - 2 * budget * ep + budget * budget * pp, 0.0)
        error = math.sqrt(n / (n - 1) * scatter) / p if n > 1 and p else None
        accuracy = None if self._right is None else self._right / max(n, 1)
        return Measurement(histograms, budget, error, self._divergence / max(n, 1), accuracy, n)


def _by_sample(values: np.ndarray, samples: int) -> NDArray[np.float64]:
    """Sums over everything but the leading axis; spread evenly if a layer merges samples into one axis."""
    if values.size % samples:
        return np.full(samples, values.sum() / samples)
    return np.asarray(values.reshape(samples, -1).sum(1), np.float64)


def budget_of(layers: Sequence[LayerEntry], histograms: Sequence[Sequence[int]]) -> float:
    """β from the learner counts of each layer, in integer arithmetic; 1 if no learner could run."""
    executed = possible = 0
    for layer, histogram in zip(layers, histograms, strict=True):
        executed += layer.learner_flops * sum(k * tokens for k, tokens in enumerate(histogram))
        possible += layer.learner_flops * layer.num_learners * sum(histogram)
    return executed / possible if possible else 1.0


def js_divergence(reference: np.ndarray, output: np.ndarray) -> NDArray[np.float64]:
    """Jensen-Shannon divergence between the softmaxes of each row of ``[..., classes]``, in nats, at most log 2.

    The Kullback-Leibler divergence is unbounded: a few samples that a model gets confidently wrong outweigh all others,
    and thresholds chosen for those few did worse than simpler ones on unseen data.
    """
    p, q = log_softmax(reference), log_softmax(output)
    middle = np.logaddexp(p, q) - np.log(2)
    return np.asarray(((np.exp(p) * (p - middle)).sum(-1) + (np.exp(q) * (q - middle)).sum(-1)) / 2)


def log_softmax(logits: np.ndarray) -> NDArray[np.float64]:
    """Log probabilities along the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
