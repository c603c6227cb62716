"""Functions that a user names as ``module:function``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


def import_function(text: str, option: str) -> Callable[..., object]:
    """Import ``module:function``; modules of the working folder are found too.

    Args:
        text: What the user gave.
        option: Option that names it, for errors.

    Raises:
        UsageError: The text has another form, or names nothing that can be imported and called.
    """
    module, separator, name = text.partition(":")
    if not (separator and module.replace(".", "").isidentifier() and name.isidentifier()):
        raise UsageError(f"{text!r} is not module:function", f"for the function make of mine.py: {option} mine:make")
    folder = _working_folder()
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)  # stays there, because the function may import more when it runs
    try:
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # an import runs the user's own code, which may raise anything
        raise UsageError(
            f"cannot import {text}: {type(error).__name__}: {error}",
            f"{option} takes a function of a module in the working folder, or of an installed one",
        ) from error
    if not callable(function):
        raise UsageError(f"{text} is {type(function).__name__}; expected a function")
    result: Callable[..., object] = function
    return result


def _working_folder() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return None


def failed(what: str, error: BaseException, hint: str = "run again with --debug to see where") -> UsageError:
    """The error for a user function that raised an exception.

    Args:
        what: What failed.
        error: What was raised.
        hint: What to do about it.
    """
    return UsageError(f"{what}: {type(error).__name__}: {error}", hint)
