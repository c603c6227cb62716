"""Images and sounds with the compute of their tokens: the cheapest and the most expensive ones of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from acm_export.data.batches import Batch
    from acm_export.onnx_file.manifest import LayerEntry
    from acm_export.runtimes.session import TappedSession

_NO_PATCHES = 2
"""Largest number of tokens before the patches: the class token, and the distillation token of DeiT."""

_PIECES = 400
"""Pieces of a waveform, each drawn as one line."""


@dataclass(frozen=True)
class ImageExample:
    """One image.

    Args:
        pixels: Pixels scaled to 0..1, ``[height, width, 1 or 3]``.
        shares: Executed ÷ all learner FLOPs of each patch over all layers, ``[rows, columns]``.
        budget: Budget β of the image.
        label: Class of the image, if known.
    """

    pixels: NDArray[np.float32]
    shares: NDArray[np.float64]
    budget: float
    label: int | None


@dataclass(frozen=True)
class AudioExample:
    """One waveform.

    Args:
        envelope: Smallest and largest sample of each piece, ``[pieces, 2]``.
        shares: Executed ÷ all learner FLOPs of each token over all layers, ``[tokens]``.
        budget: Budget β of the waveform.
        label: Class of the waveform, if known.
    """

    envelope: NDArray[np.float32]
    shares: NDArray[np.float64]
    budget: float
    label: int | None


Example = ImageExample | AudioExample


def find_examples(
    session: TappedSession, batches: Iterable[Batch], thresholds: NDArray[np.float32], each: int = 5
) -> tuple[Example, ...]:
    """Run samples and keep the cheapest and the most expensive ones.

    Args:
        session: Session of the model.
        batches: Images or waveforms; there are no examples of anything else.
        thresholds: Thresholds of all layers, one after the other.
        each: Number of the cheapest, and of the most expensive, to keep.

    Returns:
        At most 2 x ``each`` examples, cheapest first; none if the tokens of images are not the patches of a square
        grid, or if layers have different tokens.
    """
    kept: list[Example] = []
    for batch in batches:
        make = _maker(batch)
        if make is None:
            return ()
        shares = _token_shares(session.layers, session.run(batch.feeds, thresholds)[1])
        made = None if shares is None else make(batch, shares)
        if made is None:
            return ()
        kept = sorted([*kept, *made], key=lambda example: example.budget)
        if len(kept) > 2 * each:
            kept = kept[:each] + kept[-each:]
    return tuple(kept)


def _maker(batch: Batch) -> Callable[[Batch, NDArray[np.float64]], list[Example] | None] | None:
    """The function that makes examples of a batch, or None if it has neither images nor sounds."""
    values = {name: array for name, array in batch.feeds.items() if name != MASK}
    if len(values) != 1:
        return None
    (array,) = values.values()
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[2] == array.shape[3]:
        return _images
    return _sounds if array.ndim == 2 and array.dtype.kind == "f" else None


def _images(batch: Batch, shares: NDArray[np.float64]) -> list[Example] | None:
    images, tokens = _values(batch), shares.shape[1]
    side = math.isqrt(tokens)
    if not side or tokens - side * side > _NO_PATCHES:
        return None
    patches = shares[:, tokens - side * side :].reshape(-1, side, side)  # tokens other than patches come first
    rows = zip(images, patches, shares.mean(1).tolist(), _labels(batch), strict=True)
    return [ImageExample(_pixels(image), grid, budget, label) for image, grid, budget, label in rows]


def _sounds(batch: Batch, shares: NDArray[np.float64]) -> list[Example]:
    rows = zip(_values(batch), shares, shares.mean(1).tolist(), _labels(batch), strict=True)
    return [AudioExample(_envelope(sound), tokens, budget, label) for sound, tokens, budget, label in rows]


def _values(batch: Batch) -> NDArray[np.float32]:
    return next(array for name, array in batch.feeds.items() if name != MASK)


def _labels(batch: Batch) -> list[int | None]:
    return [None] * batch.samples if batch.classes is None else batch.classes.tolist()


def _token_shares(layers: tuple[LayerEntry, ...], counts: list[NDArray[np.int32]]) -> NDArray[np.float64] | None:
    """Shares of FLOPs ``[samples, tokens]``, or None where layers have different tokens."""
    if len({count.shape for count in counts}) != 1 or counts[0].ndim != 2 or not counts[0].size:
        return None
    executed = sum(
        (count * float(layer.learner_flops) for layer, count in zip(layers, counts, strict=True)),
        np.zeros(counts[0].shape),
    )
    return np.asarray(executed / sum(layer.num_learners * layer.learner_flops for layer in layers))


def _envelope(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    pieces = np.array_split(sound, min(_PIECES, len(sound)))
    return np.array([[piece.min(), piece.max()] for piece in pieces], np.float32)


def _pixels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low if high > low else 1.0)
    return np.ascontiguousarray(scaled.transpose(1, 2, 0))
