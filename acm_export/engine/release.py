"""Releases of TensorRT and TensorRT-RTX: which files they parse, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import EngineError
from acm_export.machine.versions import numbers
from acm_export.plugins.tensorrt.support import supported

if TYPE_CHECKING:
    from types import ModuleType

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"

MODULES = {TENSORRT: ("tensorrt",), TENSORRT_RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings")}
"""Import names of each runtime, in the order in which they are tried."""


@dataclass(frozen=True)
class Release:
    """A release that engines are built with.

    Args:
        version: Major and minor version.
        runtime: ``tensorrt``, or ``tensorrt-rtx``: TensorRT for RTX, which takes no plugins, builds without a GPU, and
            compiles kernels when it loads the engine.
    """

    version: tuple[int, int]
    runtime: str = TENSORRT

    def __str__(self) -> str:
        """Name and version, as in ``TensorRT 10.3``."""
        return f"{self.name} {self.version[0]}.{self.version[1]}"

    @property
    def name(self) -> str:
        """NVIDIA's name of the product."""
        return "TensorRT-RTX" if self.is_rtx else "TensorRT"

    @property
    def is_rtx(self) -> bool:
        """Whether this is TensorRT-RTX."""
        return self.runtime == TENSORRT_RTX

    @property
    def target(self) -> str:
        """The export target that this release parses.

        Raises:
            EngineError: The plugin does not support this release.
        """
        if self.is_rtx:
            return "portable"
        if not supported(self.version):
            raise EngineError(
                f"{self} is not supported; the plugin needs 8.5, 8.6, or 10.3 and later",
                "install a supported TensorRT, for example: pip install 'tensorrt>=10.3'",
            )
        return "tensorrt-8" if self.version < (9, 0) else "tensorrt"


def release_of(tensorrt: ModuleType) -> Release:
    """The release of an imported module."""
    major, minor, *_ = (*numbers(tensorrt.__version__), 0, 0)
    runtime = TENSORRT_RTX if tensorrt.__name__ in MODULES[TENSORRT_RTX] else TENSORRT
    return Release((major, minor), runtime)
