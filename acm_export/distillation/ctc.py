"""Connectionist temporal classification: the task of speech recognisers that label each frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from acm_export.base.errors import UsageError
from acm_export.data.collate import LABELS, NO_LABEL
from acm_export.distillation.losses import divergence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.utils import ModelOutput as Output

Arrays = dict[str, torch.Tensor]


class CTC:
    """A task with a sequence of labels per sample, shorter than the model's frames.

    Args:
        blank: Blank label, which separates repeated labels.
        vocabulary: Number of labels.
        space: Label between words, for the word error rate; None for the label error rate.
    """

    name, needs_labels = "ctc", True

    def __init__(self, blank: int, vocabulary: int, space: int | None = None) -> None:
        self._blank, self._vocabulary, self._space = blank, vocabulary, space
        self.quality_name = "1 - label error rate" if space is None else "1 - word error rate"

    def loss(self, output: Output, batch: Arrays, teacher: Output | None, valid: torch.Tensor | None) -> torch.Tensor:
        """CTC loss, averaged over labels; with a teacher, the mean of CTC loss and divergence from its frames."""
        logits, labels = output.logits.float(), batch[LABELS]
        kept = labels >= 0
        loss = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            labels[kept],
            _lengths(logits, valid),
            kept.sum(1),
            blank=self._blank,
            zero_infinity=True,
        )
        return loss if teacher is None else 0.5 * (loss + divergence(output.logits, teacher.logits, valid))

    def quality(
        self,
        output: Output,
        batch: Arrays,
        teacher: Output | None,  # noqa: ARG002
        valid: torch.Tensor | None,
    ) -> tuple[float, float]:
        """Correct words or labels of the greedy transcript, and their number."""
        errors = total = 0
        for best, length, labels in zip(
            output.logits.argmax(-1), _lengths(output.logits, valid), batch[LABELS], strict=True
        ):
            found = [int(v) for v in best[: int(length)].unique_consecutive() if int(v) != self._blank]
            expected = [int(v) for v in labels if int(v) >= 0]
            errors += edit_distance(self._words(found), self._words(expected))
            total += len(self._words(expected))
        return float(total - errors), float(total)

    def check(self, batch: Arrays) -> None:
        """Check that every label is in the model's vocabulary.

        Raises:
            UsageError: A label is out of range, or the labels are not one sequence per sample.
        """
        labels = batch[LABELS]
        if labels.ndim != 2 or labels.is_floating_point():
            raise UsageError(f"labels are {labels.dtype} {list(labels.shape)}; expected one sequence per sample")
        bad = labels[((labels < 0) & (labels != NO_LABEL)) | (labels >= self._vocabulary)]
        if len(bad):
            raise UsageError(
                f"label {int(bad[0])} is out of range: the model has {self._vocabulary} labels, "
                f"0 to {self._vocabulary - 1}",
                "number the letters as in the model's vocab.json",
            )
        if bool((labels == self._blank).any()):
            raise UsageError(
                f"label {self._blank} is the blank of the model (pad_token_id), which transcripts cannot contain",
                f"pad labels with {NO_LABEL}",
            )

    def check_length(self, labels: torch.Tensor, frames: int) -> None:
        """Check that a transcript ``[letters]`` fits into the frames of its sound; a repeated letter needs one more.

        Raises:
            UsageError: The sound has too few frames.
        """
        kept = labels[labels >= 0]
        needed = len(kept) + int((kept[1:] == kept[:-1]).sum())
        if needed > frames:
            raise UsageError(
                f"a transcript of {len(kept)} letters needs {needed} frames, but its sound has {frames}",
                "remove samples that are too short for their transcripts",
            )

    def _words(self, labels: list[int]) -> list[tuple[int, ...]]:
        """Words as tuples of labels; without a space label, each label is a word."""
        if self._space is None:
            return [(label,) for label in labels]
        words: list[list[int]] = [[]]
        for label in labels:
            if label == self._space:
                words.append([])
            else:
                words[-1].append(label)
        return [tuple(word) for word in words if word]


def edit_distance(left: Sequence[object], right: Sequence[object]) -> int:
    """Insertions, deletions and substitutions from one sequence to the other."""
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (item != other))
    return row[-1]


def _lengths(logits: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    if valid is None:
        return torch.full((len(logits),), logits.shape[1], dtype=torch.long, device=logits.device)
    return valid.sum(1)
