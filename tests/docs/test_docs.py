"""Links in the documents lead to files and headings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acm_export.machine.tensorrt import JETPACKS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")]


def prose(document: Path) -> str:
    """Return the text without fenced code."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_relative_links_point_to_files_and_headings(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(document)):
        path = document.parent / target if target else document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


def test_the_jetpack_table_matches_doctor() -> None:
    table = (ROOT / "docs" / "compatibility.md").read_text().partition("## TensorRT and JetPack")[2]
    rows = re.findall(r"^\| ([\d.]+)([^|(]*)\([^|]*\| ([\d., ]+) \|", table, re.MULTILINE)
    shown = {
        tuple(map(int, version.split("."))): f"{first}{rest}".strip().replace(", ", " and ")
        for first, rest, versions in rows
        for version in versions.split(", ")
    }
    assert shown == JETPACKS
