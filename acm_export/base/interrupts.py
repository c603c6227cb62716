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

    This is not KeyboardInterrupt: once that has passed through ``exec`` of a string, which is how PyTorch runs a
    graph, CPython kills itself with SIGINT at exit even if it was caught (tried: 3.10 to 3.13).
    """


class _Memory:
    received = False
    held = False


def install() -> None:
    """Make SIGINT and SIGTERM raise :class:`Interrupted`; a second signal kills the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = sys.unraisablehook

    def quiet(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            report(unraisable)

    sys.unraisablehook = quiet


def received() -> bool:
    """Whether a signal was received, even if its exception was lost."""
    return _Memory.received


def check() -> None:
    """Raise :class:`Interrupted` if a signal was received."""
    if _Memory.received:
        raise Interrupted


def clear() -> None:
    """Clear the flag so that outputs may be written again; for work that keeps its partial result."""
    _Memory.received = False


def hold() -> None:
    """Keep a signal from raising until :func:`release`; for steps that must not end halfway."""
    _Memory.held = True


def release() -> None:
    """End :func:`hold`; raises :class:`Interrupted` if a signal was received meanwhile."""
    _Memory.held = False
    check()


def _interrupt(number: int, *_: object) -> None:
    _Memory.received = True
    signal.signal(number, signal.SIG_DFL)
    if not _Memory.held:
        raise Interrupted
