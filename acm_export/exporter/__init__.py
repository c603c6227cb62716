"""From a torch model to an ONNX file."""

from acm_export.exporter.exporter import DTYPES, ExportResult, check_options, export, export_checkpoint
from acm_export.surgery.examples import dynamic_axes, example_inputs

__all__ = ["DTYPES", "ExportResult", "check_options", "dynamic_axes", "example_inputs", "export", "export_checkpoint"]
