"""``acm-export build-plugin``."""

from __future__ import annotations

from pathlib import Path

import click

from acm_export.cli.common import log, status, verb, write_json


@click.command(name="build-plugin", short_help="Compile the TensorRT plugin on this machine.")
@click.option(
    "--tensorrt-root", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder that has TensorRT's include/; else TENSORRT_ROOT, else where NVIDIA's packages put it.",
)  # fmt: skip
@click.option(
    "--cuda-root", type=click.Path(path_type=Path), metavar="DIR",
    help="Folder that has CUDA's include/; else CUDA_HOME, else /usr/local/cuda. No CUDA compiler is needed.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("libacm_gated_learners.so"), metavar="LIB",
    show_default=True, help="Library to write.",
)  # fmt: skip
@click.option(
    "--pack", type=click.Path(path_type=Path), metavar="DIR", help="Kernel pack to embed; by default the package's."
)
@verb
def build_plugin(
    tensorrt_root: Path | None, cuda_root: Path | None, output: Path, pack: Path | None, as_json: bool
) -> None:
    """Compile the plugin that runs GatedLearners in TensorRT, for the TensorRT whose headers are found.

    The library holds the GPU kernels ready compiled and needs no other file. Needs a C++17 compiler and CMake, no GPU.
    What was compiled before is taken from the cache in ~/.cache/acm-export (XDG_CACHE_HOME).

    \b
    Examples:
      acm-export build-plugin
      acm-export build-plugin --tensorrt-root ~/TensorRT-10.13 -o build/libacm_gated_learners.so
    """
    from acm_export.plugins.tensorrt.build import build_plugin as build

    with status("building the plugin"):
        built = build(
            output, tensorrt_root=tensorrt_root, cuda_root=cuda_root, pack_folder=pack,
            log=log,
        )  # fmt: skip
    if as_json:
        write_json({
            "output": str(built.library), "bytes": built.size, "cached": built.cached,
            "tensorrt": {"version": built.headers.version_text, "headers": str(built.headers.folder),
                         "interface": built.headers.interface},
            "cuda_headers": str(built.cuda), "compiler": built.compiler, "architectures": built.architectures,
        })  # fmt: skip
        return
    how = "from the cache, nothing was compiled" if built.cached else "compiled"
    click.echo(
        f"{built.library}: for TensorRT {built.headers.version[0]}, {built.size / 1e6:.1f} MB, kernels for "
        f"{', '.join(built.architectures)}; {how}"
    )
