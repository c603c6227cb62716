"""``acm-export build-plugin``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import progress, verb, write_json

_FOLDER = click.Path(path_type=Path)


@click.command(name="build-plugin", short_help="Compile the TensorRT plugin on this machine.")
@click.option(
    "--tensorrt-root",
    type=_FOLDER,
    metavar="DIR",
    help="Folder with TensorRT's include/; by default TENSORRT_ROOT, then where NVIDIA's packages install it.",
)
@click.option(
    "--cuda-root",
    type=_FOLDER,
    metavar="DIR",
    help="Folder with CUDA's include/; by default CUDA_HOME, then /usr/local/cuda. No CUDA compiler is needed.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("libacm_gated_learners.so"),
    metavar="LIB",
    show_default=True,
    help="Library to write.",
)
@click.option("--pack", type=_FOLDER, metavar="DIR", help="Kernel pack to embed; by default the package's.")
@verb
def build_plugin(
    tensorrt_root: Path | None, cuda_root: Path | None, output: Path, pack: Path | None, as_json: bool
) -> None:
    """Compile the plugin that runs GatedLearners in TensorRT, for the TensorRT whose headers are found.

    Not needed where a wheel brings the library: see plugin-path. The library contains the compiled GPU kernels and
    needs no other file. Compiling takes a C++17 compiler and CMake, but no GPU. Compiled libraries are cached in
    ~/.cache/acm-export (XDG_CACHE_HOME).

    \b
    Examples:
      acm-export build-plugin
      acm-export build-plugin --tensorrt-root ~/TensorRT-10.13 -o build/libacm_gated_learners.so
    """
    from acm_export.plugins.tensorrt.build import build_plugin as build

    with progress() as shown:
        built = build(output, tensorrt_root=tensorrt_root, cuda_root=cuda_root, pack=pack, progress=shown)
    if as_json:
        write_json(built.to_json())
        return
    origin = "from the cache, nothing was compiled" if built.cached else "compiled"
    click.echo(
        f"{built.library}: for TensorRT {built.headers.version[0]}, {built.size / 1e6:.1f} MB, kernels for "
        f"{', '.join(built.architectures)}; {origin}"
    )
