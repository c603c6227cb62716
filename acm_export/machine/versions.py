"""Version numbers of packages, and the oldest ones that acm-export supports."""

from __future__ import annotations

import re
from functools import cache
from importlib import metadata

PYTHON = (3, 10)
"""Oldest supported Python, the one of JetPack 6."""


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 13, 0) for ``2.13.0+cpu``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def installed(*distributions: str) -> tuple[str, str] | None:
    """Name and version of the first distribution that is installed, from its metadata."""
    return next(((name, version) for name in distributions if (version := _version(name)) is not None), None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def floor(distribution: str) -> str | None:
    """The oldest version that acm-export's metadata requires, extras included; None without a bound."""
    return _floors().get(distribution)


@cache
def _floors() -> dict[str, str]:
    try:
        lines = metadata.requires("acm-export") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return {}
    found = (re.match(r"([\w.-]+)[^;]*>=\s*([\d.]+)", line) for line in lines)  # "numpy<3,>=1.24"
    return {match[1].lower(): match[2] for match in found if match}
