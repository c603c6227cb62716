"""Paths that a user gives: their type, and a check of the names of outputs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

StrPath = str | os.PathLike[str]
"""A path as the public functions accept it."""


def check_suffix(path: Path, suffixes: Sequence[str], option: str = "-o", hint: str | None = None) -> None:
    """Check that the name of an output says what it will hold.

    Args:
        path: Path of the output.
        suffixes: Accepted suffixes, each with its dot.
        option: Command-line option that sets the path, for errors.
        hint: What to do instead.

    Raises:
        UsageError: The name ends in something else.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"{option} is {path.name}; it must end in {' or '.join(suffixes)}", hint)
