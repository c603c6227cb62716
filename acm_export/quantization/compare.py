"""Compare the outputs and budgets of the int8 file with those of the float file, at the same thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import QuantizationError
from acm_export.quantization.result import Comparison
from acm_export.verification.measurement import Accumulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from acm_export.data.batches import Batch
    from acm_export.data.token_masks import TokenMasks
    from acm_export.quantization.dial import DialSetting
    from acm_export.quantization.session import ObservingSession


def compare(
    before: ObservingSession,
    after: ObservingSession,
    settings: Sequence[DialSetting],
    batches: Callable[[], Iterable[Batch]],
    on_batch: Callable[[], None],
) -> tuple[Comparison, ...]:
    """Run both files at each setting.

    Args:
        before: Session of the float file.
        after: Session of the int8 file.
        settings: Thresholds for both.
        batches: Starts a pass over the samples.
        on_batch: Called after every batch.

    Raises:
        QuantizationError: The int8 file returns NaN or infinity where the float file does not.
    """
    return tuple(_compare(before, after, setting, batches(), on_batch) for setting in settings)


def _compare(
    before: ObservingSession,
    after: ObservingSession,
    setting: DialSetting,
    batches: Iterable[Batch],
    on_batch: Callable[[], None],
) -> Comparison:
    cosines: list[float] = []
    largest = 0.0
    budgets = [Accumulator(session.layers) for session in (before, after)]
    moved = tokens = 0
    for batch in batches:
        (exact, masks), (rounded, _) = (session.run(batch.feeds, setting.thresholds) for session in (before, after))
        for name in before.outputs:
            for reference, output in _samples(exact[name], rounded[name], masks):
                if np.isfinite(reference).all() and not np.isfinite(output).all():
                    raise QuantizationError(
                        f"the output {name} of the int8 file is not finite, unlike that of the float file",
                        "give more samples, or keep some layers in float: --keep",
                    )
                cosines.append(cosine(reference, output))
                largest = max(largest, float(np.abs(output - reference).max(initial=0)))
        counts = [[ran[f"counts/{layer.name}"] for layer in before.layers] for ran in (exact, rounded)]
        valid = [masks.of(count.shape) for count in counts[0]]
        for budget, values in zip(budgets, counts, strict=True):
            budget.add(values, valid, 0.0, None, batch.samples)
        for was, now, mask in zip(*counts, valid, strict=True):
            moved += int(((was != now) & (True if mask is None else mask)).sum())
            tokens += was.size if mask is None else int(mask.sum())
        on_batch()
    mean, least = float(np.mean(cosines or [1.0])), min(cosines, default=1.0)
    if not before.layers:
        return Comparison(setting.name, mean, least, largest, None, None, None)
    float_budget, int8_budget = (total.result().budget for total in budgets)
    return Comparison(setting.name, mean, least, largest, float_budget, int8_budget, moved / max(tokens, 1))


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine similarity of two vectors; 1 if both are 0."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(not (a.any() or b.any()))


def _samples(
    exact: np.ndarray, rounded: np.ndarray, masks: TokenMasks
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The values of each sample in both files, without padding."""
    mask = masks.of(exact.shape)
    for index in range(len(exact)):
        chosen = slice(None) if mask is None or mask.ndim == 1 else mask[index]
        yield exact[index][chosen].ravel().astype(np.float64), rounded[index][chosen].ravel().astype(np.float64)
