"""One call of a verb: where its messages go, the JSON object it prints, and how it fails."""

from __future__ import annotations

import json
import logging
import platform
import re
import time
import traceback
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import click

from acm_export.base import interrupts
from acm_export.base.errors import AcmError, AcmWarning, first_line
from acm_export.base.optional import BASE, install_command
from acm_export.base.version import __version__
from acm_export.cli.usage import describe_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from acm_export.base.json_fields import JsonObject

LOGGER = logging.getLogger("acm_export")
_KEY = "acm_export.invocation"


@dataclass(frozen=True)
class Failure:
    """Why a verb ends with an exit code other than 0.

    Args:
        kind: Class of the error in snake case, without ``Error``.
        message: What is wrong.
        hint: What to do about it, or None.
        exit_code: 1 if the work failed or a check did not pass, 2 for wrong usage.
    """

    kind: str
    message: str
    hint: str | None = None
    exit_code: int = 1

    def to_json(self) -> JsonObject:
        """The object under ``error``."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint}

    def show(self) -> None:
        """Write it to stderr."""
        click.echo(f"{click.style('error:', fg='red')} {self.message}", err=True)
        if self.hint:
            click.echo(f"{click.style('hint:', fg='cyan')} {self.hint}", err=True)


@dataclass
class Invocation:
    """A running verb.

    Args:
        as_json: Print one JSON object to stdout.
        verbose: Log details to stderr, with the time since the start.
        quiet: Write only errors to stderr.
    """

    as_json: bool = False
    verbose: bool = False
    quiet: bool = False
    content: JsonObject | None = None
    warnings: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.time)

    def run(self, work: Callable[[], object], *, debug: bool) -> None:
        """Do the work, then print the JSON object, then exit with the code of a failure."""
        click.get_current_context().meta[_KEY] = self
        failure = None
        with warnings.catch_warnings():
            self._prepare()
            try:
                work()
                interrupts.check()
            except (click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click handles these
            except SystemExit:
                self.finish(None)
                raise
            except (interrupts.Interrupted, Exception) as error:  # noqa: BLE001  every error ends here
                if debug:
                    traceback.print_exception(error)
                failure = failure_of(error)
        if failure is not None:
            failure.show()
        self.finish(failure)

    def warn(self, text: str) -> None:
        """Record a warning for the JSON object and show it."""
        self.warnings.append(text)
        if not self.quiet:
            click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)

    def finish(self, failure: Failure | None) -> None:
        """Print the JSON object, and exit if there is a failure."""
        LOGGER.debug("finished after %.2f s", time.time() - self.start)
        if self.as_json and (self.content is not None or failure is not None):
            content = self.content or {}
            listed = content.get("warnings")
            shown = listed if isinstance(listed, list) else []
            content["warnings"] = [*shown, *(text for text in dict.fromkeys(self.warnings) if text not in shown)]
            if failure is not None:
                content["error"] = failure.to_json()
            click.echo(json.dumps(content, indent=2, allow_nan=False))
        if failure is not None:
            raise SystemExit(failure.exit_code)

    def _prepare(self) -> None:
        LOGGER.handlers = [_Handler(self)]
        LOGGER.setLevel(logging.DEBUG if self.verbose else logging.WARNING if self.quiet else logging.INFO)
        warnings.showwarning = self._on_warning
        warnings.simplefilter("always", AcmWarning)
        python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
        LOGGER.debug("acm-export %s, Python %s, %s", __version__, python, system)

    def _on_warning(self, message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, AcmWarning):
            self.warn(str(message))


class _Handler(logging.Handler):
    """Writes records to stderr, with ``-v`` after the seconds since the start; warnings go to the JSON object too."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__()
        self._invocation = invocation

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self._invocation.warn(text)
            return
        elapsed = f"[{record.created - self._invocation.start:7.2f} s] " if self._invocation.verbose else ""
        click.echo(f"{elapsed}{text}", err=True)


def current() -> Invocation:
    """The running verb; outside of one, an invocation without options."""
    context = click.get_current_context(silent=True)
    found = context.meta.get(_KEY) if context is not None else None
    return found if isinstance(found, Invocation) else Invocation()


def failure_of(error: BaseException) -> Failure:
    """Convert an exception to the failure that the user sees."""
    if interrupts.received():  # whatever exception the signal turned into on its way
        return Failure("interrupted", "interrupted; existing files are unchanged")
    if isinstance(error, AcmError):
        return Failure(_kind(error), str(error), error.hint, error.exit_code)
    if isinstance(error, click.ClickException):
        return _click_failure(error)
    if isinstance(error, ModuleNotFoundError) and error.name in BASE:
        return Failure("missing_dependency", f"the package {error.name} is not installed", install_command())
    if _is_out_of_memory(error):
        hint = "use fewer samples or a smaller batch, or a machine with more memory"
        return Failure("memory", f"not enough memory: {first_line(error)}", hint)
    return Failure(
        "unexpected",
        f"unexpected {type(error).__name__}: {first_line(error)}",
        "this is a bug in acm-export: run again with --debug and report it",
    )


def _click_failure(error: click.ClickException) -> Failure:
    if not isinstance(error, click.UsageError):
        return Failure("usage", error.format_message(), exit_code=error.exit_code)
    error.ctx = error.ctx or click.get_current_context(silent=True)
    return Failure("usage", *describe_usage(error, ()), exit_code=2)


def refuse(error: click.UsageError, args: list[str]) -> NoReturn:
    """Exit with a usage error, before any verb runs."""
    failure = Failure("usage", *describe_usage(error, args), exit_code=2)
    failure.show()
    options = args[: args.index("--")] if "--" in args else args
    Invocation(as_json="--json" in options).finish(failure)
    raise SystemExit(2)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or PyTorch could not reserve memory."""
    text = str(error)
    in_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text
    return isinstance(error, MemoryError) or in_torch


def _kind(error: AcmError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
