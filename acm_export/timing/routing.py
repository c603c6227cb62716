"""Thresholds for controlled routing, and the β that inputs run at."""

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
    from acm_export.timing.inputs import InputBatches

    Thresholds = dict[str, NDArray[np.float32]]
    """float32 ``[N]`` by the name of the layer."""

DATA, LEAST, MOST, SKEWED = "data", "least", "most", "skewed"


class SessionMeter:
    """Measures budgets in ONNX Runtime, with learner counts and gate logits as extra outputs.

    Args:
        session: Session of the ONNX file.
    """

    def __init__(self, session: TappedSession) -> None:
        self._session: TappedSession | None = session

    def budget(self, inputs: InputBatches, thresholds: Thresholds | None, controls: Arrays) -> float | None:  # noqa: ARG002
        """Measure β at these thresholds."""
        return None if thresholds is None else measured_budget(self._opened, inputs, thresholds)

    def skewed(self, inputs: InputBatches, start: Thresholds, max_learners: int | None) -> Thresholds:
        """Find the worst skew, layer by layer."""
        return skewed(self._opened, inputs, start, max_learners)

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    @property
    def _opened(self) -> TappedSession:
        if self._session is None:
            raise ValueError("the meter is closed")
        return self._session


class NoMeter:
    """The meter of engines that output neither learner counts nor gate logits."""

    def budget(self, inputs: InputBatches, thresholds: Thresholds | None, controls: Arrays) -> None:
        """Return None: not visible."""

    def skewed(self, inputs: InputBatches, start: Thresholds, max_learners: int | None) -> None:
        """Return None: not visible."""

    def close(self) -> None:
        """Nothing to free."""


def least(layers: Sequence[LayerEntry]) -> Thresholds:
    """Thresholds at which every token runs ``min_learners``."""
    return {layer.name: np.full(layer.num_learners, np.inf, np.float32) for layer in layers}


def most(layers: Sequence[LayerEntry], max_learners: int | None) -> Thresholds:
    """Thresholds at which every token runs all learners, or as many as the file's ``max_learners`` allows."""
    everything = {layer.name: np.full(layer.num_learners, -np.inf, np.float32) for layer in layers}
    return bounded(everything, layers, max_learners)


def bounded(
    thresholds: Mapping[str, NDArray[np.float32]], layers: Sequence[LayerEntry], max_learners: int | None
) -> Thresholds:
    """The thresholds with +inf for learners beyond ``max_learners``."""
    return {e.name: np.where(bound_of(e, max_learners) > 0, np.float32(np.inf), thresholds[e.name]) for e in layers}


def can_be_skewed(layers: Sequence[LayerEntry]) -> bool:
    """Whether some layer has two gated learners; with one, a token runs either all or the fewest anyway."""
    return any(layer.num_learners - layer.min_learners > 1 for layer in layers)


def all_or_least(margin: NDArray[np.float32], tokens: int) -> float:
    """The threshold that a given number of tokens exceeds.

    Args:
        margin: float32 ``[tokens]``, margins of the first gated learner; NaN never exceeds a threshold.
        tokens: Number of tokens; fewer exceed the threshold where margins are equal at the edge.
    """
    if tokens <= 0:
        return float("inf")
    if tokens >= margin.size:
        return float("-inf")
    ordered = np.sort(np.where(np.isnan(margin), np.float32(-np.inf), margin))
    return float(ordered[-tokens - 1])


def skewed(session: TappedSession, inputs: InputBatches, start: Thresholds, max_learners: int | None) -> Thresholds:
    """Run the same number of learners as ``start``, but every token runs either all of them or the fewest.

    Goes layer by layer in execution order, because a threshold changes what later layers receive. The first gated
    learner gets the threshold at which the layer runs as many learners as before; the others run for the same tokens.

    Args:
        session: Session that shows gate logits and counts.
        inputs: Batches to run; all of them together decide.
        start: Thresholds whose learners per layer are kept, to within the learners of one token.
        max_learners: The file's bound on learners.
    """
    layers = session.layers
    wanted = _learners(session, inputs, start)
    chosen = dict(start)
    for index, layer in enumerate(layers):
        top = min(layer.num_learners, layer.num_learners if max_learners is None else max_learners)
        low = layer.min_learners
        first = _first_margins(session, inputs, chosen, index)
        tokens = round((wanted[index] - low * first.size) / (top - low)) if top > low else 0
        values = np.full(layer.num_learners, -np.inf, np.float32)
        if top > low:
            values[low] = all_or_least(first, tokens)
        chosen |= bounded({layer.name: values}, [layer], max_learners)
    return chosen


def measured_budget(session: TappedSession, inputs: InputBatches, thresholds: Thresholds) -> float:
    """β over all batches, from the learner counts of their runs; padding is left out."""
    values, tally = flat(session.layers, thresholds), Accumulator(session.layers)
    for batch in inputs.batches:
        _, counts, masks = session.run_with_masks(batch, values)
        tally.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, inputs.samples)
    return tally.result().budget


def budget_of_counts(layers: Sequence[LayerEntry], runs: Iterable[tuple[Arrays, Sequence[NDArray[np.int32]]]]) -> float:
    """β from learner counts alone; padding is left out if the mask has the shape of the tokens.

    Args:
        layers: Layers of the manifest.
        runs: Inputs of each run, and the learner counts of each layer.
    """
    tally = Accumulator(layers)
    for batch, counts in runs:
        masks = TokenMasks.of_batch(batch, ())
        tally.add(counts, [masks.of(count.shape) for count in counts], 0.0, None, len(next(iter(batch.values()))))
    return tally.result().budget


def flat(layers: Sequence[LayerEntry], thresholds: Thresholds) -> NDArray[np.float32]:
    """The thresholds of all layers in one array."""
    return np.concatenate([thresholds[layer.name] for layer in layers]).astype(np.float32)


def _learners(session: TappedSession, inputs: InputBatches, thresholds: Thresholds) -> list[int]:
    """Learners that run in each layer, summed over all tokens."""
    totals = [0] * len(session.layers)
    for batch in inputs.batches:
        for index, count in enumerate(session.run(batch, flat(session.layers, thresholds))[1]):
            totals[index] += int(count.sum())
    return totals


def _first_margins(
    session: TappedSession, inputs: InputBatches, thresholds: Thresholds, index: int
) -> NDArray[np.float32]:
    """Margins ``[tokens]`` of a layer's first gated learner; zeros if it has none."""
    found = []
    for batch in inputs.batches:
        logits = session.run_with_logits(batch, flat(session.layers, thresholds))[1][index]
        margin = margins(logits)
        found.append(margin[..., 0].reshape(-1) if margin.shape[-1] else np.zeros(logits[..., 0].size, np.float32))
    return np.concatenate(found)
