"""Matplotlib figures of results and images. Each function returns a figure and does not change global state."""
