"""A pack for some of its architectures, for machines that cannot have the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from acm_export.base.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Collection

    from acm_export.plugins.kernels.pack import Pack


def subset(pack: Pack, architectures: Collection[str]) -> Pack:
    """The kernels of some architectures, in the same order, as a pack of its own.

    Args:
        pack: The pack to take kernels from.
        architectures: Architectures to keep, as in ``sm_90``.

    Raises:
        KernelError: The pack has no kernels for one of the architectures.
    """
    if missing := sorted(set(architectures) - set(pack.architectures)):
        raise KernelError(
            f"the kernel pack has no kernels for {', '.join(missing)}; it has {', '.join(pack.architectures)}",
            "compile them with: python -m acm_export.plugins.kernels.compile",
        )
    rows, cubins = [], bytearray()
    for kernel in pack.kernels:
        if kernel.arch in architectures:
            rows.append(replace(kernel, offset=len(cubins)))
            cubins += pack.cubin(kernel)
    return replace(pack, kernels=tuple(rows), cubins=bytes(cubins))
