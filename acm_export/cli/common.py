"""What all verbs share: errors without tracebacks, ``--json``, progress on stderr."""

from __future__ import annotations

import functools
import json
import logging
import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from acm_export.base import interrupts
from acm_export.base.errors import AcmError, AcmWarning, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress as Bars
    from rich.table import Table


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb ``--json`` and ``--debug``, and turn exceptions into ``error:`` and ``hint:`` with an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Write the result to stdout as JSON, all else to stderr.")
    @click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
    @functools.wraps(function)
    def run(*args: Any, debug: bool, **kwargs: Any) -> None:
        _prepare()
        try:
            function(*args, **kwargs)
            interrupts.check()
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click knows what to do
        except (interrupts.Interrupted, Exception) as error:  # the last line of defence: no traceback without --debug
            if debug:
                raise
            _explain(error)

    return run


def _explain(error: BaseException) -> NoReturn:
    if interrupts.asked():  # whatever became of it on its way
        _fail("interrupted; what stood at the output before is untouched", None, 1)
    if isinstance(error, AcmError):
        _fail(str(error), error.hint, error.exit_code)
    _fail(f"unexpected {type(error).__name__}: {first_line(error)}", "run again with --debug and report it", 1)


def _prepare() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("acm_export")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    warnings.simplefilter("always", AcmWarning)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, AcmWarning):
        click.echo(f"{click.style('warning:', fg='yellow')} {message}", err=True)


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {hint}", err=True)
    raise SystemExit(code)


def need_export_packages() -> None:
    """Import what reads checkpoints, or say how to install it; silence its progress bars."""
    from acm_export.base.optional import EXPORT, require

    require(*EXPORT)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def progress() -> Iterator[_Bars]:
    """A progress line on stderr: what is being done, batches per second, and the time left where it is known."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bars(bars)


class _Bars:
    def __init__(self, bars: Bars) -> None:
        self._bars, self._task = bars, bars.add_task("", total=None, rate="")

    def stage(self, title: str, batches: int | None) -> None:
        self._bars.remove_task(self._task)  # its reset() would keep a total that is not known any more
        self._task = self._bars.add_task(title, total=batches, rate="")
        if not self._bars.console.is_terminal:
            logging.getLogger("acm_export").info("%s", title)

    def batch(self, note: str = "") -> None:
        self._bars.advance(self._task)
        speed = self._bars.tasks[0].speed
        rate = f"{speed:.1f} batches/s" if speed else ""
        self._bars.update(self._task, rate=f"{note} {rate}".strip())


def numbers(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[float]:
    """Callback of an option that takes numbers, separated by commas."""
    return [_number(item) for item in (value or "").split(",") if item.strip()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no number, as in 0.25,0.4,0.6") from error


def write_json(content: Any) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def write_table(table: Table, *notes: str) -> None:
    """Write a table to stdout, and what a reader must know below it."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
