"""What a verification found, and whether that is good enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from acm_export.base.errors import AcmError, UsageError

OUTPUT_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest error of an output, relative to its largest value in the reference. On the embedded model the errors are
5e-7, 9e-4 and 5e-3 (the demonstration and ``export --dtype`` print them); deeper models add up more, hence the room."""

MARGIN_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-1, "bf16": 5e-1}
"""How far from its threshold a margin may lie where two runtimes route a token differently, relative to the spread of
the layer's margins. Further away it is a defect of routing, not of rounding."""


def check_atol(atol: float | None) -> None:
    """Hold an absolute tolerance against what one can be.

    Raises:
        UsageError: It is negative or no number.
    """
    if atol is not None and not atol >= 0:
        raise UsageError(f"atol is {atol}; it must be a number from 0")


@dataclass(frozen=True)
class Disagreement:
    """A token that two runtimes routed differently, at the first learner that they decided differently.

    Args:
        margin: Of that learner, as PyTorch computed it.
        threshold: That the margin is held against.
        file_count: Learners that the file ran.
        model_count: Learners that PyTorch's gate would have run.
    """

    margin: float
    threshold: float
    file_count: int
    model_count: int


@dataclass(frozen=True)
class LayerRouting:
    """Where two runtimes routed tokens of one layer differently, at one setting.

    Args:
        name: Of the layer.
        tokens: Tokens compared.
        disagreements: Tokens with another learner count.
        farthest: Largest distance between margin and threshold among them (0 where there are none).
        spread: Standard deviation of the layer's finite margins, which ``farthest`` is held against.
        mean_share: Mean of count / N.
        examples: The disagreements farthest from their thresholds, farthest first; not all where they are many.
    """

    name: str
    tokens: int
    disagreements: int
    farthest: float
    spread: float
    mean_share: float
    examples: tuple[Disagreement, ...] = ()


@dataclass(frozen=True)
class SettingResult:
    """Errors at one setting of the thresholds; both sides ran the same learners, those that the file chose.

    Args:
        name: The setting, readable.
        budget: β, executed ÷ all learner FLOPs over tokens that are no padding, as the file ran.
        max_abs: Largest absolute error of any output value.
        mean_abs: Mean absolute error.
        scale: Largest absolute value of the reference.
        layers: Routing, by layer.
    """

    name: str
    budget: float
    max_abs: float
    mean_abs: float
    scale: float
    layers: tuple[LayerRouting, ...]

    @property
    def relative(self) -> float:
        """Largest error relative to the largest value."""
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class VerificationReport:
    """The outcome of a verification.

    Args:
        settings: One result for each setting of the thresholds.
        dtype: Of the file.
        atol: Absolute tolerance where the user gave one.
        runtime: What ran the file.
        notes: What a reader must know, such as a stand-in for a dtype that the runtime lacks.
    """

    settings: tuple[SettingResult, ...]
    dtype: str
    atol: float | None
    runtime: str
    notes: tuple[str, ...] = ()

    def tolerance(self, setting: SettingResult) -> float:
        """Largest absolute error that is accepted at a setting."""
        return self.atol if self.atol is not None else OUTPUT_TOLERANCE[self.dtype] * setting.scale

    @property
    def failure(self) -> str | None:
        """What does not hold, in one sentence with both values; None where everything holds."""
        for setting in self.settings:
            tolerance = self.tolerance(setting)
            if not setting.max_abs <= tolerance:
                return f"at {setting.name} an output is off by {setting.max_abs:.3g}, tolerance {tolerance:.3g}"
            for layer in setting.layers:
                allowed = MARGIN_TOLERANCE[self.dtype] * layer.spread
                if layer.disagreements and not layer.farthest <= allowed:
                    return (
                        f"at {setting.name} layer {layer.name} routes {layer.disagreements} of {layer.tokens} tokens "
                        f"differently, one with a margin {layer.farthest:.3g} away from its threshold, "
                        f"tolerance {allowed:.3g}"
                    )
        return None

    @property
    def passed(self) -> bool:
        """Whether every error lies within its tolerance."""
        return self.failure is None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``; values that are not finite become null."""
        return {
            "passed": self.passed,
            "failure": self.failure,
            "runtime": self.runtime,
            "dtype": self.dtype,
            "notes": list(self.notes),
            "settings": [
                {
                    "name": s.name,
                    "budget": s.budget,
                    "max_abs_error": _finite(s.max_abs),
                    "mean_abs_error": _finite(s.mean_abs),
                    "relative_error": _finite(s.relative),
                    "tolerance": _finite(self.tolerance(s)),
                    "layers": [
                        _finite_values(layer) | {"examples": [_finite_values(e) for e in layer.examples]}
                        for layer in s.layers
                    ],
                }
                for s in self.settings
            ],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite_values(item: LayerRouting | Disagreement) -> dict[str, Any]:
    return {name: _finite(value) for name, value in vars(item).items()}


class VerificationError(AcmError):
    """An ONNX file does not compute what its checkpoint computes.

    Args:
        message: What is wrong.
        hint: What to do about it.
        report: What the verification found, where it came to its end.
    """

    def __init__(self, message: str, hint: str | None = None, report: VerificationReport | None = None) -> None:
        super().__init__(message, hint)
        self.report = report
