"""Pixels from image files: formats, DICOM, headers."""
