"""The report of a verification: errors, routing disagreements and tolerances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmError, UsageError
from acm_export.onnx_file.manifest import precision_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.base.json_fields import JsonObject, JsonValue
    from acm_export.verification.integers import LayerIntegers

OUTPUT_TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Accepted error of an output, relative to the largest value of the reference. On the embedded model the errors are
5e-7, 9e-4 and 5e-3 (``demo`` and ``export --dtype`` print them); deeper models accumulate more."""

MARGIN_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-1, "bf16": 5e-1}
"""Accepted distance between margin and threshold of a token that two runtimes route differently, relative to the
standard deviation of the layer's margins. A larger distance indicates a routing defect, not a rounding error."""

INT8_COSINE = 0.99
"""Smallest accepted cosine similarity of an output with that of the float32 model, mean over samples, of a file with
int8 layers. Rounding to int8 moves single values by several percent, which says little about the output as a whole."""

INT8_MARGIN_TOLERANCE = 1.0
"""As :data:`MARGIN_TOLERANCE`, for files with int8 layers, whose gates see the rounding of all layers before them."""


def check_atol(atol: float | None) -> None:
    """Check an absolute tolerance.

    Raises:
        UsageError: The tolerance is negative or NaN.
    """
    if atol is not None and not atol >= 0:
        raise UsageError(f"--atol is {atol}; it must be a number from 0", "for example: --atol 1e-4")


@dataclass(frozen=True)
class Disagreement:
    """A token that two runtimes routed differently, and the first learner on which they disagree.

    Args:
        margin: Margin of that learner in PyTorch.
        threshold: Threshold of that learner.
        file_count: Number of learners that the file ran.
        model_count: Number of learners that PyTorch's gate would have run.
    """

    margin: float
    threshold: float
    file_count: int
    model_count: int


@dataclass(frozen=True)
class LayerRouting:
    """Routing disagreements in one layer, at one setting.

    Args:
        name: Name of the layer.
        tokens: Number of compared tokens.
        disagreements: Number of tokens whose learner counts differ.
        farthest: Largest distance between margin and threshold among the disagreements; 0 if there are none.
        spread: Standard deviation of the layer's finite margins, the scale for ``farthest``.
        mean_share: Mean of count / N.
        examples: Some disagreements, farthest from their thresholds first.
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
    """Errors at one threshold setting; both sides ran the learners that the file chose.

    Args:
        name: Description of the setting.
        budget: β in the file: executed ÷ all learner FLOPs over tokens that are not padding.
        max_abs: Largest absolute error of any output value.
        mean_abs: Mean absolute error.
        scale: Largest absolute value of the reference.
        layers: Routing disagreements of each layer.
        cosine: Smallest cosine similarity of an output with the reference, mean over samples.
        integers: Violations of the definition in each int8 layer.
    """

    name: str
    budget: float
    max_abs: float
    mean_abs: float
    scale: float
    layers: tuple[LayerRouting, ...]
    cosine: float = 1.0
    integers: tuple[LayerIntegers, ...] = ()

    @property
    def relative(self) -> float:
        """Largest error relative to the largest value."""
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class VerificationReport:
    """The result of a verification.

    Args:
        settings: One result for each threshold setting.
        dtype: Precision of the file.
        atol: Absolute tolerance, if one was given.
        runtime: Runtime that ran the file.
        notes: How the comparison differs from running the file unchanged, for example in another dtype.
        int8: ``static`` or ``dynamic`` activations if the file is quantised, or None.
    """

    settings: tuple[SettingResult, ...]
    dtype: str
    atol: float | None
    runtime: str
    notes: tuple[str, ...] = ()
    int8: str | None = None

    @property
    def precision(self) -> str:
        """Precision of the file in words."""
        return precision_text(self.dtype, self.int8)

    def tolerance(self, setting: SettingResult) -> float | None:
        """Largest accepted absolute error at a setting; None if :data:`INT8_COSINE` decides instead."""
        if self.atol is not None:
            return self.atol
        return None if self.int8 is not None else OUTPUT_TOLERANCE[self.dtype] * setting.scale

    @property
    def failure(self) -> str | None:
        """The first error outside its tolerance, as a sentence, or None."""
        return next((text for setting in self.settings for text in self._failures(setting)), None)

    @property
    def hint(self) -> str | None:
        """What to do about the failure of an int8 file, or None."""
        if self.int8 is None or self.passed:
            return None
        if any(one.failure for setting in self.settings for one in setting.integers):
            return (
                "another tool changed the file, or the int8 kernels of this machine are wrong: on CPUs without VNNI, "
                "products of 8-bit weights saturate; quantize with --weight-bits 7"
            )
        return (
            "quantize the float file again: with more --data, another --migration, or with sensitive layers in float "
            "(--keep PATTERN); --atol sets another tolerance"
        )

    def _failures(self, setting: SettingResult) -> Iterator[str]:
        for one in setting.integers:
            if one.failure is not None:
                yield f"at {setting.name} layer {one.name} {one.failure}"
        tolerance = self.tolerance(setting)
        if tolerance is not None and not setting.max_abs <= tolerance:
            yield f"at {setting.name} an output is off by {setting.max_abs:.3g}, tolerance {tolerance:.3g}"
        if tolerance is None and not setting.cosine >= INT8_COSINE:
            yield (
                f"at {setting.name} an output has the cosine similarity {setting.cosine:.4f} with that of the model; "
                f"expected at least {INT8_COSINE}"
            )
        spread = MARGIN_TOLERANCE[self.dtype] if self.int8 is None else INT8_MARGIN_TOLERANCE
        for layer in setting.layers:
            allowed = spread * layer.spread
            if layer.disagreements and not layer.farthest <= allowed:
                yield (
                    f"at {setting.name} layer {layer.name} routes {layer.disagreements} of {layer.tokens} tokens "
                    f"differently, one with a margin {layer.farthest:.3g} away from its threshold, "
                    f"tolerance {allowed:.3g}"
                )

    @property
    def passed(self) -> bool:
        """Whether every error is within its tolerance."""
        return self.failure is None

    def to_json(self) -> JsonObject:
        """The object that ``verify --json`` prints; values that are not finite become null."""
        return {
            "passed": self.passed,
            "failure": self.failure,
            "runtime": self.runtime,
            "dtype": self.dtype,
            "int8": self.int8,
            "notes": list(self.notes),
            "settings": [
                {
                    "name": s.name,
                    "budget": s.budget,
                    "max_abs_error": _finite(s.max_abs),
                    "mean_abs_error": _finite(s.mean_abs),
                    "relative_error": _finite(s.relative),
                    "tolerance": _finite(self.tolerance(s)),
                    "cosine": _finite(s.cosine),
                    "min_cosine": INT8_COSINE if self.tolerance(s) is None else None,
                    "layers": [
                        _finite_values(layer) | {"examples": [_finite_values(e) for e in layer.examples]}
                        for layer in s.layers
                    ],
                    "integers": [_finite_values(one) | {"failure": one.failure} for one in s.integers],
                }
                for s in self.settings
            ],
        }


def _finite(value: JsonValue) -> JsonValue:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite_values(item: LayerRouting | Disagreement | LayerIntegers) -> JsonObject:
    return {name: _finite(value) for name, value in vars(item).items()}


class VerificationError(AcmError):
    """An ONNX file does not compute what its checkpoint computes.

    Args:
        message: What is wrong.
        hint: What to do next.
        report: Report of the verification, if it completed.
    """

    def __init__(self, message: str, hint: str | None = None, report: VerificationReport | None = None) -> None:
        super().__init__(message, hint)
        self.report = report
