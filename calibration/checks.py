"""What can be wrong with a calibration, and what its reader must know."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from acm_export.base.errors import AcmWarning, CalibrationError
from acm_export.calibration.closed_loop import TOLERANCE
from acm_export.data.batches import HOLD_OUT_EVERY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_export.calibration.evaluator import Summaries
    from acm_export.calibration.table import Comparison
    from acm_export.data.batches import Survey
    from acm_export.onnx_file.manifest import LayerEntry, Manifest
    from acm_export.verification.measurement import Measurement


def check_gates(layers: tuple[LayerEntry, ...], summaries: Summaries) -> None:
    """Warn of layers whose gate says nothing.

    Args:
        layers: Of the manifest.
        summaries: Of the margins.

    Raises:
        CalibrationError: There is no gate that says anything.
    """
    constant = [e.name for e, s in zip(layers, summaries, strict=True) if s and all(m.constant for m in s)]
    if len(constant) == sum(1 for s in summaries if s):
        raise CalibrationError(
            f"the gates of all layers give every token the same logits ({', '.join(constant[:3])}...)",
            "no threshold can tell tokens apart: train the gates, or give data that differ",
        )
    for name in constant:
        warnings.warn(
            f"the gate of {name} gives every token the same logits: all its tokens run the same learners",
            AcmWarning,
            stacklevel=4,
        )


def check_reach(smallest: float, largest: float, requested: list[float]) -> None:
    """Refuse budgets that no thresholds have.

    Args:
        smallest: β with all gates closed.
        largest: β with all gates open.
        requested: Ascending.

    Raises:
        CalibrationError: One lies outside.
    """
    if requested and requested[-1] > largest + TOLERANCE:
        raise CalibrationError(
            f"a budget of {requested[-1]:.4g} cannot be reached: the largest is {largest:.4g}",
            "gates give -inf to some counts of learners, so no threshold lets tokens run them",
        )
    if requested and requested[0] < smallest - TOLERANCE:
        raise CalibrationError(
            f"a budget of {requested[0]:.4g} cannot be reached: the smallest is {smallest:.4g}",
            "learners that always run (min_learners) cost that much",
        )


def check_precision(budget: float, measured: Measurement, precision: float | None) -> None:
    """Refuse data that say too little about a budget.

    Args:
        budget: That was asked for.
        measured: With the thresholds for it.
        precision: Largest two standard errors, or None for any.

    Raises:
        CalibrationError: The data are too few; it says how many are enough.
    """
    if precision is None:
        return
    if measured.standard_error is None:
        raise CalibrationError("one sample says nothing about how far the budget scatters", "give many samples")
    reached = 2 * measured.standard_error
    if reached > precision:
        enough = math.ceil(measured.samples * (reached / precision) ** 2)
        raise CalibrationError(
            f"{measured.samples} samples are too few for a precision of {precision:g} at the budget {budget:g}: two "
            f"standard errors are {reached:.2g}",
            f"about {enough} samples are enough, besides a fifth of all that is held out",
        )


def warn_of_lost_thresholds(manifest: Manifest) -> None:
    """Say so where a file's own thresholds are not those of any setting."""
    if manifest.setting.threshold is None and manifest.setting.budget is None:
        warnings.warn(
            "the thresholds that each learner has in this file give way to τ = 0 in the new one",
            AcmWarning,
            stacklevel=4,
        )


def notes_on(comparisons: list[Comparison], survey: Survey, trained: Measurement) -> Iterator[str]:
    """What a reader must know: where a simpler way is better, and what could not be checked."""
    for comparison in comparisons:
        for name in comparison.lost_to:
            ours, theirs = comparison.knot.measured.divergence, comparison.rivals[name].measured.divergence
            yield f"at β {comparison.budget:.3f} {name} is nearer to all learners: {theirs:.4g} against {ours:.4g}"
    if survey.labelled and trained.accuracy is None:
        yield "the data have labels, but the model has no output logits [samples, classes]: there is no accuracy"
    if not survey.held_out:
        unit = "samples" if survey.unit == 1 else f"batches of {survey.unit}"
        yield f"{survey.samples // survey.unit} {unit} leave none to check the table on; give at least {HOLD_OUT_EVERY}"
