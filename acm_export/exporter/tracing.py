"""Trace a PyTorch module into PyTorch's raw ONNX graph."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from acm_export.base.errors import ExportError
from acm_export.exporter.attention import plain_attention
from acm_export.exporter.overflow import AssumeOverflow
from acm_export.exporter.translation import translation_table
from acm_export.onnx_file.targets import IR_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx_ir as ir

    from acm_export.modules.wrapper import Exportable


def trace(
    model: Exportable,
    inputs: dict[str, torch.Tensor],
    output_names: list[str],
    axes: Mapping[str, Mapping[int, str]],
    opset: int,
) -> ir.Model:
    """Trace a model into PyTorch's raw ONNX graph.

    Args:
        model: Model in the precision of the file.
        inputs: Inputs by name, in order.
        output_names: Names of the outputs, in order.
        axes: Names of the dynamic axes of each input.
        opset: Version of the default ONNX operator set.

    Returns:
        The unoptimized graph.

    Raises:
        ExportError: PyTorch cannot export the model.
    """
    dims = {dim: torch.export.Dim(dim) for named in axes.values() for dim in named.values()}
    shapes = tuple({axis: dims[dim] for axis, dim in axes.get(name, {}).items()} or None for name in inputs)
    try:
        with plain_attention(model), AssumeOverflow(), warnings.catch_warnings(), _quiet_exporter():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)  # several inputs share an axis
            program = torch.onnx.export(
                model,
                tuple(inputs.values()),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                dynamic_shapes=(shapes,),
                input_names=list(inputs),
                output_names=output_names,
                custom_translation_table=translation_table(opset),
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        text = str(error.__cause__ or error).strip()
        raise ExportError(f"PyTorch cannot export this module: {text.splitlines()[0]}{_source_line(text)}") from error
    if program is None:
        raise ExportError("PyTorch returned no ONNX program")
    program.model.ir_version = IR_VERSION
    model_ir: ir.Model = program.model
    return model_ir


def _source_line(text: str) -> str:
    """The line of the model that an error of PyTorch names, in words; empty if it names none."""
    _, _, traceback = text.partition("Original traceback:")
    lines = re.findall(r'File "([^"]+)", line (\d+), in .*\n *(\S.*)', traceback)
    if not lines:
        return ""
    file, number, code = lines[-1]
    return f" ({file}:{number}: {code.strip()})"


_NOISY_LOGGERS = ("torch.onnx._internal.exporter._registration", "onnx_ir._convenience")
"""Loggers that warn about missing packages, and about the scalars that the exporter fills masks with."""


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    levels = {logger: logger.level for logger in map(logging.getLogger, _NOISY_LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
