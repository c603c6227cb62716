"""The CUDA driver and the GPUs it shows."""

from __future__ import annotations

from dataclasses import dataclass

from acm_export.machine.processes import ProbeError, ask


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


def query_cuda() -> Cuda:
    """Ask the driver, in another process: a driver that does not fit the kernel module can crash or hang."""
    try:
        told = ask("cuda").value
    except ProbeError as error:
        return Cuda(None, reason=str(error), broken=True)
    if "absent" in told:
        return Cuda(None, reason=told["absent"])
    gpus = tuple(Gpu(g["name"], (g["capability"][0], g["capability"][1]), g["integrated"]) for g in told["gpus"])
    return Cuda((told["version"] // 1000, told["version"] % 1000 // 10), gpus)
