"""Tokenise text with the model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import UsageError, first_line
from acm_export.base.optional import require
from acm_export.data.processor_files import TOKENIZER, TOKENIZER_SOURCES, read_settings
from acm_export.data.token_masks import MASK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from acm_export.data.batches import Arrays

IDS, TYPES = "input_ids", "token_type_ids"

Text = str | tuple[str, str]
"""One text, or a pair of texts that the model reads together."""

_UNBOUNDED = 1_000_000
"""``model_max_length`` of tokenizers without a limit is about 1e30."""


@dataclass(frozen=True)
class Encoding:
    """A tokenised text.

    Args:
        arrays: ``input_ids``, ``attention_mask`` and ``token_type_ids``, int64 ``[tokens]``.
        truncated: Whether the text had more tokens than the model takes.
    """

    arrays: Arrays
    truncated: bool


class Tokenizer:
    """The tokenizer of a model, with its special tokens; texts are truncated to what the model takes.

    ``tokenizer.json`` is read by the package tokenizers alone. Folders with older files need transformers.

    Args:
        folder: Folder of the tokenizer.
        limit: Largest number of tokens that the model takes, or None. The tokenizer may have a lower limit.
        below: Number of token embeddings of the model, or None.

    Raises:
        UsageError: The folder has no tokenizer, or it is broken.
        MissingDependencyError: A package that reads it is not installed.
    """

    def __init__(self, folder: Path, limit: int | None, below: int | None) -> None:
        self.name, tokenizer = _load(folder)
        settings = read_settings(folder / "tokenizer_config.json")
        self.limit = _limit(folder, settings, limit)
        self.pad_left = settings.get("padding_side") == "left"
        self._below = below
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if self.limit is not None:
            side = "left" if settings.get("truncation_side") == "left" else "right"
            tokenizer.enable_truncation(self.limit, direction=side)
        self._tokenizer = tokenizer
        self.pad_id = self._pad_id(folder, settings)

    def __call__(self, texts: Sequence[Text], names: Sequence[str]) -> list[Encoding]:
        """Tokenise texts.

        Args:
            texts: Texts, or pairs of texts.
            names: Name of each text, for errors.

        Raises:
            UsageError: A text has no tokens, or a token is not in the model's vocabulary.
        """
        try:
            found = self._tokenizer.encode_batch(list(texts))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise UsageError(f"{self.name} cannot tokenise {names[0]}: {first_line(error)}") from error
        return [self._encoding(one, name) for one, name in zip(found, names, strict=True)]

    def _encoding(self, found: Any, name: str) -> Encoding:
        ids = np.array(found.ids, np.int64)
        if not ids.size:
            raise UsageError(f"{name} has no tokens", "leave it out")
        if self._below is not None and ids.max() >= self._below:
            raise UsageError(
                f"{name}: {self.name} gives the token id {ids.max()}; the model takes 0 to {self._below - 1}",
                "name the folder of this model's own tokenizer with --processor",
            )
        mask, types = np.array(found.attention_mask, np.int64), np.array(found.type_ids, np.int64)
        return Encoding({IDS: ids, MASK: mask, TYPES: types}, bool(found.overflowing))

    def _pad_id(self, folder: Path, settings: dict[str, Any]) -> int:
        token = settings.get("pad_token") or read_settings(folder / "special_tokens_map.json").get("pad_token")
        text = token.get("content") if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(text) if isinstance(text, str) else None
        return found if isinstance(found, int) and (self._below is None or found < self._below) else 0


def find_tokenizer(processor: Path | None, model_folder: Path) -> Path:
    """The folder of a tokenizer.

    Args:
        processor: Folder, or a file in it, that the user named; None to search the model's folder.
        model_folder: Folder of the model's processors.

    Raises:
        UsageError: It has no tokenizer.
    """
    folder = model_folder
    if processor is not None:
        folder = processor if processor.is_dir() else processor.parent
    if any((folder / name).is_file() for name in TOKENIZER_SOURCES):
        return folder
    listed = f"{', '.join(TOKENIZER_SOURCES[:4])} or another"
    raise UsageError(
        f"there is no tokenizer in {folder} ({listed}), which turns text into {IDS}",
        "name its folder with --processor: that of the checkpoint, or the .processor folder that export wrote",
    )


def complete_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` into a folder of an older tokenizer, so that reading it needs no transformers.

    A folder that transformers cannot read stays as it is: the error appears where text is used.

    Args:
        folder: Folder to complete; nothing is done if it has the file or no tokenizer.
    """
    held = [name for name in TOKENIZER_SOURCES if (folder / name).is_file()]
    if held and TOKENIZER not in held:
        try:
            _convert(folder).save(str(folder / TOKENIZER))
        except UsageError:
            return


def _load(folder: Path) -> tuple[str, Any]:
    path = folder / TOKENIZER
    if not path.is_file():
        return f"the tokenizer in {folder}", _convert(folder)
    tokenizers = require("tokenizers")
    try:
        return str(path), tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UsageError(
            f"cannot read {path}: {first_line(error)}", "copy it again from the model, or update the package tokenizers"
        ) from error


def _convert(folder: Path) -> Any:
    transformers = require("transformers")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return type(loaded.backend_tokenizer).from_str(loaded.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises many types for files that it cannot use
        raise UsageError(
            f"transformers cannot make a tokenizer of the files in {folder}: {first_line(error)}",
            f"save it as {TOKENIZER}: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        ) from error


def _limit(folder: Path, settings: dict[str, Any], limit: int | None) -> int | None:
    """The smallest limit of the model, of its tokenizer, and of sentence-transformers."""
    stated = (
        limit,
        settings.get("model_max_length"),
        read_settings(folder / "sentence_bert_config.json").get("max_seq_length"),
    )
    limits = [int(n) for n in stated if isinstance(n, (int, float)) and 0 < n < _UNBOUNDED]
    return min(limits, default=None)
