"""Predictions and the metrics computed from them: scores, intervals, calibration, thresholds, comparisons. No torch."""
