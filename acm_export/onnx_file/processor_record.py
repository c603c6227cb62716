"""What a file says of the tokenizer or processor of its model, and of the names of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acm_export.base.json_fields import OBJECT, TEXT, Kind, checked

Lengths = dict[str, tuple[int, int | None]]
"""Smallest and largest size of dynamic dimensions, by name; None means no limit."""


@dataclass(frozen=True)
class ProcessorRecord:
    """The part of the manifest that lets data such as text, images and sounds be read for a file.

    Args:
        folder: Name of the folder that ``export`` wrote beside the file, or None.
        files: SHA-256 of the files in it, by name.
        labels: Names of the model's classes by number; empty if it has none.
        lengths: Sizes of dynamic dimensions that the model takes.
        decoder_start: Token that the model's decoder starts with; None if it has no decoder, or in older files.
    """

    folder: str | None
    files: dict[str, str]
    labels: tuple[str, ...]
    lengths: Lengths
    decoder_start: int | None = None

    @classmethod
    def parse(cls, content: dict[str, Any]) -> ProcessorRecord:
        """Parse the manifest's JSON object.

        Raises:
            BrokenFieldError: A field is missing, unknown or invalid.
        """
        if isinstance(content, dict):
            content = {"decoder_start": None, **content}
        fields = checked(content, _FIELDS, "processor.")
        checked(fields["files"], dict.fromkeys(fields["files"], TEXT), "processor.files.")
        checked(fields["lengths"], dict.fromkeys(fields["lengths"], _BOUNDS), "processor.lengths.")
        lengths = {name: (low, high) for name, (low, high) in fields["lengths"].items()}
        return cls(fields["folder"], fields["files"], tuple(fields["labels"]), lengths, fields["decoder_start"])


def is_plain(name: str) -> bool:
    """Whether a name stays inside the folder that it is looked up in."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")


def _is_bounds(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    low, high = value
    return type(low) is int and low >= 0 and (high is None or (type(high) is int and high >= low))


_BOUNDS = Kind("the smallest and the largest size", _is_bounds)
_FIELDS = {
    "folder": Kind("the name of a folder, or null", lambda v: v is None or (isinstance(v, str) and is_plain(v))),
    "files": Kind("SHA-256 by file name", lambda v: OBJECT.holds(v) and all(map(is_plain, v))),
    "labels": Kind("a list of names", lambda v: isinstance(v, list) and all(isinstance(n, str) for n in v)),
    "lengths": OBJECT,
    "decoder_start": Kind("a token, or null", lambda v: v is None or (type(v) is int and v >= 0)),
}
