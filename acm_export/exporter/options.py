"""Checks of the options of an export, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import ExportError, UsageError
from acm_export.base.files import check_onnx_suffix
from acm_export.onnx_file.lowering import OPSET as TENSORRT_8_OPSET
from acm_export.onnx_file.targets import TARGETS
from acm_export.op.precision import PRECISIONS

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPSET = 18
"""The oldest opset that PyTorch's exporter writes."""

DEFAULT_OPSET = 20
MAX_OPSET = 22
"""The newest opset whose files need no IR version above 10, the newest that TensorRT 10.3 parses."""


def check_output(path: Path) -> None:
    """Check the name of the exported file.

    Args:
        path: Path of the file to write.

    Raises:
        UsageError: The name does not end in .onnx.
    """
    check_onnx_suffix(path)


def check_options(dtype: str, target: str, opset: int | None) -> int:
    """Check the options of an export against each other.

    Args:
        dtype: Precision of the weights and activations.
        target: Target of the file.
        opset: Version of the default ONNX operator set, or None for the default.

    Returns:
        The opset to trace the module with: the opset of the file, or for tensorrt-8 the default, because
        :func:`acm_export.onnx_file.targets.rewrite_for` lowers the traced graph to opset 17.

    Raises:
        ExportError: The dtype or target is unknown.
        UsageError: The dtype or the opset does not fit the target.
    """
    if dtype not in PRECISIONS:
        raise ExportError(f"dtype is {dtype!r}; it must be one of {', '.join(PRECISIONS)}")
    if target not in TARGETS:
        raise ExportError(f"target is {target!r}; it must be one of {', '.join(TARGETS)}")
    if target == "tensorrt-8":
        if dtype == "bf16":
            raise UsageError(
                "dtype is bf16; for the target tensorrt-8 it must be fp16 or fp32", "TensorRT 8 does not support bf16"
            )
        if opset not in (None, TENSORRT_8_OPSET):
            raise UsageError(f"opset is {opset}; for the target tensorrt-8 it must be {TENSORRT_8_OPSET}")
        return DEFAULT_OPSET
    if opset is None:
        return DEFAULT_OPSET
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UsageError(f"opset is {opset}; it must be in {MIN_OPSET}..{MAX_OPSET}")
    return opset
