"""Figures of merit and pictures of a trained run."""
