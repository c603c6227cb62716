"""The CUDA driver, its GPUs, and which kernels of the pack they run."""

from __future__ import annotations

from dataclasses import dataclass

from acm_export.doctor.finding import Finding
from acm_export.doctor.processes import ProbeError, ask
from acm_export.errors import KernelError
from acm_export.plugins.kernels.pack import Kernel, Pack
from acm_export.plugins.kernels.tiles import ARCHITECTURES

_OLDEST_CUDA = (12, 0)
"""Kernels are assembled for drivers of CUDA 12 (docs/kernels.md)."""

_DRIVER = "install NVIDIA's driver (JetPack has it; in a container: docker run --gpus all)"
_WHOLE = "python -m acm_export.plugins.kernels.compile && acm-export build-plugin"


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it.

    Args:
        name: Of the product.
        capability: Compute capability, major and minor.
        integrated: Whether it shares its memory with the CPU (Tegra).
    """

    name: str
    capability: tuple[int, int]
    integrated: bool

    @property
    def text(self) -> str:
        """One line about it."""
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]}{', integrated' if self.integrated else ''})"


@dataclass(frozen=True)
class Cuda:
    """The CUDA driver.

    Args:
        version: CUDA that it is for, major and minor; None where there is no driver or it does not work.
        gpus: That it shows.
        reason: Why there is no version.
        broken: Whether there is a driver that does not work.
    """

    version: tuple[int, int] | None
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    broken: bool = False


def look() -> Cuda:
    """Ask the driver, in another process: a driver that does not fit the kernel module can crash or hang."""
    try:
        told = ask("cuda").value
    except ProbeError as error:
        return Cuda(None, reason=str(error), broken=True)
    if "absent" in told:
        return Cuda(None, reason=told["absent"])
    gpus = tuple(Gpu(g["name"], (g["capability"][0], g["capability"][1]), g["integrated"]) for g in told["gpus"])
    return Cuda((told["version"] // 1000, told["version"] % 1000 // 10), gpus)


def driver(cuda: Cuda) -> Finding:
    """The CUDA driver and the CUDA that it is for."""
    name = "CUDA driver"
    if cuda.version is None:
        return Finding(name, "wrong" if cuda.broken else "missing", cuda.reason, _DRIVER)
    text = f"for CUDA {cuda.version[0]}.{cuda.version[1]}"
    if cuda.version < _OLDEST_CUDA:
        return Finding(name, "wrong", f"{text}; the kernels are assembled for CUDA 12 or later", _DRIVER)
    return Finding(name, "ok", text)


def gpus(cuda: Cuda) -> Finding:
    """The GPUs that this process would see (CUDA_VISIBLE_DEVICES counts)."""
    if not cuda.gpus:
        found = "the driver shows none" if cuda.version else "no CUDA driver that works"
        return Finding(
            "GPU", "missing", found, "check CUDA_VISIBLE_DEVICES and nvidia-smi" if cuda.version else _DRIVER
        )
    return Finding("GPU", "ok", ", ".join(gpu.text for gpu in cuda.gpus))


def kernels_for_gpus(cuda: Cuda, pack: Pack | None) -> Finding:
    """Whether the pack has kernels for every GPU; without a pack, whether a whole pack would have them."""
    name = "kernels for the GPU"
    if not cuda.gpus:
        return Finding(name, "missing", "no GPU to look for", None)
    held = pack or _whole_pack()
    results = [(gpu.name, *_served(gpu, held)) for gpu in cuda.gpus]
    note = "" if pack else " (of a whole pack; there is none here)"
    refused = [f"{product}: {reason}" for product, arch, reason in results if arch is None]
    if refused:
        partial = not set(ARCHITECTURES) <= set(held.architectures)
        return Finding(name, "wrong", "; ".join(refused) + note, _WHOLE if partial else None)
    return Finding(name, "ok", ", ".join(f"{product} runs those of {arch}" for product, arch, _ in results) + note)


def _served(gpu: Gpu, pack: Pack) -> tuple[str | None, str]:
    """The architecture whose kernels a GPU runs, or None and the reason."""
    try:
        return pack.architecture_for(gpu.capability, integrated=gpu.integrated), ""
    except KernelError as error:
        return None, str(error)


def _whole_pack() -> Pack:
    """A pack in name only: its architectures, to hold GPUs against."""
    rows = tuple(Kernel(arch, "", "", -1, False, "", "", 0, 0, 0, (), 0, 0, "") for arch in ARCHITECTURES)
    return Pack(rows, "", "", "", b"")
