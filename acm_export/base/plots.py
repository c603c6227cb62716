"""Check that a plot can be drawn before the work whose result it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.files import check_suffix
from acm_export.base.optional import require

if TYPE_CHECKING:
    from pathlib import Path


def check_plot(path: Path) -> None:
    """Check the path of a plot and that Matplotlib is installed.

    Args:
        path: Path of the plot.

    Raises:
        UsageError: The name does not end in .png or .svg.
        MissingDependencyError: Matplotlib is not installed.
    """
    check_suffix(path, (".png", ".svg"), "--plot")
    require("matplotlib")
