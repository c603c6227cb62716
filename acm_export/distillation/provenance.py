"""How an ACM model was made: a section for its config.json, and MODEL_CARD.md."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.base.json_fields import JsonObject, JsonValue
    from acm_export.distillation.evaluate import Curve
    from acm_export.distillation.plan import AcmizePlan
    from acm_export.distillation.settings import AcmizeSettings

CARD = "MODEL_CARD.md"


@dataclass(frozen=True)
class Provenance:
    """The record in a checkpoint folder of how its model was made.

    Args:
        teacher: Name of the dense model's folder.
        teacher_sha256: SHA-256 of the teacher's weights.
        plan: Sites and sizes of the ACM layers.
        settings: Settings of the run.
        task: Name of the task of phase 3.
        data: Name of the training data.
        samples: Number of training samples.
        data_sha256: SHA-256 of the training data.
        held_out: Name of the held-out data.
        curve: Quality on the held-out data.
        history: Losses during the three phases.
        processes: Number of training processes.
    """

    teacher: str
    teacher_sha256: str
    plan: AcmizePlan
    settings: AcmizeSettings
    task: str
    data: str
    samples: int
    data_sha256: str
    held_out: str
    curve: Curve
    history: list[JsonObject]
    processes: int

    def to_json(self) -> JsonObject:
        """The ``source`` of the ``acm`` section of config.json."""
        return {
            "format": "acmize",
            "teacher": {"name": self.teacher, "sha256": self.teacher_sha256},
            "settings": asdict(self.settings) | {"init": self.settings.origin, "task": self.task},
            "data": {"name": self.data, "samples": self.samples, "sha256": self.data_sha256},
            "processes": self.processes,
            "history": self.history,
            "curve": _finite(asdict(self.curve)),
        }

    def model_card(self, name: str) -> str:
        """Write the model card in Markdown.

        Args:
            name: Name of the checkpoint folder.
        """
        return "\n".join(_card(name, self)) + "\n"


def _finite(value: JsonValue) -> JsonValue:
    """A JSON value with strings instead of infinity and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _card(name: str, source: Provenance) -> Iterator[str]:
    plan, settings, curve = source.plan, source.settings, source.curve
    dense, acm = plan.flops
    yield f"# {name}"
    yield ""
    yield f"`{source.teacher}` with Adaptive Computation Modules (arXiv 2312.10193) at {len(plan.replacements)} sites"
    yield f"(`{settings.sites}`), N = {plan.replacements[0].spec.num_learners} learners each, made by"
    yield "`acm-export acmize`."
    yield ""
    yield "| | dense | with ACM layers, all learners |"
    yield "| --- | --- | --- |"
    yield f"| parameters | {plan.parameters[0]:,} | {plan.parameters[1]:,} |"
    yield f"| FLOPs of {_shapes(plan)} | {dense.total:,} | {acm.total:,} |"
    yield ""
    yield f"## {curve.quality_name} by budget"
    yield ""
    yield f"Measured on {curve.samples} samples of {source.held_out} that were not used for training."
    yield f"The dense model has {curve.dense:.4f}. β is the executed share of the learners' FLOPs."
    yield ""
    yield f"| setting | β | {curve.quality_name} | FLOPs ÷ dense |"
    yield "| --- | --- | --- | --- |"
    for point in (*curve.thresholds, *curve.same_count):
        share = acm.at(point.budget) / dense.total
        yield f"| {point.setting} | {point.budget:.3f} | {point.quality:.4f} | {share:.3f} |"
    yield ""
    yield "Each threshold is shared by all layers; `acm-export calibrate` finds better ones per layer."
    yield ""
    yield "## How it was made"
    yield ""
    yield f"- recipe `{settings.recipe}`" + (f", budget {settings.budget:g}" if settings.budget is not None else "")
    yield f"- learners initialised from: {settings.origin}; steps {', '.join(map(str, settings.steps))}"
    yield f"- batch size {settings.batch}; learning rates {', '.join(f'{rate:g}' for rate in settings.learning_rates)}"
    yield f"- seed {settings.seed}"
    yield f"- data: {source.data}, SHA-256 {source.data_sha256}"


def _shapes(plan: AcmizePlan) -> str:
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in plan.tokens.items())
