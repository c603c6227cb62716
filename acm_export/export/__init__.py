"""From a torch model to an ONNX file."""

from acm_export.export.examples import dynamic_axes, example_inputs
from acm_export.export.exporter import DTYPES, ExportResult, check_options, export, export_checkpoint

__all__ = ["DTYPES", "ExportResult", "check_options", "dynamic_axes", "example_inputs", "export", "export_checkpoint"]
