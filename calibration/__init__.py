"""Calibration: find the gate thresholds of an exported file for each budget."""
