"""Budgets: from settings of the dials to gate thresholds in an exported file."""
