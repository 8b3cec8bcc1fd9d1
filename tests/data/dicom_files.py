"""Builds DICOM files for tests."""

from io import BytesIO
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

SECRET = "Doe^Jane"


def dicom_bytes(pixels: np.ndarray | None, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """Return the bytes of a DICOM file that contains a patient's name.

    Args:
        pixels: The image; None for a file without pixels.
        syntax: Transfer syntax.
        **elements: Elements to set, or to remove if None. ``payload`` holds compressed pixels to encapsulate.
    """
    dataset, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta = meta
    dataset.PatientName, dataset.PatientID = SECRET, "4711"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[-2:] if pixels.shape[-1] != 3 else pixels.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.shape[-1] == 3:
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = pixels.tobytes()
    if (payload := elements.pop("payload", None)) is not None:
        dataset.PixelData = encapsulate([payload])
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
