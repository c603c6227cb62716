"""The choices that the command line repeats, to stay quick, are those of the code."""

from __future__ import annotations

from acm_export.cli.export import _DTYPES, _TARGETS
from acm_export.export import DTYPES
from acm_export.targets import TARGETS


def test_export_offers_every_dtype_and_target() -> None:
    assert tuple(DTYPES) == _DTYPES
    assert tuple(TARGETS) == _TARGETS
