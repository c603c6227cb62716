"""The command line. Verbs import what they need when they run, so that ``--help`` is quick."""

from __future__ import annotations

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
from acm_export.cli.latency import latency
from acm_export.cli.set_budget import set_budget
from acm_export.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="acm-export")
def main() -> None:
    """Take transformers with Adaptive Computation Modules from a trained checkpoint to the device.

    The line: acmize or convert -> export -> verify -> calibrate -> set-budget -> build-engine -> latency. Each verb
    explains itself with --help.
    """


for command in (
    acmize, build_engine, build_plugin, calibrate, convert, demo, doctor, export, inspect, latency, set_budget,
    verify,
):  # fmt: skip
    main.add_command(command)
