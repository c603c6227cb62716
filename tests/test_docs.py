"""Documents: links lead somewhere, and the commands they show exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acm_export.cli import main

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_relative_links_exist(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_shown_verbs_exist(document: Path) -> None:
    for verb in re.findall(r"^(?:\$ )?acm-export ([a-z][a-z-]+)", document.read_text(), re.MULTILINE):
        assert verb in main.commands
