"""A run folder: its files, and what can be done with a trained run."""
