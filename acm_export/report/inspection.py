"""Describe an exported file as text and a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.onnx_file.budget_table import Calibration
    from acm_export.onnx_file.inspection import FileSummary
    from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting
    from acm_export.onnx_file.quantization_record import Quantization


def describe(summary: FileSummary) -> Iterator[str]:
    """Lines that describe the whole file."""
    manifest = summary.manifest
    digest = f", weights sha256 {manifest.source.sha256[:12]}..." if manifest.source.sha256 else ""
    part = f", part {manifest.source.part}" if manifest.source.part else ""
    yield f"source    {manifest.source.name}{part}{digest}"
    yield f"written   by {manifest.producer}, {manifest.precision}, opset {manifest.opset}, {summary.num_nodes} nodes"
    yield f"target    {manifest.target}: runs on {summary.runs_on}"
    if manifest.quantization is not None:
        yield f"int8      {_describe_quantization(manifest, manifest.quantization)}"
        if manifest.quantization.kept:
            yield f"float     kept on request: {', '.join(manifest.quantization.kept)}"
    yield f"weights   {_describe_sizes(summary.weight_bytes)}"
    for title, values in (("inputs", summary.inputs), ("outputs", summary.outputs)):
        yield f"{title:<9} " + ", ".join(f"{name} {shape}" for name, shape in values.items())
    for name in summary.data_files:
        yield f"data      {name}"
    if manifest.processor is not None and manifest.processor.files:
        yield f"processor {manifest.processor.folder}: {', '.join(manifest.processor.files)}"
    shape = ", ".join(f"{name} {dims}" for name, dims in manifest.example_inputs.items())
    most, least = (f"{manifest.model_flops(budget) / 1e6:.4g} M" for budget in (1, manifest.least_budget))
    if not manifest.layers:
        yield f"FLOPs     {most} ({shape})"
        yield "layers    0 ACM layers: a dense model, which has no budget"
        return
    fewest = "only those that always run" if manifest.least_budget else "none"
    yield f"FLOPs     {most} with all learners, {least} with {fewest} ({shape})"
    yield f"setting   {describe_setting(manifest.setting)}"
    yield f"budgets   {_describe_table(manifest.calibration)}"
    if manifest.budget_input:
        default = f"default {manifest.setting.budget:.4g}" if manifest.target == "portable" else "no default"
        yield f"input     budget: each call sets its own budget; {default}"


def _describe_sizes(weight_bytes: dict[str, int]) -> str:
    """Sizes by element type, without types of less than 1% of the total."""
    least = sum(weight_bytes.values()) / 100
    return ", ".join(f"{size / 1e6:.3g} MB {name}" for name, size in weight_bytes.items() if size >= least)


def _describe_quantization(manifest: Manifest, quantization: Quantization) -> str:
    layers = sum(layer.activations is not None for layer in manifest.layers)
    parts = [f"{layers} of {len(manifest.layers)} ACM layers", f"{len(quantization.linears)} dense linear layers"]
    parts += [f"{len(quantization.embeddings)} embedding tables"] if quantization.embeddings else []
    scales = f" from {quantization.samples} samples" if quantization.samples else ""
    return f"{', '.join(parts)}; {quantization.weight_bits}-bit weights, {quantization.activations} scales{scales}"


def layer_precision(manifest: Manifest, layer: LayerEntry) -> str:
    """Precision that a layer's learners run in."""
    return manifest.dtype if layer.activations is None else f"int8 {layer.activations}"


def _describe_table(calibration: Calibration | None) -> str:
    if calibration is None:
        return "not calibrated"
    table = calibration.table
    error = max((abs(r.held_out - r.requested) for r in calibration.requests if r.held_out is not None), default=None)
    held = f", off by at most {error:.3f} on held-out data" if error is not None else ""
    return (
        f"{table.smallest:.4g} to {table.largest:.4g} in {len(table.budgets)} knots ({calibration.solver}), from "
        f"{calibration.samples} samples{held}; τ = 0 gives {calibration.trained_budget:.4g}"
    )


def describe_setting(setting: Setting) -> str:
    """A setting in words."""
    if setting.budget is not None:
        threshold = f"budget {setting.budget:.4g}"
    else:
        threshold = "one τ per learner" if setting.threshold is None else f"τ = {setting.threshold:g}"
    bound = f", at most {setting.max_learners} learners" if setting.max_learners is not None else ""
    return threshold + bound + (" (as trained)" if setting.threshold == 0 and not bound else "")


def layer_table(summary: FileSummary) -> Table:
    """One row for each ACM layer."""
    table = Table()
    table.add_column("layer")
    for column in ("D", "N", "h", "min"):
        table.add_column(column, justify="right")
    table.add_column("activation")
    int8 = summary.manifest.quantization is not None
    if int8:
        table.add_column("precision")
    table.add_column("gate ÷ learners", justify="right")
    table.add_column("thresholds")
    for e in summary.manifest.layers:
        share = e.gate_flops / (e.num_learners * e.learner_flops)
        table.add_row(
            e.name,
            *map(str, (e.model_dim, e.num_learners, e.hidden_dim, e.min_learners)),
            f"{e.activation} (GLU)" if e.glu else e.activation,
            *([layer_precision(summary.manifest, e)] if int8 else []),
            f"{share:.1%}",
            " ".join(f"{v:.3g}" for v in summary.thresholds[e.name]),
        )
    return table
