"""How new a generated record is: distance to the nearest training anomaly, and exact duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from data.records import Records
from data.records.series import shown


def payloads(records: Records) -> Iterator[bytes]:
    """What each record holds, as bytes, for comparing records exactly."""
    if records.modality == "row":
        return (repr(cells).encode() for cells in records.x.itertuples(index=False, name=None))
    return (np.ascontiguousarray(x).tobytes() for x in records.x)


class Duplicates:
    """Remembers what it has seen, by content, over any number of batches."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}

    def of(self, records: Records) -> list[str]:
        """Per record the id of an earlier one with the same content, or ''."""
        out = []
        for name, held in zip(records.meta["id"], payloads(records)):
            digest = hashlib.sha256(held).hexdigest()
            out.append(self.first.get(digest, ""))
            self.first.setdefault(digest, name)
        return out


def edit_vectors(records: Records, codec, size: int = 16) -> np.ndarray:
    """(N, D) what each record's anomaly looks like: the crop round its mask (images), its steps in the channels that
    it shows in, wherever in the window they lie (series), its row."""
    if records.modality == "row":
        return np.asarray(codec.encode(records)[0], dtype=np.float32)
    if records.modality == "series":
        x, mask = codec.encode(records)
        out = np.zeros(x.shape, np.float32)
        for i, (window, marked) in enumerate(zip(x, mask)):
            own = shown(window, marked, codec.still)[1]
            first = int(own.any(0).argmax())
            out[i, :, : x.shape[2] - first] = (window * own)[:, first:]
        return out.reshape(len(x), int(np.prod(x.shape[1:])))
    from data.records.image import crop, grey, resize, to_float

    out = np.zeros((len(records), size * size), np.float32)
    for i, (image, mask) in enumerate(zip(records.x, records.mask)):
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        value = to_float(crop(image, box))
        patch = resize(grey(value) if value.ndim == 3 else value, (size, size)).ravel()
        out[i] = patch - patch.mean()
    return out


def copy_distance(vectors: np.ndarray, support: np.ndarray) -> np.ndarray:
    """(N,) distance to the nearest support vector over the median distance of different ones to their nearest (1 = as
    far apart as real anomalies are; 0 = a copy); inf where the support has a single record."""
    from scipy.spatial.distance import cdist

    if len(support) < 2 or not len(vectors):
        return np.full(len(vectors), np.inf)
    support = np.unique(support, axis=0)
    between = cdist(support, support)
    np.fill_diagonal(between, np.inf)
    typical = max(float(np.median(between.min(1))), 1e-9) if len(support) > 1 else 1e-9
    return cdist(vectors, support).min(1) / typical
