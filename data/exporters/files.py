"""Image files of an export, written once and never over another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.records.arrow import encode_png

PARTS = {"calib": "val", "test": "test"}  # by split; every other is for training


def part_of(split: str) -> str:
    """train, val or test."""
    return PARTS.get(split, "train")


def put(folder: Path, name: str, image: np.ndarray) -> str:
    """Writes an image of 8 or 16 bits, or a mask as 0 and 255, as PNG; returns its name below the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = encode_png(np.uint8(255) * image if image.dtype == bool else image)
    with path.open("xb") as handle:
        handle.write(data)
    return name
