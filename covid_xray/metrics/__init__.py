"""Predictions and what is computed from them: scores, intervals, calibration, thresholds, comparisons. NumPy only."""
