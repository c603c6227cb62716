"""The command line: one file per verb. Verbs import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from acm_export.base.version import __version__
from acm_export.cli.acmize import acmize
from acm_export.cli.build_engine import build_engine
from acm_export.cli.build_plugin import build_plugin
from acm_export.cli.calibrate import calibrate
from acm_export.cli.convert import convert
from acm_export.cli.demo import demo
from acm_export.cli.doctor import doctor
from acm_export.cli.export import export
from acm_export.cli.inspect import inspect
from acm_export.cli.invocation import refuse
from acm_export.cli.latency import latency
from acm_export.cli.plugin_path import plugin_path
from acm_export.cli.quantize import quantize
from acm_export.cli.retarget import retarget
from acm_export.cli.set_budget import set_budget
from acm_export.cli.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

VERBS = (
    acmize,
    convert,
    export,
    verify,
    inspect,
    calibrate,
    set_budget,
    quantize,
    retarget,
    plugin_path,
    build_plugin,
    build_engine,
    latency,
    doctor,
    demo,
)
"""Verbs in the order in which a model passes through them."""


class VerbGroup(click.Group):
    """Lists verbs in the order of the line, and reports usage errors like any other error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, in the order in which they were added."""
        del ctx
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the verb."""
        ctx.meta["acm_export.args"] = list(args)
        with _usage_errors(list(args)):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; the error for an unknown one suggests the closest name."""
        name = args[0]
        if not name.startswith("-") and name not in self.commands and not ctx.resilient_parsing:
            close = get_close_matches(name, self.commands, n=1)
            guess = f"; did you mean {close[0]}?" if close else ""
            raise click.UsageError(f"no such verb: {name}{guess}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Parse the options of the verb and run it."""
        with _usage_errors(ctx.meta["acm_export.args"]):
            return super().invoke(ctx)


@contextmanager
def _usage_errors(args: list[str]) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and later: shows the help
            raise
        refuse(error, args)


@click.group(
    cls=VerbGroup,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="acm-export")
def main() -> None:
    """Take transformers with Adaptive Computation Modules from a trained checkpoint to the device.

    The line: acmize or convert -> export -> verify -> calibrate -> set-budget -> quantize -> retarget -> build-engine
    -> latency.
    Each verb has examples in its --help. Exit codes: 0 done, 1 the work failed or a check did not pass, 2 wrong usage.
    """


for command in VERBS:
    main.add_command(command)
