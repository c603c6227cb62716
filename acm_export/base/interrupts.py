"""SIGINT and SIGTERM as one exception, and a memory of it for where exceptions are lost.

An exception that a signal handler raises can end anywhere: in a ``__del__``, where Python drops it; in the import of an
extension module, which turns it into an ImportError. So the signal is remembered, results are not put in place after
it, and whatever error it became is reported as the interrupt that it was.
"""

from __future__ import annotations

import signal
import sys
from typing import Any


class Interrupted(BaseException):
    """Raised by SIGINT and SIGTERM once :func:`install` was called.

    Not KeyboardInterrupt: once that has passed through ``exec`` of a string, as PyTorch makes of every graph, CPython
    dies of SIGINT at exit although it was caught (tried: 3.10 to 3.13).
    """


class _Memory:
    asked = False


def install() -> None:
    """Raise :class:`Interrupted` on SIGINT and SIGTERM from now on; a second signal ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            report(unraisable)

    sys.unraisablehook = quiet


def asked() -> bool:
    """Whether a signal came, even if its exception was lost."""
    return _Memory.asked


def check() -> None:
    """Raise :class:`Interrupted` where a signal came before."""
    if _Memory.asked:
        raise Interrupted


def answered() -> None:
    """Forget the signal, for work that keeps what it has so far: results are put in place again."""
    _Memory.asked = False


def _interrupt(number: int, *_: Any) -> None:
    _Memory.asked = True
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted
