"""SIGINT and SIGTERM as one exception, and a flag that stays set if that exception is lost.

An exception from a signal handler can be lost: Python drops it in a ``__del__``, and the import of an extension module
turns it into an ImportError. The flag remembers the signal: no output is replaced after it, and whatever error the
exception became is reported as an interrupt.
"""

from __future__ import annotations

import signal
import sys


class Interrupted(BaseException):
    """Raised by SIGINT and SIGTERM once :func:`install` was called.

    Not KeyboardInterrupt: after that exception has passed through ``exec`` of a string, as PyTorch runs every graph,
    CPython kills itself with SIGINT at exit even if it was caught (tried: 3.10 to 3.13).
    """


class _Memory:
    asked = False


def install() -> None:
    """Raise :class:`Interrupted` on SIGINT and SIGTERM from now on; a second signal kills the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = sys.unraisablehook

    def quiet(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            report(unraisable)

    sys.unraisablehook = quiet


def asked() -> bool:
    """Whether a signal was received, even if its exception was lost."""
    return _Memory.asked


def check() -> None:
    """Raise :class:`Interrupted` if a signal was received."""
    if _Memory.asked:
        raise Interrupted


def answered() -> None:
    """Clear the flag, for work that keeps its partial result: outputs may be written again."""
    _Memory.asked = False


def _interrupt(number: int, *_: object) -> None:
    _Memory.asked = True
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted
