"""From a torch model to an ONNX file."""

from acm_export.export.exporter import DTYPES, ExportResult, check_options, export, export_checkpoint

__all__ = ["DTYPES", "ExportResult", "check_options", "export", "export_checkpoint"]
