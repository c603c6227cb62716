"""Durations as users write them: 4ms, 2s, 1.5 min, or a number in the unit that an option names."""

from __future__ import annotations

import math
import re

from acm_export.base.errors import UsageError

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
_DURATION = re.compile(rf"(.*?)\s*({'|'.join(_SECONDS)})?")


def parse_duration(text: str, unit: str) -> float:
    """Read a duration.

    Args:
        text: Number, with or without a unit: us, ms, s or min.
        unit: Unit of the result, and of a number without a unit.

    Returns:
        The duration in ``unit``, at least 0.

    Raises:
        UsageError: The text is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or not 0 <= number < math.inf:
        examples = "4ms" if unit == "ms" else "2s or 500ms"
        raise UsageError(f"{text!r} is not a valid duration", f"write it as {examples}")
    return number * (_SECONDS[match[2] or unit] / _SECONDS[unit])
