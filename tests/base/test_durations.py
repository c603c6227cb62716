"""Durations with and without units."""

from __future__ import annotations

import pytest

from acm_export.base.durations import parse_duration
from acm_export.base.errors import UsageError


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("2", "s", 2), ("2s", "s", 2), ("500ms", "s", 0.5), ("1.5 min", "s", 90), (" 0 ", "s", 0),
        ("4", "ms", 4), ("4.7ms", "ms", 4.7), ("2s", "ms", 2000), ("250us", "ms", 0.25), ("250 µs", "ms", 0.25),
    ],
)  # fmt: skip  # a table
def test_a_duration_has_its_own_unit_or_that_of_the_option(text: str, unit: str, expected: float) -> None:
    assert parse_duration(text, unit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("text", ["", "ms", "fast", "-1s", "nan", "inf", "4m", "4 ms s"])
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not a valid duration") as caught:
        parse_duration(text, "ms")
    assert caught.value.hint == "write it as 4ms"
