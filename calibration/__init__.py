"""Calibration: from budgets to the gate thresholds of an exported file."""
