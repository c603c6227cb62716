"""What each goal needs: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from acm_export.machine.finding import Finding

_BASE = ("Python", "numpy", "onnx", "click", "rich", "disk, working folder", "disk, temporary files")
_TENSORRT = (
    *_BASE, "TensorRT", "TensorRT builder", "plugin interface", "CUDA driver", "GPU", "kernels for the GPU",
    "plugin library", "plugin registry",
)  # fmt: skip

NEEDS: dict[str, tuple[str, ...]] = {
    "export": (*_BASE, "torch", "transformers", "safetensors", "onnxscript", "ONNX Runtime"),
    "onnxruntime": (*_BASE, "ONNX Runtime"),
    "tensorrt": _TENSORRT,
    "jetson": (*_TENSORRT, "Jetson"),
}
"""Names of the checks that must be ok. Export verifies with ONNX Runtime what it writes."""


def lacking(goal: str, findings: Iterable[Finding]) -> list[Finding]:
    """What stands in the way of a goal.

    Args:
        goal: A key of :data:`NEEDS`.
        findings: Of all checks.
    """
    return [finding for finding in findings if finding.name in NEEDS[goal] and finding.state != "ok"]
