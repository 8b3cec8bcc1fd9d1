"""The audit of a data set: duplicates, leaks, label conflicts, associations."""
