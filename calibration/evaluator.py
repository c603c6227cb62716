"""Passes over data: margins, and the cost and effect of threshold settings.

Memory does not grow with the amount of data; the outputs with all learners, which every setting is compared with, are
written once to a temporary file.
"""

from __future__ import annotations

import tempfile
import zlib
from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import CalibrationError, OutputError, UsageError
from acm_export.calibration.margins import MarginSummary, merge, summarize
from acm_export.data.checks import check_classes
from acm_export.data.token_masks import TokenMasks
from acm_export.op.routing import margins
from acm_export.verification.measurement import JENSEN_SHANNON, SQUARED, Accumulator, Measurement, js_divergence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from acm_export.data.batches import Arrays, Batch
    from acm_export.runtimes.session import TappedSession

Summaries = tuple[tuple[MarginSummary, ...], ...]
"""For each layer one summary for each gated learner."""


class Evaluator:
    """Evaluates thresholds on one part of the data.

    Args:
        session: Session of the model.
        batches: Starts a pass over the data.
        on_batch: Called after every batch.
    """

    def __init__(
        self,
        session: TappedSession,
        batches: Callable[[], Iterator[Batch]],
        on_batch: Callable[[], None] = lambda: None,
    ) -> None:
        self.layers = session.layers
        self._session, self._batches, self._on_batch = session, batches, on_batch
        self._references = tempfile.TemporaryFile(prefix="acm-export-")  # noqa: SIM115  closed by close()
        self._variances: dict[str, float] = {}
        self._measured: dict[bytes, Measurement] = {}
        self.divergence = SQUARED

    def close(self) -> None:
        """Remove the temporary file."""
        self._references.close()

    def reference(self) -> Summaries:
        """Run all learners of every token: keeps the outputs, and returns the margins.

        Raises:
            CalibrationError: Outputs of the model are not finite, or gate logits are NaN.
        """
        everything = np.full(sum(layer.num_learners for layer in self.layers), -np.inf, np.float32)
        variances = {name: _Variance() for name in self._session.outputs}
        self._references.seek(0)
        summaries = self._observe(everything, variances)
        self._variances = {name: s.value for name, s in variances.items()}
        return summaries

    def margins(self, thresholds: NDArray[np.float32]) -> Summaries:
        """Margins while the model runs with these thresholds."""
        return self._observe(thresholds, None)

    def _observe(self, thresholds: NDArray[np.float32], variances: dict[str, _Variance] | None) -> Summaries:
        summaries = [[MarginSummary()] * (e.num_learners - e.min_learners) for e in self.layers]
        for batch in self._batches():
            outputs, logits = self._session.run_with_logits(batch.feeds, thresholds)
            masks = TokenMasks.of_batch(batch.feeds, logits)
            for index, (layer, z) in enumerate(zip(self.layers, logits, strict=True)):
                mask = masks.of(z.shape[:-1])
                observed = margins(z.reshape(-1, z.shape[-1]) if mask is None else z[mask])
                if (undefined := int(np.isnan(observed).any(-1).sum())) and observed.size:
                    raise CalibrationError(
                        f"the gate of {layer.name} gives NaN for {undefined} of {len(observed)} tokens",
                        "compare the layers before it with the checkpoint: acm-export verify",
                    )
                pairs = zip(summaries[index], observed.T, strict=True)
                summaries[index] = [merge([before, summarize(column)]) for before, column in pairs]
            if variances is not None:
                self._remember(outputs, batch, masks, variances)
            self._on_batch()
        return tuple(tuple(row) for row in summaries)

    def _remember(self, outputs: Arrays, batch: Batch, masks: TokenMasks, variances: dict[str, _Variance]) -> None:
        self._write(np.array(_checksum(batch), np.uint32))
        for name, output in outputs.items():
            valid = _valid(output, masks)
            if not np.isfinite(valid).all():
                raise CalibrationError(
                    f"the model's output {name} is not finite on the data with all learners",
                    "find the cause with: acm-export verify",
                )
            variances[name].add(valid)
            if _is_logits(name, output):
                self.divergence = JENSEN_SHANNON
                if output.ndim == 2 and batch.classes is not None:
                    check_classes(batch.classes, output.shape[-1])
            self._write(output)

    def _write(self, array: np.ndarray) -> None:
        try:
            np.save(self._references, array)
        except OSError as error:
            raise OutputError(
                f"cannot write the model's outputs into {tempfile.gettempdir()}: {error.strerror or error}",
                "free some space there, or set TMPDIR to another folder",
            ) from error

    def measure(self, thresholds: NDArray[np.float32]) -> Measurement:
        """Measure a setting; the result is cached.

        Args:
            thresholds: Thresholds of all layers, one after the other.
        """
        key = thresholds.tobytes()
        if key not in self._measured:
            self._measured[key] = self._measure(thresholds)
        return self._measured[key]

    def _measure(self, thresholds: NDArray[np.float32]) -> Measurement:
        total = Accumulator(self.layers)
        self._references.seek(0)
        for batch in self._batches():
            if self._recall() != _checksum(batch):
                raise _data_changed()
            outputs, counts, masks = self._session.run_with_masks(batch.feeds, thresholds)
            divergence = np.zeros(batch.samples)
            right = None
            for name, output in outputs.items():
                divergence += self._divergence(name, self._recall(), output, masks)
                if batch.classes is not None and _is_logits(name, output) and output.ndim == 2:
                    right = int((output.argmax(-1) == batch.classes).sum())
            valid = [masks.of(count.shape) for count in counts]
            total.add(counts, valid, float(divergence.sum()), right, batch.samples)
            self._on_batch()
        if self._references.read(1):
            raise _data_changed()
        return total.result()

    def _recall(self) -> np.ndarray:
        try:
            return np.asarray(np.load(self._references))
        except (EOFError, ValueError) as error:
            raise _data_changed() from error

    def _divergence(
        self, name: str, reference: np.ndarray, output: np.ndarray, masks: TokenMasks
    ) -> NDArray[np.float64] | float:
        """Divergence of each sample, whatever the length of those beside it; or the mean of the batch."""
        if not np.isfinite(_valid(output, masks)).all():
            raise CalibrationError(f"the model's output {name} is not finite with some learners left out")
        if self.divergence == JENSEN_SHANNON:
            if not _is_logits(name, output):
                return 0.0
            if output.ndim == 2:
                return js_divergence(reference, output)
            pairs = _valid_pairs(reference, output, masks)
            return np.array([float(js_divergence(r, o).mean()) for r, o in pairs])
        pairs = _valid_pairs(reference, output, masks)
        errors = [float(((o.astype(np.float64) - r) ** 2).mean()) for r, o in pairs]
        return np.array(errors) / (self._variances[name] or 1.0)


class _Variance:
    """Variance of all values that were added."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        wide = values.astype(np.float64)
        self._count += wide.size
        self._sum += float(wide.sum())
        self._squares += float((wide**2).sum())

    @property
    def value(self) -> float:
        """The variance; 0 if nothing was added."""
        if not self._count:
            return 0.0
        mean = self._sum / self._count
        return max(self._squares / self._count - mean**2, 0.0)


def _is_logits(name: str, output: np.ndarray) -> bool:
    """Class scores of samples, ``[samples, classes]``, or of tokens, ``[samples, tokens, classes]``."""
    return name == "logits" and output.ndim in (2, 3) and output.shape[-1] > 1


def _checksum(batch: Batch) -> int:
    checksum = 0
    for _, array in sorted(batch.feeds.items()):
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def _data_changed() -> UsageError:
    return UsageError("the data differ from one pass to the next", "give data that are the same on every read")


def _valid(output: np.ndarray, masks: TokenMasks) -> np.ndarray:
    """An output without the tokens that are padding."""
    mask = masks.of(output.shape)
    return output if mask is None else np.asarray(output[mask])


def _valid_pairs(reference: np.ndarray, output: np.ndarray, masks: TokenMasks) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reference and output of each sample without padding; of the whole batch where nothing is padded."""
    mask = masks.of(output.shape)
    if mask is None:
        return [(reference, output)]
    return [(r[m], o[m]) if m.any() else (r, r) for r, o, m in zip(reference, output, mask, strict=True)]
