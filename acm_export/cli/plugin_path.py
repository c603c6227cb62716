"""``acm-export plugin-path``."""

from __future__ import annotations

import click

from acm_export.cli.common import verb, write_json


@click.command(name="plugin-path", short_help="Print the path of the prebuilt TensorRT plugin.")
@click.option(
    "--tensorrt",
    metavar="VERSION",
    help="TensorRT that will load it: 8.5, 8.6, 10 or 11, or a version such as 10.3; by default the installed one.",
)
@verb
def plugin_path(tensorrt: str | None, as_json: bool) -> None:
    """Print the path of the prebuilt plugin that runs GatedLearners in TensorRT. Nothing is compiled.

    Wheels for Linux on x86_64 and aarch64 have a library for TensorRT 8.5, 8.6, 10.3 and later, and 11. The first call
    puts it together with the kernels in ~/.cache/acm-export (XDG_CACHE_HOME). Libraries that build-plugin compiled are
    not looked for.

    \b
    Examples:
      acm-export plugin-path
      trtexec --onnx=model.onnx --staticPlugins=$(acm-export plugin-path)
      cp $(acm-export plugin-path --tensorrt 8.6) .
    """
    from acm_export.machine.plugin_path import plugin_path as find

    found = find(tensorrt)
    if as_json:
        write_json(found.to_json())
        return
    click.echo(found.library)
