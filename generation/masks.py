"""Where anomalies go: real masks reshaped and put elsewhere.

In every mask True marks what is edited: anomalous pixels, anomalous timestamps x channels, or cells made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from data.records import Records
from data.records.series import spans
from generation.holes import random_mask

__all__ = ["image_mask", "image_place", "placed", "random_mask", "row_mask", "series_mask", "series_place"]

MIN_PIXELS = 6  # a smaller image mask is grown
BORDER_SHARE = 1 / 3  # a mask that fills more of a border line is no defect but a crop gone wrong (arXiv:2312.05767)
FIT = 0.95  # most of the host's height or width that a mask may span, unless its parent spans all
TRIES = 12
PARTS = 4  # most components of a mask that are placed one by one
SAMPLE = 512  # normals that say which cells of a row deviate

INNER = 0.25  # half side of the middle square, a quarter of the area
PLACE_TRIES = 6

Drawn = TypeVar("Drawn")
Affine = np.ndarray  # (2, 3): (x, y) of the source to (x, y) of the host, the corner of a pixel being its integer place


# images: geometry


def edges(mask: np.ndarray, slack: int = 1) -> np.ndarray:
    """Which borders a mask (H, W) comes within `slack` pixels of: bool (2, 2), [[left, right], [top, bottom]]."""
    out = np.zeros((2, 2), bool)
    for axis, line in enumerate((mask.any(0), mask.any(1))):
        reach = min(slack, (len(line) - 1) // 8) + 1
        out[axis] = line[:reach].any(), line[-reach:].any()
    return out


def border_share(mask: np.ndarray) -> float:
    """The most that a mask fills of one of the four border lines, 0..1."""
    return float(max(line.mean() for line in (mask[0], mask[-1], mask[:, 0], mask[:, -1])))


def components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) of the 8-connected components and the sizes of labels 0..count in pixels (0 for the ground)."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return labels, sizes


def parts_to_place(rng: np.random.Generator, mask: np.ndarray) -> list[np.ndarray]:
    """Masks to be placed one by one: all components together, or some of them each on its own.

    Components that spread over most of the image cannot move together; they always part. Specks under MIN_PIXELS are
    left out where a larger component exists.
    """
    labels, sizes = components(mask)
    big = np.flatnonzero(sizes >= MIN_PIXELS)
    big = big if len(big) else np.array([sizes.argmax()])
    chosen = np.isin(labels, big)
    if len(big) == 1:
        return [chosen]
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    wide = np.ptp(rows) > 0.6 * mask.shape[0] or np.ptp(columns) > 0.6 * mask.shape[1]
    if not wide and rng.random() < 0.5:
        return [chosen]
    count = int(rng.integers(1, min(PARTS, len(big)) + 1))
    return [labels == part for part in rng.choice(big, size=count, replace=False)]


def linear_part(rng: np.random.Generator, turn: float, quarter: bool) -> np.ndarray:
    """A random flip and, if `quarter`, quarter turn (2, 2), followed by a rotation by up to `turn` degrees."""
    angle = np.deg2rad(rng.uniform(-turn, turn))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    square = np.diag(rng.choice([-1.0, 1.0], 2))
    square = square[::-1] if quarter and rng.random() < 0.5 else square
    return rotation @ square if turn else square


def placement(
    rng: np.random.Generator, mask: np.ndarray, shape: tuple[int, int], *,
    scale: tuple[float, float], turn: float = 45.0, quarter: bool = True,
) -> Affine:  # fmt: skip
    """A random map of a mask (h, w) into a host of `shape`: flip, quarter turn, rotation, scale, uniform place.

    scale: along x and y of the source. turn: degrees. quarter: whether x and y may change places.
    A mask that touches a border is only flipped and quarter-turned, and ends on the border that its own becomes; one
    that touches two opposite borders is stretched to touch both again. Any other stays a pixel off the borders.
    """
    at, size = edges(mask), np.array(mask.shape[::-1])
    host = np.array(shape[::-1], float)
    linear = linear_part(rng, 0.0 if at.any() else turn, quarter) @ np.diag(scale)
    rows, columns = np.nonzero(mask)
    if not at.any():
        centres = linear @ np.stack([columns + 0.5, rows + 0.5])  # (2, pixels)
        half = np.abs(linear).sum(1) / 2
        low, high = centres.min(1) - half, centres.max(1) + half
        room = np.maximum(np.minimum(FIT * host, host - 3), host / 2)
        shrink = min(1.0, *(room / (high - low)))
        linear, low, high = linear * shrink, low * shrink, high * shrink
        return np.column_stack([linear, [between(rng, 1 - a, h - 1 - b) for a, b, h in zip(low, high, host)]])
    box = np.array([[columns.min(), columns.max() + 1], [rows.min(), rows.max() + 1]], float)
    box[at] = np.stack([np.zeros(2), size], axis=1)[at]
    offset = np.zeros(2)
    for k in range(2):  # axis of the host
        a = int(np.abs(linear[k]).argmax())  # axis of the source
        flipped = linear[k, a] < 0
        on = at[a][::-1] if flipped else at[a]
        length = abs(linear[k, a]) * (box[a, 1] - box[a, 0])
        if on.all():
            linear[k] *= host[k] / length
        elif length > FIT * host[k]:
            linear[k] *= FIT * host[k] / length
        low, high = np.sort(linear[k, a] * box[a])
        if on.any():
            offset[k] = -low if on[0] else host[k] - high
        else:
            offset[k] = between(rng, -low, host[k] - high)
    return np.column_stack([linear, offset])


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform whole number in [low, high] (no resampling blur), or any number where no whole one lies there."""
    first, last = int(np.ceil(low - 1e-9)), int(np.floor(high + 1e-9))
    return float(rng.integers(first, last + 1)) if first <= last else float(rng.uniform(min(low, high), max(low, high)))


def carry(source: np.ndarray, affine: Affine, box: tuple[int, int, int, int], *, cubic: bool = False) -> np.ndarray:
    """What a source (h, w) or (h, w, C) looks like in the box (top, left, height, width) of the host, float32."""
    import cv2

    linear = affine[:, :2]
    offset = affine[:, 2] + linear @ [0.5, 0.5] - 0.5 - np.array([box[1], box[0]])  # pixel centres, box corner
    flags = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    return cv2.warpAffine(
        np.ascontiguousarray(source, dtype=np.float32), np.column_stack([linear, offset]), (box[3], box[2]),
        flags=flags, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip


def carry_mask(mask: np.ndarray, affine: Affine, shape: tuple[int, int]) -> np.ndarray:
    """The mask (h, w) in a host of `shape`, bool; thin masks keep their area when they shrink."""
    cover = carry(mask, affine, (0, 0, *shape))
    area = mask.sum() * abs(np.linalg.det(affine[:, :2]))
    return keep_area(cover, area)


def keep_area(cover: np.ndarray, area: float) -> np.ndarray:
    """Coverage (H, W) thresholded at one half, or lower (down to .15) where that would lose area."""
    rank = int(min(max(area, 1), cover.size))
    kth = np.partition(cover.ravel(), cover.size - rank)[cover.size - rank]
    return cover >= min(max(kth, 0.15), 0.5)


def grow_to(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask dilated until it has `pixels` pixels, or all there are; an empty mask grows from the middle."""
    from scipy import ndimage

    pixels = min(pixels, mask.size)
    if not mask.any():
        mask = np.zeros_like(mask)
        mask[mask.shape[0] // 2, mask.shape[1] // 2] = True
    while mask.sum() < pixels:
        mask = ndimage.binary_dilation(mask, structure=np.ones((3, 3)))
    return mask


def warp(rng: np.random.Generator, cover: np.ndarray, strength: float) -> np.ndarray:
    """Coverage (H, W) under a slight smooth warp: displacements of std `strength` times the root of its area."""
    import cv2

    height, width = cover.shape
    reach = strength * np.sqrt(max(cover.sum(), 1.0))
    coarse = rng.normal(0, reach, (4, 4, 2)).astype(np.float32)
    rows, columns = np.flatnonzero((cover > 0.01).any(1)), np.flatnonzero((cover > 0.01).any(0))
    if not len(rows):
        return cover
    margin = int(3 * reach) + 2
    top, left = max(0, rows[0] - margin), max(0, columns[0] - margin)
    bottom, right = min(height, rows[-1] + margin + 1), min(width, columns[-1] + margin + 1)
    shift = cv2.resize(coarse, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[: bottom - top, : right - left].astype(np.float32)
    part = np.ascontiguousarray(cover[top:bottom, left:right])
    out = np.zeros_like(cover)
    out[top:bottom, left:right] = cv2.remap(
        part, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out


# images: the mask bank


def reshape_mask(rng: np.random.Generator, part: np.ndarray, shape: tuple[int, int], size: float) -> np.ndarray:
    """One part of a real mask, scaled by about `size`, turned, warped, at times thickened, somewhere in `shape`."""
    from scipy import ndimage

    scale = size * np.exp(rng.uniform(-0.2, 0.2, 2))
    affine = placement(rng, part, shape, scale=(float(scale[0]), float(scale[1])))
    cover = warp(rng, carry(part, affine, (0, 0, *shape)), float(rng.uniform(0, 0.06)))
    mask = keep_area(cover, part.sum() * abs(np.linalg.det(affine[:, :2])))
    if rng.random() < 0.25 and mask.any():
        mask = ndimage.binary_dilation(mask)
    return mask


def image_mask(
    rng: np.random.Generator, support: Records, parent: int, shape: tuple[int, int], *, size: float = 1.0
) -> np.ndarray:
    """A new mask (H, W) bool of the parent's kind of shape: its real mask turned, stretched, warped and put elsewhere.

    size: linear scale over the parent's mask. Masks that touch a border stay on one; other places are uniform. Never
    empty, at least MIN_PIXELS; never fills more than a third of a border line unless the parent does. ValueError where
    the parent's mask is empty.
    """
    source = np.asarray(support.mask[parent], bool)
    if not source.any():
        raise ValueError(f"a parent's mask must not be empty, got {support.meta['id'].iloc[parent]}")
    touching = edges(source).any()
    limit = max(BORDER_SHARE, 1.25 * size * border_share(source)) if touching else BORDER_SHARE
    best = np.zeros(shape, bool)
    for _ in range(TRIES):
        mask = np.zeros(shape, bool)
        for part in parts_to_place(rng, source):
            mask |= reshape_mask(rng, part, shape, size)
        mask = grow_to(mask, MIN_PIXELS) if mask.any() else mask
        if mask.any() and border_share(mask) <= limit and (not mask.all() or source.all()):
            return mask
        best = mask if mask.any() and not (best.any() and border_share(best) < border_share(mask)) else best
    return grow_to(best, MIN_PIXELS)


# places


def image_place(mask: np.ndarray) -> str:
    """"inner" where the middle of a mask (H, W) lies in the middle quarter (by area) of the image, else "outer"."""
    rows, columns = np.nonzero(mask)
    off = max(abs(rows.mean() / mask.shape[0] - 0.5), abs(columns.mean() / mask.shape[1] - 0.5))
    return "inner" if off <= INNER else "outer"


def series_place(mask: np.ndarray) -> str:
    """"early", "middle" or "late": the third of the window that the middle of a mask (T, C) lies in."""
    at = np.flatnonzero(mask.any(1)).mean() / max(1, len(mask) - 1)
    return ("early", "middle", "late")[min(2, int(3 * at))]


def placed(draw: Callable[[], Drawn], place_of: Callable[[Drawn], str], place: str) -> Drawn:
    """What `draw` gives, drawn again up to PLACE_TRIES times until it lies in the place wanted."""
    for _ in range(PLACE_TRIES):
        out = draw()
        if place_of(out) == place:
            break
    return out


# series


def pick_span(rng: np.random.Generator, mask: np.ndarray) -> tuple[int, int]:
    """[start, end) of an anomalous span of a mask (T, C), longer ones more often; ValueError where it is empty."""
    found = spans(mask.any(1))
    if not found:
        raise ValueError("a parent's mask must not be empty")
    lengths = np.array([b - a for a, b in found], float)
    return found[int(rng.choice(len(found), p=lengths / lengths.sum()))]


def series_mask(
    rng: np.random.Generator, marked: np.ndarray, shape: tuple[int, int], *, size: float = 1.0
) -> np.ndarray:
    """A span of a real one's length times `size` (+-15 %) on its channels, uniform in time: (T, C) bool, never empty.

    marked: (L, C) the real one's steps x channels. Where its channels start one after another, so do these. ValueError
    where it is empty or has other channels.
    """
    if marked.shape[1] != shape[1]:
        raise ValueError(f"host and parent must have the same channels, got {shape[1]} and {marked.shape[1]}")
    if not marked.any():
        raise ValueError("the mask of a parent must not be empty")
    length = int(np.clip(round(len(marked) * size * rng.uniform(0.85, 1.15)), 1, shape[0]))
    at = ((np.arange(length) + 0.5) * len(marked) / length).astype(int)
    first = int(rng.integers(shape[0] - length + 1))
    out = np.zeros(shape, bool)
    out[first : first + length] = marked[at]
    if not out.any():  # a one-step channel lost by shortening
        out[first : first + length, marked.any(0)] = True
    return out


# rows


def deviation(row: np.ndarray, normals: np.ndarray, codec) -> np.ndarray:
    """How far every cell of an encoded row (F,) lies from the encoded normals (N, F): (D,) robust z >= 0.

    A number counts by |x - median| / (1.4826 MAD); a category, flag or missing cell by the normal quantile of its
    rarity, Phi^-1(1 - p / 2) with p its (smoothed) share among normals, so that 1 in 370 weighs as much as three
    sigma.
    """
    from scipy.stats import norm

    normals = normals[:: max(1, len(normals) // SAMPLE)]
    out = np.zeros(len(codec.columns))
    levels, cells = normals * codec.scale + codec.centre, row * codec.scale + codec.centre
    for j, spec in enumerate(codec.columns):
        own = np.flatnonzero(codec.feature_column == j)
        missing = bool(spec["nullable"] and cells[own[-1]] > 0)
        gone = levels[:, own[-1]] > 0 if spec["nullable"] else np.zeros(len(levels), bool)
        value = own[:-1] if spec["nullable"] else own
        if "quantile" in spec and not missing:
            known = normals[~gone, value[0]]
            if len(known):
                middle = np.median(known)
                spread = 1.4826 * np.median(np.abs(known - middle))
                spread = spread or known.std() or 1.0
                out[j] = abs(row[value[0]] - middle) / spread
            continue
        if missing:
            same = gone
        elif spec["type"] == "boolean":
            same = ~gone & ((levels[:, value[0]] > 0) == (cells[value[0]] > 0))
        else:
            same = ~gone & (levels[:, value].argmax(1) == cells[value].argmax()) if len(value) else gone
        out[j] = norm.isf((same.sum() + 0.5) / (len(levels) + 1) / 2)
    return out


def row_mask(
    rng: np.random.Generator, support: Records, parent: int, normals: np.ndarray, codec, *, share: float = 0.5
) -> np.ndarray:
    """Nuisance cells of a real anomaly: (D,) bool, True = made anew, False = kept because it makes the anomaly.

    normals: encoded (N, F). share: of all columns, how many are made anew (at least one; never all, where a row has
    more than one column). The cells that deviate least go first, their order shaken a little, so that one parent has
    many masks; cells that a partial label marks are given up last, and only where no other is left.
    """
    parents = support.take([parent])
    far = deviation(codec.encode(parents)[0][0], np.asarray(normals), codec)
    return nuisance_cells(rng, far, np.asarray(parents.mask, bool)[0], share=share)


def nuisance_cells(rng: np.random.Generator, far: np.ndarray, label: np.ndarray, *, share: float) -> np.ndarray:
    """`row_mask` of a parent whose cells' deviation `far` (D,) is known; label (D,): its own mask."""
    count = len(far)
    if count == 1:
        return np.ones(1, bool)
    order = np.argsort(np.argsort(far)) / count + rng.uniform(0, 0.35, count)
    marked = label & (not label.all())
    size = max(1, min(round(share * count), count - 1, int((~marked).sum())))
    out = np.zeros(count, bool)
    out[np.lexsort((order, marked))[:size]] = True
    return out
