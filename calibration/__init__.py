"""Budgets: from settings of the dials to gate thresholds in an exported file."""

from acm_export.calibration.set_budget import set_budget
from acm_export.calibration.thresholds import thresholds_for

__all__ = ["set_budget", "thresholds_for"]
