"""Export a module with ACM layers to an ONNX file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from acm_export.base.errors import ExportError, UsageError
from acm_export.base.files import move_into_place, sha256_of, staging_folder
from acm_export.base.version import __version__
from acm_export.exporter.attention import plain_attention
from acm_export.exporter.graph import clean
from acm_export.exporter.measure import run_one_sample
from acm_export.exporter.tracing import trace
from acm_export.modules import ACMLayer, acm_layers
from acm_export.modules.evaluating import evaluating
from acm_export.modules.wrapper import PREFIX, ExampleInputs, Exportable, SingleLayer, as_dtype, name_inputs
from acm_export.onnx_file.embedding import write_embedded
from acm_export.onnx_file.lowering import OPSET as TENSORRT_8_OPSET
from acm_export.onnx_file.manifest import LayerEntry, Manifest, Setting, Source, write_manifest
from acm_export.onnx_file.model_file import EXTERNAL_ABOVE, external_tensors
from acm_export.onnx_file.targets import TARGETS, retarget
from acm_export.surgery.examples import dynamic_axes, example_inputs
from acm_export.verification.compare import verify_model
from acm_export.verification.report import VerificationError, check_atol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from acm_export.checkpoints import Checkpoint
    from acm_export.verification.report import VerificationReport

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MIN_OPSET = 18
"""The oldest that PyTorch's exporter writes."""

DEFAULT_OPSET = 20
MAX_OPSET = 22
"""The newest operator set of IR version 10, which function overloads need and TensorRT 10.3 still parses."""

_WEIGHTS = "weights"
"""Name of the external data while a file is staged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Args:
        path: The ONNX file.
        data_path: Its external data, or None.
        manifest: What the file says about itself.
        report: What its verification found, or None where it was not asked for.
    """

    path: Path
    data_path: Path | None
    manifest: Manifest
    report: VerificationReport | None


def export_checkpoint(checkpoint: Checkpoint, path: Path, **options: Any) -> ExportResult:
    """Export a checkpoint folder's model; inputs, outputs and dynamic batch come from its family.

    Args:
        checkpoint: As :func:`acm_export.checkpoints.load_checkpoint` gives it.
        path: The ONNX file to write.
        options: Keyword arguments of :func:`export`.

    Returns:
        What was written.
    """
    model = checkpoint.model
    if next(acm_layers(model), None) is None:
        _log.info(
            "%s has 0 ACM layers; to make it adaptive: acm-export acmize %s --data D -o DIR",
            checkpoint.path.name,
            checkpoint.path,
        )
    return export(
        model, example_inputs(model, checkpoint.family), path,
        output_fields=checkpoint.family.outputs[type(model).__name__],
        dynamic_shapes=dynamic_axes(model, checkpoint.family),
        source=Source(checkpoint.path.name, checkpoint.sha256),
        **options,
    )  # fmt: skip


def export(
    module: nn.Module,
    example_inputs: ExampleInputs,
    path: Path,
    *,
    dtype: str = "fp32",
    target: str = "portable",
    opset: int | None = None,
    with_counts: bool = False,
    verify: bool = True,
    atol: float | None = None,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    output_fields: Sequence[str] | None = None,
    source: Source | None = None,
) -> ExportResult:
    """Export any module that holds ACM layers, or none, to one ONNX file.

    The file takes and gives float32 whatever ``dtype`` is; gates run in float32 inside. The module is not changed.

    Args:
        module: Traced in evaluation mode.
        example_inputs: A tensor, a sequence in the order of ``forward``'s parameters, or a mapping by their names.
        path: Is replaced, with its external data if any, once the new file is complete and has passed verification.
        dtype: Of the weights and activations: fp32, fp16 or bf16.
        target: One of :data:`acm_export.onnx_file.targets.TARGETS`.
        opset: Version of the default ONNX operator set, 18 to 22, by default 20; for tensorrt-8 it is 17.
        with_counts: Adds the learner counts of each layer as int32 outputs ``counts/<layer>``.
        verify: Compare the file with the module before it is put in place.
        atol: Largest absolute error of an output that verification accepts; by default relative to the outputs.
        dynamic_shapes: For each input the names of its dynamic axes; by default axis 0 of each is ``batch``.
        output_fields: Fields of the module's output to return; by default all its tensors.
        source: Recorded in the manifest.

    Returns:
        What was written.

    Raises:
        ExportError: The module cannot be traced, or holds what the target cannot express; or an option is unknown.
        UsageError: The dtype or the opset does not fit the target, or ``atol`` is no tolerance.
        VerificationError: The file does not compute what the module computes; nothing was written.
        OutputError: The file cannot be written; what was at ``path`` is untouched.
    """
    traced_opset = check_options(dtype, target, opset)
    check_atol(atol)
    if isinstance(module, ACMLayer):
        module = SingleLayer(module)
    inputs = name_inputs(module, example_inputs)
    with staging_folder(path) as staging, evaluating(module), torch.no_grad():
        original = Exportable(as_dtype(module, torch.float32), list(inputs), torch.float32, output_fields).eval()
        axes = {name: {0: "batch"} for name in inputs} if dynamic_shapes is None else dynamic_shapes
        one_sample = tuple(_first_samples(inputs, axes))
        with plain_attention(original):  # whose products the counter sees; it does not know fused attention on CPUs
            probe = run_one_sample(original, one_sample)
        manifest = Manifest(
            source=source or Source(type(module).__name__), dtype=dtype, target=target, opset=traced_opset,
            layers=tuple(_without_prefix(e) for e in probe.layers), rest_flops=probe.rest_flops,
            example_inputs={name: list(v.shape) for name, v in zip(inputs, one_sample, strict=True)},
            setting=_setting(module), producer=f"acm-export {__version__}",
        )  # fmt: skip
        _log.info("tracing %s with %d ACM layers", type(module).__name__, len(manifest.layers))
        graph = trace(original.in_dtype(DTYPES[dtype]), inputs, probe.output_names, axes, traced_opset)
        clean(graph, [layer.name for layer in manifest.layers])
        if with_counts:
            graph.graph.outputs.extend(_counts(graph, manifest))
        _log.info("writing %s", path.name)
        manifest = _write(graph, manifest, staging / path.name)
        del graph
        report = None
        if verify:
            _log.info("verifying against PyTorch")
            report = verify_model(staging / path.name, original, inputs, atol=atol, scratch=staging)
            if not report.passed:
                raise VerificationError(
                    f"the exported file does not compute what the model computes: {report.failure}",
                    "nothing was written; --no-verify writes the file all the same, to look into it",
                    report,
                )
        data_path = _finish(staging / path.name, path)
    return ExportResult(path, data_path, manifest, report)


def check_options(dtype: str, target: str, opset: int | None) -> int:
    """Hold the options of an export against each other.

    Returns:
        The opset to trace the module in: that of the file, but for tensorrt-8, which :func:`retarget` makes of it.

    Raises:
        ExportError: A dtype or target is unknown.
        UsageError: The dtype or the opset does not fit the target.
    """
    if dtype not in DTYPES:
        raise ExportError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    if target not in TARGETS:
        raise ExportError(f"target is {target!r}; it must be one of {', '.join(TARGETS)}")
    if target == "tensorrt-8":
        if dtype == "bf16":
            raise UsageError(
                "dtype is bf16; for the target tensorrt-8 it must be fp16 or fp32", "TensorRT 8 has no bf16"
            )
        if opset not in (None, TENSORRT_8_OPSET):
            raise UsageError(f"opset is {opset}; for the target tensorrt-8 it must be {TENSORRT_8_OPSET}")
        return DEFAULT_OPSET
    if opset is None:
        return DEFAULT_OPSET
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UsageError(f"opset is {opset}; it must lie in {MIN_OPSET}..{MAX_OPSET}")
    return opset


def _setting(module: nn.Module) -> Setting:
    """The thresholds of the module as a setting of the dial."""
    thresholds = [layer.thresholds for _, layer in acm_layers(module)]
    values = torch.cat(thresholds).unique().tolist() if thresholds else [0.0]
    return Setting(values[0] if len(values) == 1 else None)


def _first_samples(inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]]) -> Iterator[torch.Tensor]:
    """Inputs cut to one sample where axis 0 is the batch: a dynamic axis that is no further axis of another input."""
    further = {dim for named in axes.values() for axis, dim in named.items() if axis != 0}
    for name, value in inputs.items():
        batch = axes.get(name, {}).get(0)
        yield value if batch is None or batch in further else value[:1]


def _without_prefix(entry: LayerEntry) -> LayerEntry:
    return LayerEntry(**(vars(entry) | {"name": entry.name.removeprefix(PREFIX)}))


def _counts(model: ir.Model, manifest: Manifest) -> list[ir.Value]:
    nodes = {node.name: node for node in model.graph}
    return [nodes[layer.name].outputs[1] for layer in manifest.layers]


def _write(model: ir.Model, manifest: Manifest, path: Path) -> Manifest:
    """Write the model with its weights beside it, as ``path`` and ``_WEIGHTS``; streams one tensor after the other."""
    ir.save(model, path, external_data=_WEIGHTS)
    proto = onnx.load(path, load_external_data=False)
    manifest = retarget(proto, manifest, manifest.target)
    write_manifest(proto, manifest)
    onnx.save(proto, path)
    return manifest


def _finish(path: Path, target: Path) -> Path | None:
    """Bring a staged model into its final form and put it in place; returns its external data, if it keeps any."""
    proto = onnx.load(path, load_external_data=False)
    weights = path.with_name(_WEIGHTS)
    if not weights.exists() or weights.stat().st_size <= EXTERNAL_ABOVE:
        complete = path.with_suffix(".complete")
        write_embedded(proto, path.parent, complete)
        move_into_place(complete, target)
        return None
    data = target.with_name(f"{target.stem}.{sha256_of(weights)[:12]}.data")
    for tensor in external_tensors(proto):
        next(entry for entry in tensor.external_data if entry.key == "location").value = data.name
    onnx.save(proto, path)
    move_into_place(weights, data)
    move_into_place(path, target)
    return data
