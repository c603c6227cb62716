"""The user's cache of plugin libraries: ``~/.cache/acm-export/plugins/DIGEST``, or below XDG_CACHE_HOME."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import OutputError
from acm_export.base.files import staging_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


def cache_folder(digest: str) -> Path:
    """Folder of a library in the cache, whether it is there or not.

    A relative XDG_CACHE_HOME is ignored, as the XDG Base Directory Specification says.

    Args:
        digest: Identifies the library: the hex SHA-256 of its content, or of everything that goes into it.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (root if root.is_absolute() else Path.home() / ".cache") / "acm-export" / "plugins" / digest


@contextmanager
def staging_in_cache(library: Path) -> Iterator[Path]:
    """A temporary folder next to a library of the cache, removed when the block ends.

    Raises:
        OutputError: The cache cannot be written.
    """
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot create the cache folder {library.parent}: {error.strerror}",
            "set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    with staging_folder(library, "XDG_CACHE_HOME") as folder:
        yield folder
