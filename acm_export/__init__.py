"""Transformers with Adaptive Computation Modules, from a trained checkpoint to the device.

One function per verb of the command line, and what they take, give and raise. Names are imported when they are first
used: ``import acm_export`` imports neither numpy nor torch nor onnx.
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING

from acm_export.base.optional import require as _require
from acm_export.base.version import __version__

for _name in ("calibration", "plugins"):
    if not (_Path(__file__).parent / _name).is_dir():
        raise ImportError(
            f"{_Path(__file__).parent / _name} must be a folder or a symbolic link to ../{_name}; it is not. "
            "Zip archives and Windows checkouts without core.symlinks lose links: git clone -c core.symlinks=true"
        )

if _TYPE_CHECKING:
    from acm_export.base.errors import (
        AcmError,
        AcmWarning,
        CalibrationError,
        CheckpointError,
        CudaError,
        DistillationError,
        EngineError,
        ExportError,
        KernelError,
        LatencyError,
        MachineError,
        MissingDependencyError,
        ModelFileError,
        OpError,
        OutputError,
        PluginError,
        QuantizationError,
        UsageError,
    )
    from acm_export.calibration.calibrate import calibrate
    from acm_export.checkpoints import convert_reference as convert
    from acm_export.checkpoints import load_checkpoint as load
    from acm_export.checkpoints import save_checkpoint as save
    from acm_export.diagnosis.examine import doctor
    from acm_export.distillation.acmize import acmize
    from acm_export.engine.engine import build_engine
    from acm_export.exporter import export
    from acm_export.machine.plugin_path import plugin_path
    from acm_export.modules import ACMLayer, ACMSpec
    from acm_export.onnx_file.inspection import inspect
    from acm_export.onnx_file.retarget import retarget
    from acm_export.onnx_file.set_budget import set_budget
    from acm_export.quantization.quantize import quantize
    from acm_export.surgery import InputSpec, ModelFamily, register_family
    from acm_export.timing.latency import latency
    from acm_export.verification.file import verify
    from acm_export.verification.report import VerificationError

_ERRORS = "acm_export.base.errors"
_WHERE = {
    "acmize": "acm_export.distillation.acmize",
    "convert": "acm_export.checkpoints:convert_reference",
    "export": "acm_export.exporter",
    "verify": "acm_export.verification.file",
    "inspect": "acm_export.onnx_file.inspection",
    "calibrate": "acm_export.calibration.calibrate",
    "set_budget": "acm_export.onnx_file.set_budget",
    "quantize": "acm_export.quantization.quantize",
    "retarget": "acm_export.onnx_file.retarget",
    "plugin_path": "acm_export.machine.plugin_path",
    "build_engine": "acm_export.engine.engine",
    "latency": "acm_export.timing.latency",
    "doctor": "acm_export.diagnosis.examine",
    "load": "acm_export.checkpoints:load_checkpoint",
    "save": "acm_export.checkpoints:save_checkpoint",
    "ACMLayer": "acm_export.modules",
    "ACMSpec": "acm_export.modules",
    "InputSpec": "acm_export.surgery",
    "ModelFamily": "acm_export.surgery",
    "register_family": "acm_export.surgery",
    "AcmError": _ERRORS,
    "AcmWarning": _ERRORS,
    "CalibrationError": _ERRORS,
    "CheckpointError": _ERRORS,
    "CudaError": _ERRORS,
    "DistillationError": _ERRORS,
    "EngineError": _ERRORS,
    "ExportError": _ERRORS,
    "KernelError": _ERRORS,
    "LatencyError": _ERRORS,
    "MachineError": _ERRORS,
    "MissingDependencyError": _ERRORS,
    "ModelFileError": _ERRORS,
    "OpError": _ERRORS,
    "OutputError": _ERRORS,
    "PluginError": _ERRORS,
    "QuantizationError": _ERRORS,
    "UsageError": _ERRORS,
    "VerificationError": "acm_export.verification.report",
}
"""Module of each name; after the colon its name there, where it differs."""

__all__ = [
    "ACMLayer",
    "ACMSpec",
    "AcmError",
    "AcmWarning",
    "CalibrationError",
    "CheckpointError",
    "CudaError",
    "DistillationError",
    "EngineError",
    "ExportError",
    "InputSpec",
    "KernelError",
    "LatencyError",
    "MachineError",
    "MissingDependencyError",
    "ModelFamily",
    "ModelFileError",
    "OpError",
    "OutputError",
    "PluginError",
    "QuantizationError",
    "UsageError",
    "VerificationError",
    "__version__",
    "acmize",
    "build_engine",
    "calibrate",
    "convert",
    "doctor",
    "export",
    "inspect",
    "latency",
    "load",
    "plugin_path",
    "quantize",
    "register_family",
    "retarget",
    "save",
    "set_budget",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used.

    Raises:
        MissingDependencyError: It needs an optional package that is not installed.
    """
    if name not in _WHERE:
        raise AttributeError(f"module 'acm_export' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    value: object = getattr(_require(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
