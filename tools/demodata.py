"""The demo's originals: DICOM files that pydicom carries, and a synthetic CT series."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SLICES: Final = 500
PIXELS: Final = 512
SLICE_MM: Final = 0.625
UID_ROOT: Final = "1.2.826.0.1.3680043.8.498."
SEED: Final = 20240229
FIRST_MTIME_NS: Final = 1_600_000_000_123_456_789
"""Copies must keep nanoseconds, so the originals have some."""
SLICE_TIME_NS: Final = 350_000_007


def carried_files(target: Path) -> None:
    """Copy pydicom's own test files; no download, unlike get_testdata_files()."""
    source = Path(DATA_ROOT) / "test_files"
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def ct_series(target: Path, slices: int = SLICES) -> None:
    """Write a CT series: a noisy cylinder with a moving sphere in it."""
    target.mkdir(parents=True)
    for number, pixels in enumerate(_slices(slices), start=1):
        path = target / f"IM{number:04d}.dcm"
        _dataset(number, pixels).save_as(path, enforce_file_format=True)
        mtime_ns = FIRST_MTIME_NS + number * SLICE_TIME_NS
        os.utime(path, ns=(mtime_ns, mtime_ns))


def _slices(count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(SEED)
    y, x = np.mgrid[-1 : 1 : PIXELS * 1j, -1 : 1 : PIXELS * 1j].astype(np.float32)
    body = np.where(x * x + (y * 1.3) ** 2 < 0.8, 40, -1000).astype(np.int16)
    for z in np.linspace(-1, 1, count):
        radius2 = 0.3 - (z * 0.5) ** 2
        sphere = (x - z * 0.3) ** 2 + y * y < radius2
        noise = random.integers(-32, 32, body.shape, dtype=np.int16)
        yield np.where(sphere, 700, body).astype(np.int16) + noise


def _dataset(number: int, pixels: np.ndarray) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{UID_ROOT}3.{number}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID = meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = f"{UID_ROOT}1", f"{UID_ROOT}2"
    image.PatientName, image.PatientID = "Phantom^Cylinder", "DEMO-1"
    image.Modality, image.StudyDate, image.StudyTime = "CT", "20240229", "120000"
    image.InstanceNumber, image.SliceThickness = number, str(SLICE_MM)
    image.ImagePositionPatient = [0, 0, round(number * SLICE_MM, 3)]
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.Rows = image.Columns = PIXELS
    image.PixelSpacing = ["0.7", "0.7"]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleIntercept, image.RescaleSlope = "0", "1"
    image.PixelData = pixels.tobytes()
    return image
