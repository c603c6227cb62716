"""The exceptions of acm-export: one base class, one subclass per stage from checkpoint to device."""

from __future__ import annotations


class AcmError(Exception):
    """Base class of every error that a user can act on.

    Args:
        message: What is wrong: the value found and the value expected.
        hint: What to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AcmError):
    """The arguments are wrong, contradict each other, or do not fit the input. Exit code 2."""

    exit_code = 2


class MissingDependencyError(AcmError):
    """An optional package is required but not installed."""


class OpError(AcmError, ValueError):
    """Inputs or attributes are not valid for GatedLearners (docs/op.md)."""


class CheckpointError(AcmError):
    """A checkpoint cannot be read, or contradicts itself or the given options."""


class DistillationError(AcmError):
    """A model cannot be converted to an ACM model: training diverged, or the saved state belongs to another run."""


class ExportError(AcmError):
    """A model cannot be exported to the requested ONNX graph."""


class ModelFileError(AcmError):
    """An ONNX file is broken, unsafe, or was not written by acm-export."""


class CalibrationError(AcmError):
    """No thresholds reach the requested budget with this data and these gates."""


class QuantizationError(AcmError):
    """A file cannot be quantised: its activations set no scale on these data, or the int8 operator does not fit."""


class KernelError(AcmError):
    """The GPU kernels do not support this device or problem, or the compiled kernel pack is broken or stale."""


class PluginError(AcmError):
    """The TensorRT plugin cannot be compiled on this machine, or no prebuilt library fits."""


class EngineError(AcmError):
    """A TensorRT engine cannot be built or cannot run on this machine."""


class CudaError(EngineError):
    """The CUDA driver is missing, too old, or returned an error."""


class MachineError(AcmError):
    """This machine lacks something that the requested goal requires."""


class LatencyError(AcmError):
    """Latency cannot be measured, or exceeds an asserted limit."""


class OutputError(AcmError):
    """A result cannot be written; the file that was at the destination is unchanged."""


class AcmWarning(UserWarning):
    """Something the user should know; the work continues."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message."""
    return (str(error).strip().splitlines() or ["no message"])[0]
