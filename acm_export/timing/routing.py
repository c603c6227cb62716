"""Thresholds that route tokens as a measurement wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.data.token_masks import TokenMasks
from acm_export.onnx_file.thresholds import bound_of
from acm_export.op.routing import margins
from acm_export.verification.measurement import Accumulator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays
    from acm_export.onnx_file.manifest import LayerEntry
    from acm_export.runtimes.session import TappedSession
    from acm_export.timing.inputs import Feeds

    Thresholds = dict[str, NDArray[np.float32]]
    """float32 ``[N]`` by the name of the layer."""

DATA, LEAST, MOST, SKEWED = "data", "least", "most", "skewed"


def least(layers: Sequence[LayerEntry]) -> Thresholds:
    """Every token runs ``min_learners``."""
    return {layer.name: np.full(layer.num_learners, np.inf, np.float32) for layer in layers}


def most(layers: Sequence[LayerEntry], max_learners: int | None) -> Thresholds:
    """Every token runs all learners, or as many as the file's bound allows."""
    everything = {layer.name: np.full(layer.num_learners, -np.inf, np.float32) for layer in layers}
    return bounded(everything, layers, max_learners)


def bounded(
    thresholds: Mapping[str, NDArray[np.float32]], layers: Sequence[LayerEntry], most: int | None
) -> Thresholds:
    """The thresholds with +inf for learners beyond a bound."""
    return {e.name: np.where(bound_of(e, most) > 0, np.float32(np.inf), thresholds[e.name]) for e in layers}


def can_be_skewed(layers: Sequence[LayerEntry]) -> bool:
    """Whether some layer has two gated learners: with one, all or least is all that there is."""
    return any(layer.num_learners - layer.min_learners > 1 for layer in layers)


def all_or_least(margin: NDArray[np.float32], tokens: int) -> float:
    """The threshold that so many tokens exceed.

    Args:
        margin: float32 ``[tokens]`` of the first gated learner; NaN never exceeds anything.
        tokens: That are to exceed it; where margins are equal at the edge, fewer do.
    """
    if tokens <= 0:
        return float("inf")
    if tokens >= margin.size:
        return float("-inf")
    ordered = np.sort(np.where(np.isnan(margin), np.float32(-np.inf), margin))
    return float(ordered[-tokens - 1])


def skewed(session: TappedSession, feeds: Feeds, start: Thresholds, max_learners: int | None) -> Thresholds:
    """Route the same number of learners as ``start``, but so that a token runs all of them or the fewest.

    Layer by layer, in the order in which they run: a threshold changes what later layers see. The first gated learner
    gets a threshold that lets as many tokens pass as keep the layer's learners, the others run wherever it does.

    Args:
        session: Gives gate logits and counts.
        feeds: What is run; all batches together decide.
        start: Thresholds whose learners per layer are kept, to less than what one token can run.
        max_learners: The bound of the file.
    """
    layers = session.layers
    wanted = _learners(session, feeds, start)
    chosen = dict(start)
    for index, layer in enumerate(layers):
        top = min(layer.num_learners, layer.num_learners if max_learners is None else max_learners)
        low = layer.min_learners
        first = _first_margins(session, feeds, chosen, index)
        tokens = round((wanted[index] - low * first.size) / (top - low)) if top > low else 0
        values = np.full(layer.num_learners, -np.inf, np.float32)
        if top > low:
            values[low] = all_or_least(first, tokens)
        chosen |= bounded({layer.name: values}, [layer], max_learners)
    return chosen


def measured_budget(session: TappedSession, feeds: Feeds, thresholds: Thresholds) -> float:
    """β of all batches, from the counts of their own runs; padding is left out."""
    values, tally = flat(session.layers, thresholds), Accumulator(session.layers)
    for batch in feeds.batches:
        _, counts, masks = session.run_with_masks(batch, values)
        tally.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, len(next(iter(batch.values()))))
    return tally.result().budget


def budget_of_counts(layers: Sequence[LayerEntry], runs: Iterable[tuple[Arrays, Sequence[NDArray[np.int32]]]]) -> float:
    """β of runs that give no gate logits; padding is left out where the mask has the shape of the tokens.

    Args:
        layers: Of the manifest.
        runs: Inputs of each run, and the learner counts of each layer.
    """
    tally = Accumulator(layers)
    for batch, counts in runs:
        masks = TokenMasks.of_batch(batch, ())
        tally.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, len(next(iter(batch.values()))))
    return tally.result().budget


def flat(layers: Sequence[LayerEntry], thresholds: Thresholds) -> NDArray[np.float32]:
    """The thresholds of all layers, one after the other."""
    return np.concatenate([thresholds[layer.name] for layer in layers]).astype(np.float32)


def _learners(session: TappedSession, feeds: Feeds, thresholds: Thresholds) -> list[int]:
    """Learners that run in each layer, over all tokens."""
    totals = [0] * len(session.layers)
    for batch in feeds.batches:
        for index, count in enumerate(session.run(batch, flat(session.layers, thresholds))[1]):
            totals[index] += int(count.sum())
    return totals


def _first_margins(session: TappedSession, feeds: Feeds, thresholds: Thresholds, index: int) -> NDArray[np.float32]:
    """Margins ``[tokens]`` of the first gated learner of a layer; of no use where it has none."""
    found = []
    for batch in feeds.batches:
        logits = session.run_with_logits(batch, flat(session.layers, thresholds))[1][index]
        margin = margins(logits)
        found.append(margin[..., 0].reshape(-1) if margin.shape[-1] else np.zeros(logits[..., 0].size, np.float32))
    return np.concatenate(found)
