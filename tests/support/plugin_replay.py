"""Run the launches that the plugin's core made on the fake driver, with Triton's interpreter, on real memory.

For the process that interprets (kernel_processes.py).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plugin_core import Launch

_MODULES = {
    "route_one_block": "routing",
    "count_tokens": "routing",
    "place_tokens": "routing",
    "quantize_rows": "quantize_rows",
    "up_int8": "up_int8",
    "down_int8": "down_int8",
    "down_split_int8": "down_int8",
}
_INT8 = ("q", "w1_t", "v1_t", "h_zero", "hidden", "w2_t")
_INT32 = ("counts", "order", "reach", "histograms", "arrivals", "partial")
_UNWRITTEN = 0xFF


def replay(launches: Sequence[Launch], inputs: dict[str, bytes], sizes: dict[str, int], dtype: str) -> dict[str, bytes]:
    """Memory of each tensor after the launches, as bytes.

    Args:
        launches: Kernels of the int8 operator and of routing, with the places of their arguments.
        inputs: Memory of each input.
        sizes: Bytes of ``y``, ``counts`` and ``workspace``, which are filled with 0xFF before.
        dtype: T.
    """
    from acm_export.plugins.kernels.variants import variants

    constants = {variant.key: variant.constants for variant in variants(launches[0].kernel.arch)}
    memory = {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in inputs.items()}
    memory |= {name: torch.full((size,), _UNWRITTEN, dtype=torch.uint8) for name, size in sizes.items()}

    def argument(name: str, value: Any) -> Any:
        if isinstance(value, int):
            return value
        tensor, offset = value
        kind = "int8" if name in _INT8 else "int32" if name in _INT32 else dtype if name in ("x", "y") else "float32"
        part = memory[tensor][offset:]
        kept = part.numel() // getattr(torch, kind).itemsize * getattr(torch, kind).itemsize
        return part[:kept].view(getattr(torch, kind))

    for launch in launches:
        kernel = launch.kernel
        given = dict(constants[kernel.kernel, kernel.dtype, kernel.entry, kernel.even, kernel.activation])
        if "ACTIVATION_PRECISION" in given:
            given["ACTIVATION_PRECISION"] = 1  # the interpreter has no instructions of the hardware
        name = kernel.kernel.removesuffix("_glu")
        function = getattr(import_module(f"acm_export.plugins.kernels.{_MODULES[name]}"), name)
        arguments = {name: argument(name, value) for name, value in launch.arguments.items()}
        with np.errstate(over="ignore", invalid="ignore"):
            function[launch.grid](**arguments, **given)
    return {name: bytes(tensor.numpy().tobytes()) for name, tensor in memory.items()}
