"""``python -m acm_export.plugins.tensorrt.wheels PURE.whl``: the platform wheels, next to the pure wheel."""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from acm_export.base.errors import AcmError, PluginError
from acm_export.plugins.kernels.compile import write_pack
from acm_export.plugins.kernels.pack import read_pack
from acm_export.plugins.kernels.subset import subset
from acm_export.plugins.tensorrt.headers import cuda_headers
from acm_export.plugins.tensorrt.wheels.cross_compile import cross_compile, write_libraries
from acm_export.plugins.tensorrt.wheels.headers import folders_of_environment, header_sets
from acm_export.plugins.tensorrt.wheels.platforms import PLATFORMS
from acm_export.plugins.tensorrt.wheels.repack import repack


@click.command()
@click.argument("pure", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--cuda-root", type=click.Path(path_type=Path), help="Folder of CUDA's headers.")
@click.option(
    "--platform",
    "machines",
    type=click.Choice([platform.machine for platform in PLATFORMS]),
    multiple=True,
    default=[platform.machine for platform in PLATFORMS],
    help="Build only for this processor; may be repeated.",
)
@click.option("--headers", type=click.Path(path_type=Path), help="Folder that keeps TensorRT headers that are fetched.")
def main(pure: Path, cuda_root: Path | None, machines: tuple[str, ...], headers: Path | None) -> None:
    """Compile the plugin for every TensorRT and processor, and write wheels with it next to PURE.

    TensorRT's headers come from the folders in TENSORRT_ROOT, separated by ':'; missing ones are fetched by git.
    """
    try:
        build_wheels(pure, cuda_root, machines, headers)
    except AcmError as error:
        sys.exit(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))


def build_wheels(pure: Path, cuda_root: Path | None, machines: tuple[str, ...], fetched: Path | None = None) -> None:
    """Build the wheels and print their sizes; ``fetched`` keeps the headers that are fetched."""
    whole, cuda = read_pack(), _cuda(cuda_root)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        headers = header_sets(folders_of_environment(), fetched or work / "headers")
        for platform in (platform for platform in PLATFORMS if platform.machine in machines):
            pack, folder = subset(whole, platform.architectures), work / platform.machine
            (folder / "libraries").mkdir(parents=True)
            write_pack(pack, folder / "pack")
            compiled = {}
            for series, found in headers.items():
                click.echo(f"{platform.machine}: TensorRT {series}, headers {found.version_text}", err=True)
                compiled[series] = cross_compile(platform, found, cuda, folder / "pack", folder / f"build-{series}")
            versions = {series: found.version_text for series, found in headers.items()}
            write_libraries(platform, pack, compiled, folder / "libraries", versions)
            wheel = repack(pure, folder / "pack", folder / "libraries", platform.tag)
            click.echo(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB, kernels for {', '.join(pack.architectures)}")


def _cuda(root: Path | None) -> Path:
    """Folder of the CUDA headers: those of a toolkit, else those in the Triton package."""
    try:
        return cuda_headers(root)
    except PluginError:
        triton = find_spec("triton")
        if root is not None or triton is None or not triton.submodule_search_locations:
            raise
        return cuda_headers(Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "include")


if __name__ == "__main__":
    main()
