"""Readers of image files: PNG, JPEG and other formats, and DICOM."""
