"""What all verbs share: ``--json``, ``-v``, ``-q``, ``--debug``, errors without tracebacks, progress on stderr."""

from __future__ import annotations

import functools
import json
import sys
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from acm_export.base.progress import Silent
from acm_export.cli.invocation import LOGGER, Invocation, current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress as RichProgress
    from rich.table import Table

    from acm_export.base.json_fields import JsonObject
    from acm_export.base.progress import Progress

DATA = "an .npz or text file, a folder of images, sounds or a dataset, or MODULE:FUNCTION"
"""What ``--data`` takes, for the help of every verb that has it."""

PART = "Part of the model: whole, encoder, decoder, vision or text. [default: whole; encoder of Whisper]"
"""What ``--part`` names, for the help of every verb that has it."""

PROCESSOR = "Folder of the tokenizer or processor. [default: that of the model]"
"""The help of ``--processor``, for every verb that has it."""


def verb(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb its common options, and turn exceptions into ``error:`` and ``hint:`` with an exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print the result to stdout as one JSON object.")
    @click.option("-v", "--verbose", is_flag=True, help="Log details: files, devices, seconds.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress and no warnings on stderr, only errors.")
    @click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
    @functools.wraps(function)
    def run(*args: Any, verbose: bool, quiet: bool, debug: bool, **kwargs: Any) -> None:  # Any: the verb's own options
        invocation = Invocation(kwargs["as_json"], verbose=verbose and not quiet, quiet=quiet)
        invocation.run(lambda: function(*args, **kwargs), debug=debug)

    return run


def need_export_packages() -> None:
    """Import the packages that read checkpoints, or say how to install them; silence their progress bars."""
    from acm_export.base.optional import EXPORT, require

    require(*EXPORT)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def log(text: str) -> None:
    """Log a step to stderr; ``-q`` silences it."""
    LOGGER.info("%s", text)


def warn(text: str) -> None:
    """Warn the user, on stderr and in the JSON object."""
    current().warn(text)


def status(text: str) -> AbstractContextManager[Callable[[str], None]]:
    """Show a spinner on stderr; yields a function that changes its text."""
    return nullcontext(lambda _: None) if current().quiet else _spinner(text)


@contextmanager
def _spinner(text: str) -> Iterator[Callable[[str], None]]:
    from rich.console import Console

    with Console(stderr=True).status(text) as shown:
        yield shown.update


@contextmanager
def progress() -> Iterator[Progress]:
    """Show a progress line on stderr: the stage, batches per second, and the time left if it is known.

    If stderr is not a terminal, each stage is logged once.
    """
    if current().quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        stages = _Stages()
        yield stages
        stages.finish_stage()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), rate, TimeRemainingColumn())
        bars = RichProgress(*columns, console=Console(stderr=True), transient=True)
        with bars:
            line = _ProgressLine(bars)
            yield line
            line.finish_stage()


class _Stages:
    """Logs each stage, and with ``-v`` how long it took."""

    shown = True
    _title, _start = "", 0.0

    def stage(self, title: str, batches: int | None) -> None:
        del batches
        self.finish_stage()
        self._title, self._start = title, time.perf_counter()
        if self.shown:
            LOGGER.info("%s", title)

    def batch(self, note: str = "") -> None:
        pass

    def finish_stage(self) -> None:
        if self._title:
            LOGGER.debug("%s: took %.2f s", self._title, time.perf_counter() - self._start)
        self._title = ""


class _ProgressLine(_Stages):
    """Draws the stage and its batches as a progress bar."""

    shown = False

    def __init__(self, bars: RichProgress) -> None:
        self._bars, self._task = bars, bars.add_task("", total=None, rate="")

    def stage(self, title: str, batches: int | None) -> None:
        super().stage(title, batches)
        self._bars.remove_task(self._task)  # reset() would keep a total that is no longer known
        self._task = self._bars.add_task(title, total=batches, rate="")

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
        raise click.BadParameter(f"{text!r} is not a number; give numbers such as 0.25,0.4,0.6") from error


def write_json(content: JsonObject) -> None:
    """Make ``content`` the JSON object of this verb, which is printed with ``warnings`` and ``error`` when it ends."""
    json.dumps(content, allow_nan=False)  # fails here, where the traceback shows the verb
    current().content = content


def write_table(table: Table, *notes: str) -> None:
    """Write a table to stdout, and notes below it."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
