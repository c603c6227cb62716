"""Whether a plot can be drawn, checked before the work that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError
from acm_export.base.optional import require

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIXES = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Check the path of a plot.

    Raises:
        UsageError: The name does not end in .png or .svg.
        MissingDependencyError: Matplotlib is not installed.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--plot is {path.name}, it must end in {' or '.join(_SUFFIXES)}")
    require("matplotlib")
