"""Matplotlib figures of results and images. Each function returns a figure and changes no global state."""
