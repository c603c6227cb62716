"""Where the weights of an ACM model came from, for its config.json."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acm_export.checkpoints import Checkpoint
    from acm_export.data.dataset import Dataset
    from acm_export.distillation.evaluate import Curve
    from acm_export.distillation.settings import AcmizeSettings
    from acm_export.distillation.state import State
    from acm_export.distillation.tasks import AnyTask


def provenance(
    teacher: Checkpoint,
    settings: AcmizeSettings,
    task: AnyTask,
    samples: Dataset,
    data: str,
    curve: Curve,
    state: State,
    processes: int,
) -> dict[str, Any]:
    """What the ``acm`` section of config.json says about where the weights came from.

    Args:
        teacher: The dense model.
        settings: Of the run.
        task: Of phase 3.
        samples: That were trained on.
        data: Their digest.
        curve: Quality on held-out data.
        state: Of the run, at its end.
        processes: That trained.

    Returns:
        Ready for JSON.
    """
    return {
        "format": "acmize",
        "teacher": {"name": teacher.path.name, "sha256": teacher.sha256},
        "settings": asdict(settings) | {"init": settings.origin, "task": task.name},
        "data": {"name": samples.name, "samples": len(samples), "sha256": data},
        "processes": processes,
        "history": state.history,
        "curve": _finite(asdict(curve)),
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: text in their place."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
