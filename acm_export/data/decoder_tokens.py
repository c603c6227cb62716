"""Tokens for decoders that are run on the right answer (teacher forcing): transcripts, summaries, translations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acm_export.base.errors import UsageError
from acm_export.data.collate import DECODER_IDS
from acm_export.data.processor_files import read_settings
from acm_export.data.tokenizer import IDS, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from acm_export.data.batches import GraphInput

_TARGETS = ("target", "summary", "translation")
TRANSCRIPTS = ("text", "sentence", "transcription")
"""Columns with what is said in a sound."""


class DecoderTokens:
    """Turns the right answer into the input of a decoder: its tokens behind the start token, without the last one.

    The tokenizer adds its special tokens first, such as the prompt of Whisper or the end of a sentence.

    Args:
        folder: Folder of the tokenizer.
        start: Token that a decoder starts with.
        value: The input.

    Raises:
        UsageError: The folder has no tokenizer, or it is broken; or the model has no such token.
        MissingDependencyError: A package that reads it is not installed.
    """

    def __init__(self, folder: Path, start: int | None, value: GraphInput) -> None:
        if start is None or not 0 <= start < (value.below or start + 1):
            raise UsageError(
                f"the token that a decoder starts with is {'unknown' if start is None else start}; expected "
                "decoder_start_token_id in the config.json of the checkpoint",
                f"add it and export again, or give {DECODER_IDS} in the data",
            )
        self._start = start
        limit = value.lengths.get(str(value.shape[-1]), (1, None))[1]
        self._tokenizer = Tokenizer(folder, limit, value.below)
        self.pad_id, self.limit = self._tokenizer.pad_id, self._tokenizer.limit

    def __call__(self, texts: Sequence[str], names: Sequence[str]) -> tuple[list[np.ndarray], int]:
        """Tokenise answers.

        Args:
            texts: Answers.
            names: Name of each sample, for errors.

        Returns:
            Tokens of each, int64 ``[decoder_tokens]``, and how many were truncated to what the model takes.

        Raises:
            UsageError: An answer has no tokens, or a token is not in the model's vocabulary.
        """
        encodings = self._tokenizer(texts, names)
        return [self._shifted(e.arrays[IDS]) for e in encodings], sum(e.truncated for e in encodings)

    def _shifted(self, ids: np.ndarray) -> np.ndarray:
        """Some tokenizers add the start token (Whisper), others do not (T5)."""
        return ids[:-1] if len(ids) > 1 and ids[0] == self._start else np.array([self._start, *ids[:-1]], np.int64)


def target_columns(*, of_sounds: bool) -> tuple[str, ...]:
    """Names of columns that may hold the right answer, in order.

    Args:
        of_sounds: Whether the model takes sounds, so that the answer is what is said.
    """
    return (_TARGETS[0], *TRANSCRIPTS) if of_sounds else _TARGETS


def target_of(sample: Mapping[str, object], columns: Sequence[str], name: str) -> str | None:
    """The right answer of a sample; None if it has none.

    Args:
        sample: Columns by name.
        columns: Names of columns that may hold it, in order.
        name: Name of the sample, for errors.

    Raises:
        UsageError: The column holds something else than text, or nothing but spaces.
    """
    column = next((column for column in columns if column in sample), None)
    if column is None:
        return None
    text = sample[column]
    if not isinstance(text, str):
        raise UsageError(
            f"{name} has {type(text).__name__} in the column {column}; expected text",
            'make columns of strings: dataset.map(lambda row: {"text": row["translation"]["en"], '
            '"target": row["translation"]["de"]}, remove_columns="translation")'
            if column == "translation"
            else None,
        )
    if not text.strip():
        raise UsageError(f"the text in the column {column} of {name} is empty", "leave it out")
    return text


def no_answer(where: str, hint: str) -> UsageError:
    """The error for a sample without the right answer.

    Args:
        where: Name of the sample.
        hint: Where it may be.
    """
    return UsageError(
        f"{where}, and the model takes {DECODER_IDS}: its decoder is run on the right answer (teacher forcing)",
        f"{hint}; or use the encoder alone: --part encoder",
    )


def read_decoder_start(folder: Path) -> int | None:
    """The token that a decoder starts with, from ``config.json`` or ``generation_config.json``; None if unknown.

    As in transformers, ``bos_token_id`` stands for a missing ``decoder_start_token_id``.
    """
    try:
        settings = [read_settings(folder / name) for name in ("config.json", "generation_config.json")]
    except UsageError:  # a broken config is reported where the model is loaded
        return None
    keys = ("decoder_start_token_id", "bos_token_id")
    found = (content.get(key) for key in keys for content in settings)
    return next((value for value in found if type(value) is int), None)
