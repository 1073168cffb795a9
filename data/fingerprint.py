"""What tells copies of a record apart from its likes, without its label: hashes and small standardised vectors.

Fingerprints of the test are written by `prepare` and read by `audit`, so that nobody else needs the test itself.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError
from data.files import read_table
from data.records import Records

SIDE = 32  # of an image's thumbnail, pixels
BLUR = 2.0  # std of the blur whose result is taken off it, pixels: what is left is detail, not lighting
LOW = 8  # frequencies a side in the perceptual hash
STEPS = 32  # most steps of a window's vector
MOST = 4096  # most numbers in it
FILE = "test.parquet"


def fingerprint(records: Records) -> pd.DataFrame:
    """One row a record: id, split, group, synthetic, sha256 and, by modality,

    image   phash (uint64), vector (SIDE * SIDE float32 of unit length; zeros for a flat image)
    series  recording, start, end (steps), vector (channels in turn, each of zero mean and unit spread, all of unit
            length; zeros where nothing moves)
    row     nothing more: sha256 is of the typed cells
    """
    meta = records.meta
    out = pd.DataFrame({name: list(meta[name]) for name in ("id", "split", "group", "synthetic")})
    out["sha256"] = digests(records)
    if records.modality == "image":
        marks = [picture(x) for x in records.x]
        out["phash"] = np.array([hash_ for hash_, _ in marks], np.uint64)
        out["vector"] = [vector for _, vector in marks]
    if records.modality == "series":
        out["recording"] = [name.rsplit("-", 1)[0] for name in meta["id"]]  # ids of windows end in their first step
        out["start"] = meta["start"].to_numpy()
        out["end"] = out["start"] + [len(x) for x in records.x]
        out["vector"] = [window(x) for x in records.x]
    return out


def digests(records: Records) -> list[str]:
    """The sha256 of every record's content: pixels, steps by channels, or cells; equal for equal values alone."""
    if records.modality == "row":
        cells = np.column_stack([cell_hashes(records.x[name]) for name in records.x]) if len(records) else []
        return [hashlib.sha256(row.tobytes()).hexdigest() for row in cells]
    return [hashlib.sha256(f"{x.shape} {x.dtype}".encode() + np.ascontiguousarray(x).tobytes()).hexdigest()
            for x in records.x]  # fmt: skip


def cell_hashes(cells: pd.Series) -> np.ndarray:
    """(N,) uint64 of a typed column: equal values, and missing ones, have equal hashes."""
    if pd.api.types.is_float_dtype(cells):
        cells = cells.to_numpy(np.float64, na_value=np.nan)
        return pd.util.hash_array(np.where(np.isnan(cells), np.nan, cells))  # one kind of nan; zeros are alike to it
    missing = cells.isna().to_numpy()
    text = cells.astype("string").fillna("").to_numpy(object)
    return pd.util.hash_array(text) ^ (missing * np.uint64(0x9E3779B97F4A7C15))


def picture(image: np.ndarray) -> tuple[int, np.ndarray]:
    """(64-bit perceptual hash, thumbnail) of an image (H, W[, 3]).

    Both ignore brightness, contrast, size and light compression. Hash: the signs of the lowest 8 x 8 cosine terms
    of the grey thumbnail against their median. Thumbnail: its detail, of zero mean and unit length, (SIDE * SIDE,).
    """
    import cv2
    from scipy.fft import dctn

    grey = image.astype(np.float32)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    low = dctn(small, norm="ortho")[:LOW, :LOW].ravel()
    low[0] = 0  # brightness has no say
    bits = low > np.median(low[1:])
    detail = small - cv2.GaussianBlur(small, (0, 0), BLUR, borderType=cv2.BORDER_REFLECT)
    return int(np.packbits(bits).view(">u8")[0]), unit(detail - detail.mean(), float(grey.max()))


def window(x: np.ndarray) -> np.ndarray:
    """The vector of a window (T, C): resampled to STEPS (fewer where it would be longer than MOST)."""
    steps = max(2, min(STEPS, MOST // max(1, x.shape[1])))
    at = np.linspace(0, len(x) - 1, steps)
    low = at.astype(int)
    share = (at - low)[:, None]
    values = x[low] * (1 - share) + x[np.minimum(low + 1, len(x) - 1)] * share  # (steps, C)
    centred = values - values.mean(0)
    spread = centred.std(0)
    moves = spread > 1e-9 * np.maximum(np.abs(x).max(0), 1e-300)
    return unit((centred / np.where(moves, spread, 1) * moves).T, 1.0)


def unit(values: np.ndarray, scale: float) -> np.ndarray:
    """The values as one float32 vector of unit length; zeros where they are nothing beside `scale`."""
    length = float(np.linalg.norm(values))
    flat = values.ravel() / length if length > 1e-5 * max(scale, 1e-300) else np.zeros(values.size)
    return flat.astype(np.float32)


def turned(vectors: np.ndarray) -> list[np.ndarray]:
    """Thumbnails (N, SIDE * SIDE) in their eight flips and quarter turns."""
    tiles = vectors.reshape(-1, SIDE, SIDE)
    turns = [np.rot90(tiles, k, (1, 2)) for k in range(4)]
    return [np.ascontiguousarray(t).reshape(len(tiles), -1) for turn in turns for t in (turn, turn[:, :, ::-1])]


def write(folder: Path, marks: pd.DataFrame) -> None:
    """One parquet file in `folder`, which exists."""
    marks.to_parquet(Path(folder) / FILE, index=False)


def read(folder: Path) -> pd.DataFrame:
    """The fingerprints in a folder; InputError where there are none."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise InputError(f"{path}: fingerprints of the test must be there, got none; run prepare again")
    return read_table(path)
