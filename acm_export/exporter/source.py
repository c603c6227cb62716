"""The source of an export: a module, the inputs to trace it with, and its origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from acm_export.base.errors import UsageError
from acm_export.checkpoints import Checkpoint, load_checkpoint
from acm_export.modules import ACMLayer
from acm_export.modules.wrapper import ExampleInputs, SingleLayer, name_inputs
from acm_export.onnx_file.manifest import Source
from acm_export.surgery.examples import example_inputs as random_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from acm_export.base.files import StrPath

Axes = dict[str, dict[int, str]]
"""Names of the dynamic axes of each input."""


@dataclass(frozen=True)
class ExportSource:
    """A module and everything that tracing it needs.

    Args:
        module: Module to export.
        inputs: Example inputs, by name.
        axes: Names of the dynamic axes of each input.
        output_fields: Fields of the module's output to return, or None for all its tensors.
        origin: Origin of the weights, for the manifest.
        checkpoint: The checkpoint of the module, or None for a module without one.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    axes: Axes
    output_fields: Sequence[str] | None
    origin: Source
    checkpoint: Checkpoint | None = None


def resolve_source(
    source: nn.Module | Checkpoint | StrPath,
    example_inputs: ExampleInputs | None,
    dynamic_shapes: Mapping[str, Mapping[int, str]] | None,
    output_fields: Sequence[str] | None,
    part: str | None = None,
) -> ExportSource:
    """Fill in missing arguments from the family of a checkpoint, or with the defaults for a module.

    Args:
        source: Module, checkpoint or checkpoint folder.
        example_inputs: Inputs to trace with; required for a module.
        dynamic_shapes: Names of the dynamic axes of each input, or None.
        output_fields: Fields of the output to return, or None.
        part: Part of a checkpoint folder to load, or None.

    Returns:
        The module with its inputs, axes and output fields.

    Raises:
        UsageError: A module has no example inputs, the folder does not exist, or ``part`` does not fit ``source``.
        CheckpointError: The checkpoint cannot be read.
        ExportError: The inputs do not fit the module.
    """
    if part is not None and isinstance(source, (nn.Module, Checkpoint)):
        raise UsageError(
            f"part {part!r} was given with a {type(source).__name__}; it names a part of a checkpoint folder",
            "load that part: acm_export.load(folder, part=...)",
        )
    checkpoint = None
    if isinstance(source, nn.Module):
        if example_inputs is None:
            raise UsageError(
                f"exporting a {type(source).__name__} needs example inputs",
                "give a tensor, a sequence of tensors or a mapping by the names of forward's parameters",
            )
        module: nn.Module = SingleLayer(source) if isinstance(source, ACMLayer) else source
        origin = Source(type(source).__name__)
    else:
        checkpoint = source if isinstance(source, Checkpoint) else load_checkpoint(Path(source), part)
        interface = checkpoint.interface
        module = checkpoint.model
        origin = Source(checkpoint.name or checkpoint.path.name, checkpoint.sha256, checkpoint.part)
        if example_inputs is None:
            example_inputs = random_inputs(interface)
        if dynamic_shapes is None:
            dynamic_shapes = interface.dynamic_axes()
        if output_fields is None:
            output_fields = interface.outputs
    named = name_inputs(module, example_inputs)
    inputs = {name: value.float() if value.is_floating_point() else value for name, value in named.items()}
    if dynamic_shapes is None:
        axes = {name: {0: "batch"} for name in inputs}
    else:
        axes = {name: dict(named) for name, named in dynamic_shapes.items()}
    return ExportSource(module, inputs, axes, output_fields, origin, checkpoint)
