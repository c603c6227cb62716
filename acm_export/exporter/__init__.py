"""Export a PyTorch model to an ONNX file."""

from acm_export.exporter.exporter import ExportResult, export
from acm_export.surgery.examples import example_inputs

__all__ = ["ExportResult", "example_inputs", "export"]
