"""Checks of a calibration, and notes on its result."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, CalibrationError
from acm_export.calibration.closed_loop import TOLERANCE
from acm_export.data.dataset import HOLD_OUT_EVERY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.calibration.data import Survey
    from acm_export.calibration.evaluator import Summaries
    from acm_export.calibration.knots import Comparison
    from acm_export.onnx_file.manifest import LayerEntry, Manifest
    from acm_export.verification.measurement import Measurement


def check_gates(layers: tuple[LayerEntry, ...], summaries: Summaries) -> None:
    """Warn about gates that give every token the same logits.

    Args:
        layers: Layers of the manifest.
        summaries: Margins of the layers.

    Raises:
        CalibrationError: All gates give every token the same logits.
    """
    constant = [e.name for e, s in zip(layers, summaries, strict=True) if s and all(m.constant for m in s)]
    if len(constant) == sum(1 for s in summaries if s):
        raise CalibrationError(
            f"the gates of all layers give every token the same logits ({', '.join(constant[:3])}...)",
            "no threshold can separate tokens: train the gates, or give samples that differ",
        )
    for name in constant:
        warnings.warn(
            f"the gate of {name} gives every token the same logits: all its tokens run the same learners",
            AcmWarning,
            stacklevel=4,
        )


def check_reach(smallest: float, largest: float, requested: list[float]) -> None:
    """Refuse budgets that no thresholds reach.

    Args:
        smallest: β with all gates closed.
        largest: β with all gates open.
        requested: Requested budgets, ascending.

    Raises:
        CalibrationError: A budget is out of reach.
    """
    if requested and requested[-1] > largest + TOLERANCE:
        raise CalibrationError(
            f"a budget of {requested[-1]:.4g} cannot be reached: the largest is {largest:.4g}",
            "gates give -inf to some learner counts, which no threshold can select",
        )
    if requested and requested[0] < smallest - TOLERANCE:
        raise CalibrationError(
            f"a budget of {requested[0]:.4g} cannot be reached: the smallest is {smallest:.4g}",
            "learners that always run (min_learners) cost that much",
        )


def check_precision(budget: float, measured: Measurement, precision: float | None) -> None:
    """Refuse data that measure a budget too imprecisely.

    Args:
        budget: Requested budget.
        measured: Measurement with the thresholds for it.
        precision: Largest accepted value of two standard errors, or None for any.

    Raises:
        CalibrationError: There are too few samples; the hint says how many are enough.
    """
    if precision is None:
        return
    if measured.standard_error is None:
        raise CalibrationError("one sample gives no standard error for the budget", "give more samples")
    reached = 2 * measured.standard_error
    if reached > precision:
        enough = math.ceil(measured.samples * (reached / precision) ** 2)
        raise CalibrationError(
            f"{measured.samples} samples are too few for a precision of {precision:g} at the budget {budget:g}: two "
            f"standard errors are {reached:.2g}",
            f"about {enough} samples are enough, in addition to the fifth of all samples that is held out",
        )


def warn_of_lost_thresholds(manifest: Manifest) -> None:
    """Warn if a file has a separate threshold for each learner, which no setting describes."""
    if manifest.setting.threshold is None and manifest.setting.budget is None:
        warnings.warn(
            "this file has a separate threshold for each learner; the new file has τ = 0 instead",
            AcmWarning,
            stacklevel=4,
        )


def notes_on(comparisons: list[Comparison], survey: Survey, trained: Measurement) -> Iterator[str]:
    """Notes on the result: where a simpler solver is better, and what could not be checked."""
    for comparison in comparisons:
        for name in comparison.lost_to:
            ours, theirs = comparison.knot.measured.divergence, comparison.rivals[name].measured.divergence
            yield f"at β {comparison.budget:.3f} {name} has a smaller divergence: {theirs:.4g} against {ours:.4g}"
    if survey.labelled and trained.accuracy is None:
        yield "no accuracy: it needs one class per sample as labels, and an output logits [samples, classes]"
    if not survey.held_out:
        unit = "samples" if survey.unit == 1 else f"batches of {survey.unit}"
        given = f"{survey.samples // survey.unit} {unit}"
        yield f"the table was not checked on held-out data: {given} given, at least {HOLD_OUT_EVERY} needed"
