"""Files of text: one sample for each line, or a table with a header."""

from __future__ import annotations

import csv
import json
from itertools import islice
from typing import IO, TYPE_CHECKING

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from acm_export.data.tokenizer import Text

TEXT_SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv")
_PAIRS = (
    ("text", "text_pair"),
    ("sentence", None),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "context"),
)
"""Columns with text, and the columns of the text that the model reads with it."""

_LABELS = ("label", "labels")
_MAX_LINE = 1 << 24


def read_texts(path: Path, limit: int | None) -> list[dict[str, object]]:
    """Read the rows of a text file; empty lines are ignored.

    Args:
        path: ``.txt`` with one text on each line, ``.jsonl`` with one object on each line, or ``.csv`` or ``.tsv`` with
            a header.
        limit: Largest number of rows, or None.

    Returns:
        Columns by name; those of a ``.txt`` file have ``text`` alone.

    Raises:
        UsageError: The file cannot be read, is not UTF-8, or has no column with text.
    """
    readers = {".txt": _plain, ".jsonl": _objects, ".csv": _table, ".tsv": _table}
    try:
        with path.open("rb") as file:
            return list(islice(readers[path.suffix.lower()](path, _lines(path, file)), limit))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def text_of(sample: Mapping[str, object], name: str, others: Collection[str] = ()) -> Text | None:
    """The text of a sample, or its pair of texts; None if it has none.

    Args:
        sample: Columns by name.
        name: Name of the sample, for errors.
        others: Columns whose text is not that of the input.

    Raises:
        UsageError: A column of text holds something else, or several columns could be the text.
    """
    for first, second in _PAIRS:
        if first in sample:
            pair = [sample[column] for column in (first, second) if column is not None and column in sample]
            if wrong := [value for value in pair if not isinstance(value, str)]:
                raise UsageError(f"{name} has {type(wrong[0]).__name__} in the column {first}; expected text")
            texts = [str(value) for value in pair]
            return texts[0] if len(texts) == 1 else (texts[0], texts[1])
    others = {*_LABELS, *others}
    found = [column for column, value in sample.items() if isinstance(value, str) and column not in others]
    if len(found) > 1:
        raise UsageError(
            f"{name} has text in the columns {', '.join(found)}; expected it in text or sentence",
            'rename the right one to "text", and a second one that the model reads with it to "text_pair"',
        )
    return str(sample[found[0]]) if found else None


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty, with their line breaks."""
    for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b""), 1):
        if len(raw) > _MAX_LINE:
            raise UsageError(f"line {number} of {path} is longer than {_MAX_LINE >> 20} MiB", "write one text a line")
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"line {number} of {path} is not UTF-8: byte 0x{raw[error.start]:02x}",
                f"convert it: iconv -f ENCODING -t UTF-8 {path.name} > utf8{path.suffix}",
            ) from error
        if line.strip():
            yield number, line


def _plain(_path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[dict[str, object]]:
    for _, line in lines:
        yield {"text": line.rstrip("\r\n")}


def _objects(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[dict[str, object]]:
    for number, line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"line {number} of {path} is not JSON: {error}", "write one object on each line"
            ) from error
        if not isinstance(row, (dict, str)):
            raise UsageError(
                f"line {number} of {path} is {type(row).__name__}; expected an object", 'such as {"text": "..."}'
            )
        yield {"text": row} if isinstance(row, str) else row


def _table(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[dict[str, object]]:
    reached = 0

    def texts() -> Iterator[str]:
        nonlocal reached
        for number, line in lines:
            reached = number
            yield line

    rows = csv.DictReader(texts(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        columns = list(rows.fieldnames or ())
        if columns and not {first for first, _ in _PAIRS} & set(columns):
            raise UsageError(
                f"{path} has the columns {', '.join(columns)}; expected text or sentence",
                "the first line names the columns: text or sentence, and optionally text_pair and label",
            )
        for row in rows:
            if None in row or None in row.values():
                given = len(columns) + len(row[None]) if None in row else sum(v is not None for v in row.values())
                raise UsageError(
                    f"{path} has a row of {given} fields near line {reached}; the header has {len(columns)}",
                    "put fields that contain a separator in double quotes",
                )
            yield dict(row)
    except csv.Error as error:
        raise UsageError(f"{path} is not a table near line {reached}: {error}") from error
