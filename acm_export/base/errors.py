"""The exceptions of acm-export: one tree, one subclass for each stop of the line."""

from __future__ import annotations


class AcmError(Exception):
    """Something the user can act on.

    Args:
        message: What is wrong, with both the value found and the value expected.
        hint: What to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AcmError):
    """The call itself contradicts what it is applied to."""

    exit_code = 2


class MissingDependencyError(AcmError):
    """An optional package is needed and not installed."""


class OpError(AcmError, ValueError):
    """Inputs or attributes that GatedLearners does not accept (docs/op.md)."""


class CheckpointError(AcmError):
    """A checkpoint cannot be read, or contradicts itself or the flags it is read with."""


class DistillationError(AcmError):
    """A model cannot be turned into an ACM model: training broke down, or its saved state is of another run."""


class ExportError(AcmError):
    """A model cannot be turned into the ONNX graph that was asked for."""


class ModelFileError(AcmError):
    """An ONNX file is broken, unsafe, or not one of ours."""


class CalibrationError(AcmError):
    """Thresholds for a budget cannot be found: the data or the gates do not allow it."""


class KernelError(AcmError):
    """The GPU kernels do not serve this device or problem, or their compiled pack is broken or stale."""


class PluginError(AcmError):
    """The TensorRT plugin cannot be compiled on this machine."""


class EngineError(AcmError):
    """A TensorRT engine cannot be built, or not be used here."""


class CudaError(EngineError):
    """The CUDA driver is missing, too old, or refuses something."""


class MachineError(AcmError):
    """This machine lacks what the goal asked for needs."""


class LatencyError(AcmError):
    """A time cannot be measured, or does not hold what was asserted of it."""


class OutputError(AcmError):
    """A result cannot be written. What stood at the destination before is untouched."""


class AcmWarning(UserWarning):
    """Something a user should know although the work goes on."""


def first_line(error: BaseException) -> str:
    """What another library's error says, without what follows."""
    return (str(error).strip().splitlines() or ["no message"])[0]
