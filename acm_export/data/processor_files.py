"""The files beside a model that turn a user's data into its inputs: tokenizers, processors and names of classes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER = "tokenizer.json"
TOKENIZER_SOURCES = (
    TOKENIZER,
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "bpe.codes",
)
"""Files of which one makes a folder that of a tokenizer."""

SETTINGS = "preprocessor_config.json"
PROCESSOR_SETTINGS = "processor_config.json"

PROCESSOR_FILES = (
    SETTINGS,
    PROCESSOR_SETTINGS,
    *TOKENIZER_SOURCES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "normalizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "sentence_bert_config.json",
)
"""Names of the files that travel with a model."""

_MAX_BYTES = 1 << 26
_MAX_CLASSES = 1 << 20


def processor_files(folder: Path) -> list[Path]:
    """The processor files in a folder, in the order of :data:`PROCESSOR_FILES`."""
    return [path for name in PROCESSOR_FILES if (path := folder / name).is_file()]


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object of settings; empty if the file does not exist.

    Raises:
        UsageError: The file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes; settings have at most {_MAX_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", "copy the file again from the original model") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds {type(content).__name__}; expected settings by name")
    return content


def read_class_names(folder: Path) -> tuple[str, ...]:
    """Names of a model's classes by number, from ``id2label`` in its ``config.json`` or ``label_names`` of timm.

    Empty if the file does not exist, or has only the names that transformers writes by default, such as LABEL_0.
    """
    try:
        config = read_settings(folder / "config.json")
    except UsageError:  # a broken config is reported where the model is loaded
        return ()
    listed, numbered = config.get("label_names"), config.get("id2label")
    names = numbered if isinstance(numbered, dict) else dict(enumerate(listed)) if isinstance(listed, list) else {}
    ordered = [names.get(str(number), names.get(number)) for number in range(len(names))]
    found = tuple(name for name in ordered if isinstance(name, str))
    default = tuple(f"LABEL_{number}" for number in range(len(names)))
    return found if len(found) == len(names) <= _MAX_CLASSES and found != default else ()


def class_number(name: str, classes: tuple[str, ...], where: str) -> int | None:
    """Number of a class that data name; None if the model has no names of classes.

    Args:
        name: Name of the class, or its number in decimal digits.
        classes: Names of the model's classes.
        where: Name of the sample, for errors.

    Raises:
        UsageError: No class of the model has this name.
    """
    if name in classes:
        return classes.index(name)
    if name.strip().isdecimal():
        return int(name)
    if not classes:
        return None
    shown = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    raise UsageError(
        f"{where} has the label {name!r}; the model's classes are {shown}",
        "write labels as these names, or as numbers from 0; or leave them out",
    )
