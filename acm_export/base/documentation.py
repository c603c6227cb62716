"""Where the documentation is: the wheel contains it, as the folder ``docs`` of the package."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "docs"


def page(name: str) -> str:
    """Path of a page, for hints; relative to the repository if the package is installed without its documentation.

    Args:
        name: Name of the file, such as ``families.md``.
    """
    return str(_FOLDER / name) if (_FOLDER / name).is_file() else f"docs/{name}"
