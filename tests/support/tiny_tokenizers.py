"""Small tokenizers of words, as tokenizer.json or as the files of older models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

if TYPE_CHECKING:
    from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "b", "c", "d", "e")


def word_tokenizer(special: tuple[str, ...] = SPECIAL, first: int = 0) -> Tokenizer:
    """``[CLS] words [SEP]``, and ``[CLS] words [SEP] words [SEP]`` with types 0 and 1 for a pair.

    Args:
        special: The five special tokens in the order of their ids.
        first: Id of the first token.
    """
    vocabulary = {word: first + number for number, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None = None, **settings: Any) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or word_tokenizer()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"} | settings))
    return folder


def write_vocabulary(folder: Path) -> Path:
    """Write the files of an older BERT: a vocabulary without ``tokenizer.json``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *WORDS)) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder
