"""The result of ``acmize``."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    from acm_export.base.json_fields import JsonObject
    from acm_export.distillation.evaluate import Curve
    from acm_export.distillation.plan import AcmizePlan


@dataclass(frozen=True)
class AcmizeResult:
    """Result of ``acmize``.

    Args:
        output: Checkpoint folder.
        plan: Sites and sizes of the ACM layers.
        curve: Quality against budget on held-out data.
        history: Losses during the three phases.
        tokens_per_second: Tokens through ACM layers per second, in this process, since the run was started or resumed;
            None if no step was left.
        peak_memory: Peak memory of this process in bytes.
        resumed: Phase and step at which the run resumed, or None.
        processes: Number of training processes.
        is_main_process: Whether this process wrote the output.
    """

    output: Path
    plan: AcmizePlan
    curve: Curve
    history: tuple[JsonObject, ...]
    tokens_per_second: float | None
    peak_memory: int
    resumed: tuple[int, int] | None
    processes: int = 1
    is_main_process: bool = True


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far in bytes, on the GPU if one is used, otherwise on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
