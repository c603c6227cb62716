"""Export a checkpoint, or any module with ACM layers, to an ONNX file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch

from acm_export.base.errors import UsageError
from acm_export.base.files import check_writable, move_folder_into_place, staging_folder
from acm_export.base.version import __version__
from acm_export.data.processor_files import PROCESSOR_FILES
from acm_export.exporter.attention import plain_attention
from acm_export.exporter.graph import clean
from acm_export.exporter.measure import run_one_sample
from acm_export.exporter.options import check_options, check_output
from acm_export.exporter.processor import check_processor_path, processor_path, stage_processor
from acm_export.exporter.source import ExportSource, resolve_source
from acm_export.exporter.tracing import trace
from acm_export.modules import acm_layers
from acm_export.modules.evaluating import evaluating
from acm_export.modules.gated_learners import TORCH_DTYPES
from acm_export.modules.wrapper import Exportable, as_dtype
from acm_export.onnx_file.manifest import Manifest, Setting, write_manifest
from acm_export.onnx_file.staged_file import WEIGHTS, finish
from acm_export.onnx_file.targets import rewrite_for
from acm_export.verification.compare import verify_model
from acm_export.verification.report import VerificationError, VerificationReport, check_atol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from acm_export.base.files import StrPath
    from acm_export.base.json_fields import JsonObject
    from acm_export.checkpoints import Checkpoint
    from acm_export.modules.wrapper import ExampleInputs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    Args:
        path: Path of the ONNX file.
        data_path: Path of its external data, or None.
        manifest: Manifest of the file.
        report: Report of the verification, or None if the file was not verified.
        processor_path: Folder beside the file with the model's tokenizer or processor, or None.
    """

    path: Path
    data_path: Path | None
    manifest: Manifest
    report: VerificationReport | None
    processor_path: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of the file and its external data."""
        return sum(path.stat().st_size for path in (self.path, self.data_path) if path)

    def to_json(self) -> JsonObject:
        """The object that ``export --json`` prints."""
        return {
            "output": str(self.path),
            "data": str(self.data_path) if self.data_path else None,
            "processor": str(self.processor_path) if self.processor_path else None,
            "bytes": self.size,
            "manifest": self.manifest.to_json(),
            "verification": self.report.to_json() if self.report else None,
        }


def export(
    source: nn.Module | Checkpoint | StrPath,
    example_inputs: ExampleInputs | None = None,
    output: StrPath | None = None,
    *,
    dtype: str = "fp32",
    target: str = "portable",
    opset: int | None = None,
    with_counts: bool = False,
    verify: bool = True,
    atol: float | None = None,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None = None,
    output_fields: Sequence[str] | None = None,
    part: str | None = None,
) -> ExportResult:
    """Export a checkpoint, or any module with ACM layers, to one ONNX file.

    Inputs and outputs of the file are float32 for every ``dtype``; gates run in float32. The module is not changed. A
    model without ACM layers is exported unchanged, for example as the baseline of a latency measurement.

    Args:
        source: Checkpoint folder, a checkpoint from :func:`acm_export.checkpoints.load_checkpoint`, or a module, which
            is traced in evaluation mode.
        example_inputs: Inputs to trace a module with: a tensor, a sequence in the order of ``forward``'s parameters, or
            a mapping by their names. A checkpoint needs none.
        output: Path of the file to write, ending in .onnx. The file and its external data appear only once they are
            complete and verified.
        dtype: Precision of weights and activations: fp32, fp16 or bf16.
        target: One of :data:`acm_export.onnx_file.targets.TARGETS`.
        opset: Version of the default ONNX operator set, 18 to 22; default 20, or 17 for tensorrt-8.
        with_counts: Add the learner counts of each layer as int32 outputs ``counts/<layer>``.
        verify: Compare the file with the module before it is moved to ``output``.
        atol: Largest absolute error of an output that verification accepts; by default relative to the outputs.
        dynamic_shapes: Names of the dynamic axes of each input; by default those of the checkpoint's family, or, for a
            module, ``batch`` for axis 0 of each input.
        output_fields: Fields of the model's output to return; by default those of the checkpoint's family, or all
            tensors that a module returns.
        part: Part of a checkpoint, such as ``encoder``: as for :func:`acm_export.checkpoints.load_checkpoint`.

    Returns:
        The file, its manifest and the report of its verification.

    Raises:
        UsageError: The checkpoint does not exist, an argument is missing, or options contradict each other.
        CheckpointError: The checkpoint cannot be read.
        ExportError: The module cannot be traced, an option is unknown, or the target does not support the model.
        VerificationError: The file does not compute what the module computes; nothing was written.
        OutputError: The file cannot be written; an existing file is unchanged.
    """
    if output is None:
        raise UsageError("no output path was given", "for example: output='model.onnx'")
    path = Path(output)
    check_output(path)
    traced_opset = check_options(dtype, target, opset)
    check_atol(atol)
    check_writable(path)
    check_processor_path(path)
    resolved = resolve_source(source, example_inputs, dynamic_shapes, output_fields, part)
    with staging_folder(path) as staging, evaluating(resolved.module), torch.no_grad():
        staged = staging / path.name
        in_float32 = as_dtype(resolved.module, torch.float32)
        original = Exportable(in_float32, list(resolved.inputs), torch.float32, resolved.output_fields).eval()
        manifest, output_names = _describe(original, resolved, dtype, target, traced_opset)
        if resolved.checkpoint is not None:
            manifest = manifest.replaced(processor=stage_processor(resolved.checkpoint, staging, path))
        _log.info("tracing %s with %d ACM layers", type(resolved.module).__name__, len(manifest.layers))
        traced = original.in_dtype(TORCH_DTYPES[dtype])
        graph = trace(traced, resolved.inputs, output_names, resolved.axes, traced_opset)
        clean(graph, [layer.name for layer in manifest.layers])
        if with_counts:
            nodes = {node.name: node for node in graph.graph}
            graph.graph.outputs.extend(nodes[layer.name].outputs[1] for layer in manifest.layers)
        _log.info("writing %s", path.name)
        manifest = _write(graph, manifest, staged)
        del graph
        report = None
        if verify:
            _log.info("verifying against PyTorch")
            report = verify_model(staged, original, resolved.inputs, atol=atol, scratch=staging)
            if not report.passed:
                raise VerificationError(
                    f"the exported file does not compute what the model computes: {report.failure}",
                    "nothing was written; to inspect the file, write it with --no-verify",
                    report,
                )
        processor = _move_processor(manifest, staging, path)
        data_path = finish(staged, path)
    return ExportResult(path, data_path, manifest, report, processor)


def _move_processor(manifest: Manifest, staging: Path, path: Path) -> Path | None:
    """Move the staged processor files to their place beside the file."""
    if manifest.processor is None or manifest.processor.folder is None:
        return None
    target = processor_path(path)
    move_folder_into_place(staging / target.name, target, owned=PROCESSOR_FILES)
    return target


def _describe(
    original: Exportable, source: ExportSource, dtype: str, target: str, opset: int
) -> tuple[Manifest, list[str]]:
    """Run one sample; returns the manifest of the traced graph and the names of its outputs."""
    one_sample = tuple(_first_samples(source.inputs, source.axes))
    with plain_attention(original):  # FlopCounterMode does not count fused attention on CPUs
        probe = run_one_sample(original, one_sample)
    manifest = Manifest(
        source=source.origin,
        dtype=dtype,
        target=target,
        opset=opset,
        layers=probe.layers,
        rest_flops=probe.rest_flops,
        example_inputs={name: list(v.shape) for name, v in zip(source.inputs, one_sample, strict=True)},
        setting=_setting(original),
        producer=f"acm-export {__version__}",
    )
    return manifest, probe.output_names


def _setting(module: nn.Module) -> Setting:
    """The module's thresholds as a setting."""
    thresholds = [layer.thresholds for _, layer in acm_layers(module)]
    values = torch.cat(thresholds).unique().tolist() if thresholds else [0.0]
    return Setting(values[0] if len(values) == 1 else None)


def _first_samples(inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]]) -> Iterator[torch.Tensor]:
    """The first sample of each input whose axis 0 is the batch: dynamic, and not a later axis of another input."""
    further = {dim for named in axes.values() for axis, dim in named.items() if axis != 0}
    for name, value in inputs.items():
        batch = axes.get(name, {}).get(0)
        yield value if batch is None or batch in further else value[:1]


def _write(model: ir.Model, manifest: Manifest, path: Path) -> Manifest:
    """Write the model as ``path`` and its weights beside it as ``WEIGHTS``, one tensor at a time."""
    ir.save(model, path, external_data=WEIGHTS)
    proto = onnx.load(path, load_external_data=False)
    manifest = rewrite_for(proto, manifest, manifest.target)
    write_manifest(proto, manifest)
    onnx.save(proto, path)
    return manifest
