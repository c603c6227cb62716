"""Compare outputs of an engine with those of the portable file, sample by sample.

Runtimes round differently, so a token whose margin is close to its threshold may run a different number of learners,
and everything after it in its sample then differs by more than rounding. Errors are therefore measured on samples in
which every token of every layer has the same learner count. Each of the other samples is judged by how close the first
differing token was to its threshold. An engine without learner counts is compared on all samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import EngineError
from acm_export.op.routing import margins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry

COUNTS = "counts/"
"""Prefix of the outputs that hold learner counts."""


@dataclass(frozen=True)
class Agreement:
    """How well two runs of one model agree.

    Args:
        errors: Largest difference in each sample with equal learner counts, relative to the largest value of the
            output; NaN where only one run has a NaN or an infinity.
        samples: Number of samples.
        rerouted: Number of tokens with different learner counts, over all layers; None for an engine without counts.
        tokens: Number of tokens, over all layers.
        margin_distance: Largest distance between margin and threshold among the first differing tokens of each sample,
            in standard deviations of the layer's margins; 0 where no token differs.
    """

    errors: tuple[float, ...]
    samples: int
    rerouted: int | None
    tokens: int
    margin_distance: float = 0.0


@dataclass(frozen=True)
class Reference:
    """One run of the portable file.

    Args:
        outputs: Outputs by name, without counts; the first dimension is samples.
        counts: Learner counts by layer, int32 ``[samples, tokens]``.
        logits: Gate logits by layer, float32 ``[samples, tokens, C]``.
        thresholds: Thresholds by layer, float32 ``[N]``.
    """

    outputs: Mapping[str, np.ndarray]
    counts: Mapping[str, NDArray[np.int32]]
    logits: Mapping[str, NDArray[np.float32]]
    thresholds: Mapping[str, NDArray[np.float32]]


def agreement(reference: Reference, actual: Mapping[str, np.ndarray], layers: Sequence[LayerEntry]) -> Agreement:
    """Compare a run of the engine with the same run of the portable file.

    Args:
        reference: Run of the portable file.
        actual: Outputs of the engine by name, with or without ``counts/<layer>``.
        layers: ACM layers in the order in which they run.

    Raises:
        EngineError: The outputs differ in name or shape.
    """
    has_counts = any(name.startswith(COUNTS) for name in actual)
    expected = dict(reference.outputs) | (
        {COUNTS + name: c for name, c in reference.counts.items()} if has_counts else {}
    )
    shapes = [{name: tuple(value.shape) for name, value in sorted(run.items())} for run in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise EngineError(f"outputs of the engine are {shapes[1]}, but the portable file has {shapes[0]}")
    samples = len(next(iter(reference.outputs.values())))
    alike, rerouted, distance = np.ones(samples, np.bool_), 0, 0.0
    for layer in layers if has_counts else ():
        ran, own = actual[COUNTS + layer.name].reshape(samples, -1), reference.counts[layer.name].reshape(samples, -1)
        differ = ran != own
        rerouted += int(differ.sum())
        first = differ & alike[:, None]
        distance = max(distance, _distance(layer, reference, first, np.minimum(ran, own)))
        alike &= ~differ.any(axis=1)
    errors = [_errors(value, actual[name]) for name, value in reference.outputs.items()]
    worst = np.max(errors, axis=0)[alike]
    tokens = sum(count.size for count in reference.counts.values())
    return Agreement(tuple(map(float, worst)), samples, rerouted if has_counts else None, tokens, distance)


def _distance(layer: LayerEntry, reference: Reference, first: NDArray[np.bool_], smaller: NDArray[np.int32]) -> float:
    """Largest distance to the threshold among the tokens marked in ``first``; ``smaller`` is the smaller count."""
    if not first.any():
        return 0.0
    margin = margins(reference.logits[layer.name])
    at = (smaller[first] - layer.min_learners).astype(np.int64)  # the first learner that the two decided differently
    decided = margin.reshape(-1, margin.shape[-1])[first.reshape(-1)][np.arange(at.size), at]
    against = reference.thresholds[layer.name][layer.min_learners :][at]
    finite = margin[np.isfinite(margin)]
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.abs(decided - against) / (finite.std() if finite.size else 0.0)
    return float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max())


def _errors(expected: np.ndarray, actual: np.ndarray) -> NDArray[np.float64]:
    """Largest difference in each sample, relative to the largest finite value of the output."""
    samples = len(expected)
    reference, value = (a.astype(np.float64).reshape(samples, -1) for a in (expected, actual))
    same = (reference == value) | (np.isnan(reference) & np.isnan(value))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(reference - value))
    difference[~np.isfinite(difference)] = np.nan
    largest = np.abs(reference[np.isfinite(reference)]).max(initial=0.0)
    if not difference.shape[1]:
        return np.zeros(samples)
    return np.asarray(difference.max(axis=1) / max(largest, np.finfo(np.float64).tiny))
