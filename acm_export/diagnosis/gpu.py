"""Checks of the CUDA driver, its GPUs, and the kernels for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError
from acm_export.machine.finding import Finding
from acm_export.plugins.kernels.pack import Kernel, Pack
from acm_export.plugins.kernels.tiles import ARCHITECTURES

if TYPE_CHECKING:
    from acm_export.machine.gpu import Cuda, Gpu

_OLDEST_CUDA = (12, 0)
"""The kernels need a driver for CUDA 12 (docs/kernels.md)."""

_DRIVER = "install NVIDIA's driver (JetPack has it; in a container: docker run --gpus all)"
_REBUILD = "python -m acm_export.plugins.kernels.compile && acm-export build-plugin"


def driver(cuda: Cuda) -> Finding:
    """Check the CUDA driver and its CUDA version."""
    name = "CUDA driver"
    if cuda.version is None:
        return Finding(name, "wrong" if cuda.broken else "missing", cuda.reason, _DRIVER)
    text = f"for CUDA {cuda.version[0]}.{cuda.version[1]}"
    if cuda.version < _OLDEST_CUDA:
        return Finding(name, "wrong", f"{text}; the kernels need CUDA 12 or later", _DRIVER)
    return Finding(name, "ok", text)


def gpus(cuda: Cuda) -> Finding:
    """Check the GPUs that are visible to this process (CUDA_VISIBLE_DEVICES applies)."""
    if not cuda.gpus:
        found = "the driver shows no GPU" if cuda.version else "no working CUDA driver"
        return Finding(
            "GPU", "missing", found, "check CUDA_VISIBLE_DEVICES and nvidia-smi" if cuda.version else _DRIVER
        )
    return Finding("GPU", "ok", ", ".join(gpu.text for gpu in cuda.gpus))


def kernels_for_gpus(cuda: Cuda, pack: Pack | None) -> Finding:
    """Check that the pack has kernels for every GPU; without a pack, that a complete pack would have them."""
    name = "kernels for the GPU"
    if not cuda.gpus:
        return Finding(name, "missing", "no GPU", None)
    held = pack or _complete_pack()
    results = [(gpu.name, *_served(gpu, held)) for gpu in cuda.gpus]
    note = "" if pack else " (in a complete pack; none is installed)"
    refused = [f"{product}: {reason}" for product, arch, reason in results if arch is None]
    if refused:
        partial = not set(ARCHITECTURES) <= set(held.architectures)
        return Finding(name, "wrong", "; ".join(refused) + note, _REBUILD if partial else None)
    return Finding(name, "ok", ", ".join(f"{product} uses those for {arch}" for product, arch, _ in results) + note)


def _served(gpu: Gpu, pack: Pack) -> tuple[str | None, str]:
    """The architecture whose kernels a GPU uses, or None and the reason."""
    try:
        return pack.architecture_for(gpu.capability, integrated=gpu.integrated), ""
    except KernelError as error:
        return None, str(error)


def _complete_pack() -> Pack:
    """The architectures of a complete pack, as a pack without code."""
    rows = tuple(Kernel(arch, "", "", -1, False, "", "", 0, 0, 0, (), 0, 0, "") for arch in ARCHITECTURES)
    return Pack(rows, "", "", "", b"")
