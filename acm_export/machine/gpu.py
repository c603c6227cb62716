"""The CUDA driver and its GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from acm_export.machine.processes import ProbeError, probe


@dataclass(frozen=True)
class Gpu:
    """A GPU, as the CUDA driver describes it.

    Args:
        name: Product name.
        capability: Compute capability, major and minor.
        integrated: Whether it shares its memory with the CPU (Tegra).
    """

    name: str
    capability: tuple[int, int]
    integrated: bool

    @property
    def text(self) -> str:
        """One line for people."""
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]}{', integrated' if self.integrated else ''})"


@dataclass(frozen=True)
class Cuda:
    """The CUDA driver.

    Args:
        version: CUDA version of the driver, major and minor; None without a working driver.
        gpus: GPUs that the driver shows.
        reason: Why the version is None.
        broken: Whether a driver is installed but does not work.
    """

    version: tuple[int, int] | None
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    broken: bool = False


def query_cuda() -> Cuda:
    """Query the driver in another process: one that does not match its kernel module can crash or hang."""
    try:
        output = probe("cuda").value
    except ProbeError as error:
        return Cuda(None, reason=str(error), broken=True)
    if "absent" in output:
        return Cuda(None, reason=output["absent"])
    gpus = tuple(Gpu(g["name"], (g["capability"][0], g["capability"][1]), g["integrated"]) for g in output["gpus"])
    return Cuda((output["version"] // 1000, output["version"] % 1000 // 10), gpus)
