"""The result of ``acmize``."""

from __future__ import annotations

import math
import resource
from dataclasses import asdict, dataclass
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

    def to_json(self) -> JsonObject:
        """The object that ``acmize --json`` prints; thresholds of -inf, where all learners run, and NaN become null."""
        curve = asdict(self.curve)
        curve["dense"] = _number(curve["dense"])
        for point in (*curve["thresholds"], *curve["same_count"]):
            point |= {name: _number(point[name]) for name in ("quality", "threshold")}
        return {
            "output": str(self.output),
            "plan": self.plan.to_json(),
            "curve": curve,
            "history": list(self.history),
            "tokens_per_second": self.tokens_per_second,
            "peak_memory_bytes": self.peak_memory,
            "processes": self.processes,
            "resumed": None if self.resumed is None else list(self.resumed),
        }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process so far in bytes, on the GPU if one is used, otherwise on the host."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
