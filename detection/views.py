"""Records as vectors to compare samples by: of the whole record, and of its anomalous part alone ("crop")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.records import Records

SIZE, CROP = 128, (64, 64)  # pixels of the long side of whole images, and of crops
MARGIN = 1.6  # side of a crop over the longer side of its mask
LEAST = 16  # pixels of a crop's side
STRIDES = (4, 8, 16)  # of the backbone's maps that are used
KERNELS = 16  # per dilation, for series
CHUNK = 64  # images whose maps are held at once


@dataclass(frozen=True)
class View:
    """features: (N, D) float64, to compare distributions by. perceptual: (N, P), whose squared distances measure how
    different two records look (images), or None: the features do."""

    features: np.ndarray
    perceptual: np.ndarray | None = None

    def take(self, index: np.ndarray) -> View:
        return View(self.features[index], None if self.perceptual is None else self.perceptual[index])


def views(records: Records, reference: Records, device: str = "auto") -> dict[str, View]:
    """{"": whole, "crop_": the anomalous part (not of rows)}. reference: what sizes and scales are taken from."""
    of = {"image": image_views, "series": series_views, "row": row_views}
    return of[records.modality](records, reference, device)


# images: frozen backbone


def image_views(records: Records, reference: Records, device: str) -> dict[str, View]:
    from detection.features import frame

    crops = [square(image, mask) for image, mask in zip(records.x, records.mask)]
    shape = frame(reference.x, SIZE)
    return {"": embed(records.x, shape, device), "crop_": embed(crops, CROP, device)}


def square(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square round the mask, MARGIN times as wide and inside the image as far as it can be; all without a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return image
    side = int(max(LEAST, np.ceil(MARGIN * max(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))))
    part = []
    for marked, length in ((rows, image.shape[0]), (columns, image.shape[1])):
        start = min(max((marked[0] + marked[-1] + 1 - side) // 2, 0), max(length - side, 0))
        part.append(slice(start, min(start + side, length)))
    return np.ascontiguousarray(image[tuple(part)])


def embed(images: list[np.ndarray], shape: tuple[int, int], device: str) -> View:
    """Features: every channel's mean, strides one after another. Perceptual: channels of unit length at every place,
    so that squared distances are means over places and strides (eq. 1, arXiv:1801.03924, with equal weights)."""
    import torch

    from detection.features import CACHE, LEVELS, unpack

    pooled, looks = [], []
    for low in range(0, len(images), CHUNK):
        maps = unpack(CACHE.features(images[low : low + CHUNK], shape, device), shape)
        maps = [maps[stride].float() for stride in STRIDES]  # (B, C, h, w) each
        pooled.append(torch.cat([m.mean((2, 3)) for m in maps], 1).numpy())
        unit = [m / m.norm(dim=1, keepdim=True).clamp_min(1e-6) for m in maps]
        places = [(len(STRIDES) * m.shape[2] * m.shape[3]) ** 0.5 for m in maps]
        looks.append(torch.cat([m.flatten(1) / n for m, n in zip(unit, places)], 1).numpy())
    if not pooled:
        width = sum(LEVELS[stride][1] for stride in STRIDES)
        return View(np.zeros((0, width)), np.zeros((0, 1), np.float32))
    return View(np.concatenate(pooled).astype(np.float64), np.concatenate(looks))


# series: statistics of windows


def series_views(records: Records, reference: Records, device: str) -> dict[str, View]:
    from data.records.series import SeriesCodec
    from detection.windows import draw_kernels, scaled

    codec = SeriesCodec.fit(reference)
    kernels = draw_kernels(len(codec.channels), KERNELS, seed=0)
    windows = scaled(codec, records)
    whole = [window_features(z, kernels) for z in windows]
    crop = [span_features(z, mask) for z, mask in zip(windows, records.mask)]
    return {"": stacked(whole), "crop_": stacked(crop)}


def stacked(rows: list[np.ndarray]) -> View:
    """asinh of the features: linear round 0 and logarithmic far out, so that no outlier outweighs all others."""
    return View(np.arcsinh(np.stack(rows).astype(np.float64)) if len(rows) else np.zeros((0, 1)))


def window_features(z: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Of a window z (T, C): level, spread, extremes, trend and jumps a channel, and over channels in size; maximum,
    spread and positive share of fixed random convolutions (MiniRocket, arXiv:2012.08791)."""
    from detection.windows import convolve

    time = np.linspace(-1, 1, len(z))
    jump = np.abs(np.diff(z, axis=0)) if len(z) > 1 else np.zeros_like(z)
    parts = np.stack([z.mean(0), z.std(0), z.min(0), z.max(0), time @ z / max((time**2).sum(), 1e-9),
                      jump.mean(0), jump.max(0)])  # fmt: skip
    size, response = np.abs(parts), convolve(z, kernels)  # (7, C), (T, K)
    return np.concatenate([parts.ravel(), size.max(1), size.mean(1), response.max(0), response.std(0),
                           (response > 0).mean(0)])  # fmt: skip


def span_features(z: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of what a mask (T, C) marks in z: its length and channels as shares, and over its channels the largest and mean
    shift, spread, peak, trend, jump and roughness against what is unmarked. Zeros where nothing is marked."""
    marked = np.flatnonzero(mask.any(0))
    out = []
    for c in marked:
        own, rest = z[mask[:, c], c], z[~mask[:, c], c]
        rest = rest if len(rest) > 1 else np.zeros(2)
        spread, step = max(rest.std(), 0.1), max(np.abs(np.diff(rest)).mean(), 0.02)
        jump = np.abs(np.diff(own)) if len(own) > 1 else np.zeros(1)
        out.append([(own.mean() - rest.mean()) / spread, own.std() / spread, np.abs(own - rest.mean()).max() / spread,
                    (own[-1] - own[0]) / spread, jump.max() / spread, jump.mean() / step])  # fmt: skip
    table = np.array(out) if out else np.zeros((1, 6))
    shares = [mask.any(1).mean(), len(marked) / mask.shape[1]]
    return np.concatenate([shares, table[np.abs(table).argmax(0), range(6)], table.mean(0)])


# rows: encoded cells


def row_views(records: Records, reference: Records, device: str) -> dict[str, View]:
    from data.records.table import RowCodec

    return {"": stacked(RowCodec.fit(reference).encode(records)[0] if len(records) else [])}
