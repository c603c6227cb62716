"""MODEL_CARD.md: what a distilled model is, and what each budget costs in quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.distillation.evaluate import Curve, Point
    from acm_export.distillation.plan import AcmizePlan
    from acm_export.distillation.settings import AcmizeSettings


def model_card(
    name: str,
    teacher: str,
    plan: AcmizePlan,
    settings: AcmizeSettings,
    curve: Curve,
    data: str,
    held_out: str,
    digest: str,
) -> str:
    """Markdown.

    Args:
        name: Of the output folder.
        teacher: Name of the dense model's folder.
        plan: What was replaced.
        settings: Of the run.
        curve: Measured on held-out data.
        data: Name of the training data.
        held_out: Name of the held-out data.
        digest: Of both.
    """
    return "\n".join(_lines(name, teacher, plan, settings, curve, data, held_out, digest)) + "\n"


def _lines(
    name: str,
    teacher: str,
    plan: AcmizePlan,
    settings: AcmizeSettings,
    curve: Curve,
    data: str,
    held_out: str,
    digest: str,
) -> Iterator[str]:
    dense, acm = plan.flops
    first = plan.replacements[0].spec
    yield f"# {name}"
    yield ""
    yield f"`{teacher}` with Adaptive Computation Modules (arXiv 2312.10193) at {len(plan.replacements)} places"
    yield f"(`{settings.sites}`), N = {first.num_learners} learners each, made by `acm-export acmize`."
    yield ""
    yield "| | dense | with ACM layers, all learners |"
    yield "| --- | --- | --- |"
    yield f"| parameters | {plan.parameters[0]:,} | {plan.parameters[1]:,} |"
    yield f"| FLOPs of {_shapes(plan)} | {dense.total:,} | {acm.total:,} |"
    yield ""
    yield f"## {curve.quality_name} against budget"
    yield ""
    yield f"On {curve.samples} samples of {held_out}, none trained on. The dense model has {curve.dense:.4f}."
    yield "β is the executed share of the learners' FLOPs."
    yield ""
    yield f"| setting | β | {curve.quality_name} | FLOPs ÷ dense |"
    yield "| --- | --- | --- | --- |"
    for point in curve.thresholds:
        yield _row(f"threshold {point.threshold:.3g}", point, acm.at(point.budget) / dense.total)
    for point in curve.same_count:
        yield _row(f"every token {point.count} learners", point, acm.at(point.budget) / dense.total)
    yield ""
    yield "Thresholds are one number for all layers; `acm-export calibrate` finds better ones."
    yield ""
    yield "## How it was made"
    yield ""
    yield f"- recipe `{settings.recipe}`" + (f", budget {settings.budget:g}" if settings.budget is not None else "")
    yield f"- learners from: {settings.origin}; steps {', '.join(map(str, settings.steps))}; batch {settings.batch}"
    yield f"- learning rates {', '.join(f'{rate:g}' for rate in settings.learning_rates)}; seed {settings.seed}"
    yield f"- data: {data}, SHA-256 {digest}"


def _row(title: str, point: Point, flops: float) -> str:
    return f"| {title} | {point.budget:.3f} | {point.quality:.4f} | {flops:.3f} |"


def _shapes(plan: AcmizePlan) -> str:
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in plan.tokens.items())
