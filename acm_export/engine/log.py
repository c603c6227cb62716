"""TensorRT's messages on stderr, and its errors in exceptions.

TensorRT's own Python logger prints warnings to stdout, where ``--json`` writes the result.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

SHOWN_ERRORS = 10
"""Number of TensorRT's errors that an exception repeats."""

_REPEATED = "already exists, the output tensors of this new instance will not be queryable"
"""The parser says this of every node of a function body from its second call on."""


@cache
def logger(tensorrt: ModuleType) -> Any:
    """A ``tensorrt.ILogger`` that prints warnings and errors to stderr, and keeps errors in its list ``errors``.

    TensorRT keeps the first logger that it gets, so each module has one, which is never freed.
    """
    base: Any = tensorrt.ILogger
    severity = base.Severity
    letters = {severity.INTERNAL_ERROR: "F", severity.ERROR: "E", severity.WARNING: "W"}

    class Log(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)  # pybind11 does not accept super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            letter = letters.get(severity)
            if letter is None or _REPEATED in msg:
                return
            sys.stderr.write(f"[TensorRT] {letter}: {msg}\n")
            if letter != "W":
                self.errors.append(msg.strip())

    return Log()


def reasons(errors: Sequence[str]) -> str:
    """Errors that TensorRT logged, as the end of a sentence."""
    if not errors:
        return "; it gave no reason"
    return ":" + "".join(f"\n  {error}" for error in list(dict.fromkeys(errors))[-SHOWN_ERRORS:])
