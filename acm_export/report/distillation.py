"""Plan and result of ``acmize`` as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table

from acm_export.distillation.phase import describe_step
from acm_export.surgery.sites import grouped, replaced_activations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.distillation.plan import AcmizePlan
    from acm_export.distillation.result import AcmizeResult


def plan_table(plan: AcmizePlan) -> Table:
    """The plan, one row per site."""
    count = len(plan.replacements)
    table = Table(title=f"{count} site{'s' if count > 1 else ''}", title_justify="left")
    table.add_column("site", overflow="fold")
    for column in ("kind", "D", "N", "h", "min", "learners\n÷ dense", "gate\n÷ dense"):
        table.add_column(column, justify="right")
    for item in plan.replacements:
        spec = item.spec
        sizes = (spec.model_dim, spec.num_learners, spec.hidden_dim, spec.min_learners)
        shares = (item.learners_share, item.gate_share)
        table.add_row(item.site.place, item.site.kind, *map(str, sizes), *(f"{share:.3f}" for share in shares))
    return table


def describe_plan(plan: AcmizePlan) -> Iterator[str]:
    """Lines below the plan's table: parameters, FLOPs, and what else was found."""
    (dense_size, acm_size), (dense, acm) = plan.parameters, plan.flops
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in plan.tokens.items())
    yield f"parameters: {dense_size:,} dense, {acm_size:,} with ACM layers"
    yield f"FLOPs of {shapes}: {dense.total:,} dense, {acm.total:,} with all learners"
    for budget in (0.75, 0.5, 0.25):
        yield f"  at β {budget:g}: {acm.at(budget):,.0f}, {acm.at(budget) / dense.total:.3f} × dense"
    replaced = replaced_activations(item.site for item in plan.replacements)
    if replaced is not None:
        yield f"warning: {replaced}"
    kinds = Counter(site.kind for site in plan.found.sites if site.place not in plan.layers)
    if kinds:
        yield f"found, not selected: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
    yield from (f"left: {line}" for line in grouped(plan.found.left))


def example_data(plan: AcmizePlan) -> str:
    """An example of ``--data`` for the inputs of a planned model."""
    shapes = {name: shape for name, shape in plan.tokens.items() if name != "token_type_ids"}
    if len(shapes) > 1:
        return "data.npz"
    ((name, shape),) = shapes.items()
    if len(shape) == 4:
        return "photos/"
    return {"input_ids": "sentences.txt", "input_values": "speech/", "input_features": "speech/"}.get(name, "data.npz")


def result_table(result: AcmizeResult) -> Table:
    """The quality curve, one row per threshold and per learner count."""
    curve = result.curve
    table = Table(title=f"{result.output.name}, {curve.samples} held-out samples", title_justify="left")
    for column in ("setting", "β", curve.quality_name, "FLOPs ÷ dense"):
        table.add_column(column, justify="right")
    dense, acm = result.plan.flops
    for point in (*curve.thresholds, *curve.same_count):
        share = acm.at(point.budget) / dense.total
        table.add_row(point.setting, f"{point.budget:.3f}", f"{point.quality:.4f}", f"{share:.3f}")
    table.add_section()
    table.add_row("dense", "", f"{curve.dense:.4f}", "1.000")
    return table


def describe_result(result: AcmizeResult) -> Iterator[str]:
    """Lines below the result's table: resumption, speed, memory, and the next command."""
    if result.resumed is not None:
        yield f"resumed at {describe_step(*result.resumed)}"
    speed = "" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f} tokens/s; "
    yield f"{speed}peak memory {result.peak_memory / 2**20:,.0f} MiB"
    yield f"written: {result.output}; next: acm-export export {result.output} -o {result.output.name}.onnx"
