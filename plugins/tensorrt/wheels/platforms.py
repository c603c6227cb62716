"""What each platform wheel is for."""

from __future__ import annotations

from dataclasses import dataclass

_DISCRETE = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")


@dataclass(frozen=True)
class Platform:
    """A platform wheel.

    Args:
        machine: Processor, as ``platform.machine()`` names it.
        target: Target of the compiler; its version is the oldest glibc that the libraries load with.
        tag: Platform tag of the wheel.
        architectures: GPU architectures that exist on such machines.
    """

    machine: str
    target: str
    tag: str
    architectures: tuple[str, ...]


PLATFORMS = (
    Platform("x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_28_x86_64", _DISCRETE),
    # Orin (87), Thor (110) and Spark (121), Grace with 90, 100 or 103, and discrete GPUs in Arm servers and IGX
    Platform("aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_28_aarch64", (*_DISCRETE, "sm_87", "sm_110", "sm_121")),
)
