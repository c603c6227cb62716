"""An engine's outputs against the portable file's, sample by sample.

Two runtimes round differently, so a token whose margin lies next to its threshold may run another number of learners,
and everything after it in its sample differs by more than rounding. Errors are therefore taken over the samples in
which every token of every layer ran the same number, and the others are judged by how near the first of their
differing tokens was to its threshold. An engine that does not give its counts is compared over all samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import EngineError
from acm_export.op.routing import margins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.onnx_file.manifest import LayerEntry

COUNTS = "counts/"
"""Begin of the names of outputs that hold learner counts."""


@dataclass(frozen=True)
class Agreement:
    """How far two runs of one model agree.

    Args:
        errors: Largest difference of each sample that was routed alike, relative to the largest value of the output;
            NaN where one run has a NaN or an infinity that the other has not.
        samples: All of them.
        moved: Tokens with another count, over all layers; None where the engine does not give its counts.
        tokens: Over all layers.
        farthest: Of the first tokens of each sample that moved, how far the margin was from its threshold, in standard
            deviations of the layer's margins; 0 where none moved.
    """

    errors: tuple[float, ...]
    samples: int
    moved: int | None
    tokens: int
    farthest: float = 0.0


@dataclass(frozen=True)
class Reference:
    """One run of the portable file.

    Args:
        outputs: By name, without counts; the first dimension is samples.
        counts: int32 ``[samples, tokens]`` by layer.
        logits: Gate logits, float32 ``[samples, tokens, C]`` by layer.
        thresholds: float32 ``[N]`` by layer.
    """

    outputs: Mapping[str, NDArray[Any]]
    counts: Mapping[str, NDArray[np.int32]]
    logits: Mapping[str, NDArray[np.float32]]
    thresholds: Mapping[str, NDArray[np.float32]]


def agreement(reference: Reference, actual: Mapping[str, NDArray[Any]], layers: Sequence[LayerEntry]) -> Agreement:
    """Compare a run of the engine with the same run of the portable file.

    Args:
        reference: Of the portable file.
        actual: The engine's outputs by name, with ``counts/<layer>`` or without.
        layers: In the order in which they run.

    Raises:
        EngineError: Outputs differ in name or shape.
    """
    told = any(name.startswith(COUNTS) for name in actual)
    expected = dict(reference.outputs) | ({COUNTS + name: c for name, c in reference.counts.items()} if told else {})
    shapes = [{name: tuple(value.shape) for name, value in sorted(run.items())} for run in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise EngineError(f"the engine's outputs are {shapes[1]}, those of the portable file {shapes[0]}")
    samples = len(next(iter(reference.outputs.values())))
    alike, moved, farthest = np.ones(samples, np.bool_), 0, 0.0
    for layer in layers if told else ():
        ran, own = actual[COUNTS + layer.name].reshape(samples, -1), reference.counts[layer.name].reshape(samples, -1)
        differ = ran != own
        moved += int(differ.sum())
        first = differ & alike[:, None]
        farthest = max(farthest, _farthest(layer, reference, first, np.minimum(ran, own)))
        alike &= ~differ.any(axis=1)
    errors = [_errors(value, actual[name]) for name, value in reference.outputs.items()]
    worst = np.max(errors, axis=0)[alike]
    tokens = sum(count.size for count in reference.counts.values())
    return Agreement(tuple(map(float, worst)), samples, moved if told else None, tokens, farthest)


def _farthest(layer: LayerEntry, reference: Reference, first: NDArray[np.bool_], smaller: NDArray[np.int32]) -> float:
    """The largest distance of the marked tokens, whose counts agree up to the ``smaller`` of the two."""
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


def _errors(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """Of each sample, relative to the largest finite value of all."""
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
