"""How new a generated record is: distance to the nearest training anomaly, copies of one, and exact duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from data.records import Records
from data.records.series import shown

SHIFT, POINTS = 2, 64  # pixels that a copy may be off its label's middle, and how many are compared
LEAST = 8  # pixels that an anomaly must have to be known by them: two or three are alike everywhere
SAME = 1e-3  # of standardised pixels: nearer is the same anomaly
UNLIKE = 2**0.5  # distance of standardised pixels that have nothing in common
SIDES = 2.0  # times as long or short as a training anomaly: nothing that its label holds can be a copy of that


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
    from data.records.image import crop, resize

    out = np.zeros((len(records), size * size), np.float32)
    for i, (image, mask) in enumerate(zip(records.x, records.mask)):
        if not mask.any():
            continue
        patch = resize(level(crop(image, bounds(np.asarray(mask, bool)))), (size, size)).ravel()
        out[i] = patch - patch.mean()
    return out


class Copies:
    """The anomalies of a support, to tell what was copied from them, wherever it was put and whichever way up."""

    def __init__(self, support: Records, codec):
        self.vectors, self.kinds, self.parts = edit_vectors(support, codec), support.meta["kind"].to_numpy(str), None
        found = [(i, *part) for i in range(len(support)) for part in pixels(support, i)]
        if found and len(support) > 1:
            self.parts = [np.array(column) for column in zip(*found)]
            between = np.stack([self.apart(x, m, len(support)) for x, m in zip(support.x, support.mask)])
            between[np.eye(len(between), dtype=bool) | (between < SAME)] = np.inf  # what is there twice says nothing
            self.usual = spacing(between, self.kinds, UNLIKE)

    def nearest(self, records: Records, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """((N,) distance, (N,) which anomaly) as `copy_distance` of the records' edit vectors or, of images, by the
        pixels of an anomaly where that is less: those under its own mask, laid on the middle of the record's, by all
        turns and flips and some pixels off."""
        if not len(records):
            return np.zeros(0), np.zeros(0, int)
        apart = ratios(vectors, self.vectors, self.kinds)
        out, which = apart.min(1), apart.argmin(1)
        if self.parts is not None:
            count = len(self.vectors)
            found = np.stack([self.apart(x, m, count) for x, m in zip(records.x, records.mask)]) / self.usual
            which = np.where(found.min(1) < out, found.argmin(1), which)
            out = np.minimum(out, found.min(1))
        return out, which

    def apart(self, image: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
        """(count,) distance to each anomaly's pixels, both standardised: 0 to 2, UNLIKE where they have nothing in
        common, inf where one is far larger than the other."""
        out, mask = np.full(count, np.inf), np.asarray(mask, bool)
        if not mask.any():
            return out
        y, x, height, width = bounds(mask)
        which, tall, wide, rows, columns, own = self.parts
        near = np.max([tall / height, height / tall, wide / width, width / wide], axis=0) <= SIDES
        reach = int(SIDES * max(height, width)) + SHIFT
        top, left = max(0, y - reach), max(0, x - reach)
        part = level(image[top : y + height + reach, left : x + width + reach]).astype(float)
        steps = np.arange(-SHIFT, SHIFT + 1)[:, None]
        down = (y - top + (height - tall[near]) // 2)[:, None, None] + rows[near, None] + steps
        right = (x - left + (width - wide[near]) // 2)[:, None, None] + columns[near, None] + steps
        down, right = np.clip(down, 0, part.shape[0] - 1), np.clip(right, 0, part.shape[1] - 1)
        held = part[down[:, :, None], right[:, None]]  # (templates, shifts down, right, POINTS)
        held -= held.mean(-1, keepdims=True)
        size = np.maximum(np.sqrt(np.einsum("tdrp,tdrp->tdr", held, held)), 1e-9)
        alike = (np.einsum("tdrp,tp->tdr", held, own[near]) / size).max((1, 2)) if near.any() else np.zeros(0)
        np.minimum.at(out, which[near], np.sqrt(np.maximum(0.0, 2 - 2 * alike)))
        return out


def pixels(support: Records, i: int) -> Iterator[tuple]:
    """(height, width, rows, columns, values about 0 of norm 1) of POINTS pixels under a record's mask, by all turns and
    flips; none of what has a single value or fewer than LEAST pixels, and none but of images."""
    if support.modality != "image" or (mask := np.asarray(support.mask[i], bool)).sum() < LEAST:
        return
    y, x, height, width = bounds(mask)
    value, under = (a[y : y + height, x : x + width] for a in (level(support.x[i]).astype(float), mask))
    for turn in range(8):
        there, seen = (np.rot90(a, turn % 4)[:, :: 1 if turn < 4 else -1] for a in (under, value))
        rows, columns = np.nonzero(there)
        some = np.linspace(0, len(rows) - 1, POINTS).round().astype(int)
        own = seen[rows[some], columns[some]]
        own = own - own.mean()
        if (size := float(np.linalg.norm(own))) > 1e-9:
            yield *there.shape, rows[some], columns[some], own / size


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what is marked."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def level(image: np.ndarray) -> np.ndarray:
    """(H, W) float grey."""
    from data.records.image import grey, to_float

    value = to_float(image)
    return np.asarray(grey(value) if value.ndim == 3 else value, np.float32)


def copy_distance(vectors: np.ndarray, support: np.ndarray, kinds: np.ndarray | None = None) -> np.ndarray:
    """(N,) distance to the nearest support vector over the median distance of different ones of its kind to their
    nearest (1 = as far apart as real anomalies are; 0 = a copy); inf where the support has a single record.

    kinds: (S,) of the support; none, all are of one.
    """
    kinds = np.zeros(len(support)) if kinds is None else kinds
    return ratios(vectors, support, kinds).min(1, initial=np.inf) if len(vectors) else np.zeros(0)


def ratios(vectors: np.ndarray, support: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(N, S) of `copy_distance`, to every support vector."""
    from scipy.spatial.distance import cdist

    if len(support) < 2:
        return np.full((len(vectors), len(support)), np.inf)
    between = cdist(support, support)
    same = between == 0
    between[same] = np.inf
    once = ~np.tril(same & (kinds[:, None] == kinds), -1).any(1)
    return cdist(vectors, support) / spacing(between, kinds, 1e-9, once)


def spacing(between: np.ndarray, kinds: np.ndarray, alone: float, once: np.ndarray | None = None) -> np.ndarray:
    """(S,) how far apart anomalies of each one's kind usually are: the median distance to the nearest; that of all
    where a kind has one alone. A tight kind must not be held against how far a wide one spreads.

    between: (S, S) distances, inf to itself and to what is the same. alone: where nothing differs. once: (S,) bool,
    which of them count; all, where not given.
    """
    counted = np.ones(len(kinds), bool) if once is None else once

    def usual(own: np.ndarray) -> float | None:
        nearest = between[own & counted][:, own].min(1, initial=np.inf)
        nearest = nearest[np.isfinite(nearest)]
        return max(float(np.median(nearest)), 1e-9) if len(nearest) else None

    overall = usual(np.ones(len(kinds), bool)) or alone
    scale = {kind: usual(kinds == kind) or overall for kind in np.unique(kinds)}
    return np.array([scale[kind] for kind in kinds])
