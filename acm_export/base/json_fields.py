"""Validate the fields of a JSON document before anything uses them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

JsonValue: TypeAlias = "str | int | float | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]
"""A JSON object that is written; one that is read is ``dict[str, Any]`` once ``checked`` has seen its fields."""

_MAX_WHOLE = 2**63 - 1
_SHOWN = 60
"""Number of characters of an invalid value that an error shows."""


class BrokenFieldError(Exception):
    """A field is missing, unknown or invalid; the message names the field, its value and the expected value."""


@dataclass(frozen=True)
class Kind:
    """Valid values of a field: a description for errors, and a predicate."""

    words: str
    holds: Callable[[Any], bool]


def checked(content: object, kinds: Mapping[str, Kind], where: str) -> dict[str, Any]:
    """Check that an object has exactly the expected fields with valid values.

    Args:
        content: Value from ``json.loads``.
        kinds: Expected kind of each field, by name.
        where: Prefix that locates the object in the document, for example ``layers[0].``.

    Returns:
        The object.

    Raises:
        BrokenFieldError: The value is not an object, or a field is missing, unknown or invalid.
    """
    if not isinstance(content, dict):
        raise BrokenFieldError(f"{where.rstrip('.')} is {_short(content)}; it must be an object")
    if differing := sorted(content.keys() ^ kinds.keys()):
        state = "missing" if differing[0] in kinds else "not a field of this schema"
        raise BrokenFieldError(f"{where}{differing[0]} is {state}")
    for name, kind in kinds.items():
        if not kind.holds(content[name]):
            raise BrokenFieldError(f"{where}{name} is {_short(content[name])}; it must be {kind.words}")
    return content


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


TEXT = Kind("text", lambda v: isinstance(v, str))
TEXT_OR_NULL = Kind("text or null", lambda v: v is None or isinstance(v, str))
WHOLE = Kind("an integer >= 0", lambda v: type(v) is int and 0 <= v <= _MAX_WHOLE)
WHOLE_OR_NULL = Kind("an integer >= 0, or null", lambda v: v is None or WHOLE.holds(v))
POSITIVE = Kind("an integer >= 1", lambda v: type(v) is int and 1 <= v <= _MAX_WHOLE)
NUMBER = Kind("a number", _is_number)
NUMBER_OR_NULL = Kind("a number or null", lambda v: v is None or _is_number(v))
SHARE = Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
SHARE_OR_NULL = Kind("a number from 0 to 1, or null", lambda v: v is None or SHARE.holds(v))
BOOL = Kind("true or false", lambda v: isinstance(v, bool))
OBJECT = Kind("an object", lambda v: isinstance(v, dict))
OBJECT_OR_NULL = Kind("an object or null", lambda v: v is None or isinstance(v, dict))
LIST = Kind("a list", lambda v: isinstance(v, list))
NUMBERS = Kind("a list of numbers", lambda v: isinstance(v, list) and all(map(_is_number, v)))
ROWS = Kind("a list of lists of numbers", lambda v: isinstance(v, list) and all(map(NUMBERS.holds, v)))
SHAPE = Kind("a list of integers >= 0", lambda v: isinstance(v, list) and all(map(WHOLE.holds, v)))
