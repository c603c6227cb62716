"""Files that the tests of other tools' changes start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shared_files import shared_folder
from tool_changes import write_originals

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of :func:`write_originals`. Read-only."""
    return shared_folder(tmp_path_factory, "originals", write_originals)
