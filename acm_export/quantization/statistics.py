"""Run a float file over data, and collect what the scales need.

Each batch runs with all learners and at one other setting of the budget dial, so that the scales fit every budget. Of
each tensor only the largest absolute value of each channel and about a thousand random tokens are kept, so memory does
not grow with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import QuantizationError
from acm_export.quantization.observed import Observed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays, Batch
    from acm_export.data.token_masks import TokenMasks
    from acm_export.quantization.dial import DialSetting
    from acm_export.quantization.session import ObservingSession

SAMPLED_TOKENS = 1024
"""Tokens that are kept of each tensor; twice as many change no scale by more than a step of the search."""

_BATCH_BYTES = 1 << 27
"""Bytes of the observed tensors of one batch; larger batches are split, because all of them are held at once."""


class Statistics:
    """Collects the values of some tensors of a file.

    Args:
        readers: What reads each tensor, for errors: names of layers or weights, by tensor.
        layers: Layers whose learner counts are collected with the tensor that they read, by tensor.
        settings: Settings of the dial; the first one runs with every batch, the others in turn.
    """

    def __init__(
        self,
        readers: Mapping[str, Sequence[str]],
        layers: Mapping[str, Sequence[str]],
        settings: Sequence[DialSetting],
    ) -> None:
        self._readers, self._layers = readers, layers
        self._first, self._others = settings[0], settings[1:]
        self._rng = np.random.default_rng(0)  # a regular step could meet the same position of every sample
        self._largest: dict[str, NDArray[np.float32]] = {}
        self._samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in readers}
        self._counts: dict[str, list[NDArray[np.int32]]] = {n: [] for names in layers.values() for n in names}

    def batch_size(self, session: ObservingSession, sample: Batch, wanted: int) -> int:
        """The largest batch size, up to ``wanted``, whose tensors fit the memory limit.

        Args:
            session: Session of the float file that returns the tensors.
            sample: A batch of one sample.
            wanted: Batch size that the user asks for.
        """
        ran, _ = session.run(sample.feeds, self._first.thresholds, tuple(self._readers))
        held = sum(ran[name].nbytes for name in self._readers)
        return max(1, min(wanted, _BATCH_BYTES // max(held, 1)))

    def collect(
        self, session: ObservingSession, batches: Iterable[Batch], expected: int, on_batch: Callable[[], None]
    ) -> None:
        """Run all batches.

        Args:
            session: Session of the float file that returns the tensors.
            batches: Batches of samples.
            expected: About how many there are.
            on_batch: Called after every batch.

        Raises:
            QuantizationError: A tensor has NaN or infinite values.
        """
        runs = expected * min(2, 1 + len(self._others))
        quota = -(-SAMPLED_TOKENS // max(runs, 1))
        for index, batch in enumerate(batches):
            self._observe(session, batch, self._first, quota)
            if self._others:
                self._observe(session, batch, self._others[index % len(self._others)], quota)
            on_batch()

    def of(self, tensor: str, layer: str | None = None) -> Observed:
        """What was seen of a tensor.

        Args:
            tensor: Name of the tensor.
            layer: ACM layer whose learner counts to return.

        Raises:
            QuantizationError: The tensor is 0 for all tokens.
        """
        largest = self._largest.get(tensor)
        if largest is None or not largest.any():
            raise QuantizationError(
                f"{self._name(tensor)} reads only zeros in these data, which sets no scale",
                f"give samples like the data it will see, or keep it in float: --keep {self._readers[tensor][0]!r}",
            )
        counts = None if layer is None else np.concatenate(self._counts[layer])
        return Observed(largest, np.concatenate(self._samples[tensor]), counts)

    def forget(self, tensor: str) -> None:
        """Free the sample of a tensor."""
        self._samples[tensor] = []

    def _observe(self, session: ObservingSession, batch: Batch, setting: DialSetting, quota: int) -> None:
        ran, masks = session.run(batch.feeds, setting.thresholds, tuple(self._readers))
        for tensor in self._readers:
            self._add(tensor, ran, masks, quota)

    def _add(self, tensor: str, ran: Arrays, masks: TokenMasks, quota: int) -> None:
        mask = masks.of(ran[tensor].shape)
        values = ran[tensor]
        rows = (values.reshape(-1, values.shape[-1]) if mask is None else values[mask]).reshape(-1, values.shape[-1])
        largest = np.abs(rows).max(0, initial=0).astype(np.float32)
        if not np.isfinite(largest).all():
            kind = "NaN" if np.isnan(largest).any() else "infinite"
            raise QuantizationError(
                f"{self._name(tensor)} reads {kind} values in these data",
                "find the cause with: acm-export verify",
            )
        self._largest[tensor] = np.maximum(self._largest.get(tensor, np.float32(0)), largest)
        chosen = self._rng.choice(len(rows), min(quota, len(rows)), replace=False)
        self._samples[tensor].append(rows[chosen].astype(np.float32))
        for layer in self._layers.get(tensor, ()):
            counts = ran[f"counts/{layer}"]
            self._counts[layer].append((counts.reshape(-1) if mask is None else counts[mask]).reshape(-1)[chosen])

    def _name(self, tensor: str) -> str:
        return self._readers[tensor][0]
