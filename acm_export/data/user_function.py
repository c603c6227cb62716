"""Functions that a user names."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acm_export.base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


def import_function(text: str, option: str) -> Callable[..., Any]:
    """Import ``module:function``, the working folder included.

    Args:
        text: What the user gave.
        option: Where; for errors.

    Raises:
        UsageError: It is not of that form, cannot be imported, or cannot be called.
    """
    module, separator, name = text.partition(":")
    if not (separator and module.replace(".", "").isidentifier() and name.isidentifier()):
        raise UsageError(f"{text!r} is not module:function", f"{option} takes for example mine:make")
    if (folder := os.fspath(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # and left there: the function may import more when it runs
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # an import runs the user's own code, which may raise anything
        raise UsageError(f"cannot import {text}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UsageError(f"{text} is {type(function).__name__}, expected a function")
    result: Callable[..., Any] = function
    return result


def failed(what: str, error: Exception, hint: str = "run again with --debug to see where") -> UsageError:
    """What to raise where the code of a user's function raised something."""
    return UsageError(f"{what}: {type(error).__name__}: {error}", hint)
