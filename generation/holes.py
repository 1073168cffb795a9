"""Random holes for training a denoiser on normals; True = hidden."""

from __future__ import annotations

import numpy as np


def image_hole(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A box, a blob or a stroke (H, W), of 1 to 50 % of the image, sometimes two; seldom everything."""
    import cv2

    if rng.random() < 0.03:
        return np.ones(shape, bool)
    height, width = shape
    canvas = np.zeros(shape, np.uint8)
    for _ in range(1 + int(rng.random() < 0.3)):
        side = np.sqrt(np.exp(rng.uniform(np.log(0.01), np.log(0.5))))
        stretch = np.exp(rng.uniform(-0.8, 0.8))
        ry, rx = max(0.5, side * height * stretch / 2), max(0.5, side * width / stretch / 2)
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        shape_of = rng.random()
        if shape_of < 0.35:
            canvas[max(0, int(cy - ry)) : int(cy + ry) + 1, max(0, int(cx - rx)) : int(cx + rx) + 1] = 1
            continue
        if shape_of < 0.75:
            angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            radius = 1 + 0.25 * sum(rng.normal() * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (1, 2, 3))
            points = np.stack([cx + rx * radius * np.cos(angle), cy + ry * radius * np.sin(angle)], axis=1)
            cv2.fillPoly(canvas, [points.round().astype(np.int32)], 1)
            continue
        steps = rng.normal(0, 1, (int(rng.integers(3, 9)), 2)) * [rx, ry] * 0.6 + rng.normal(0, 0.4, 2) * [rx, ry]
        points = (np.array([cx, cy]) + np.cumsum(steps, axis=0)).round().astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, thickness=int(rng.integers(1, max(2, min(shape) // 10) + 1)))
    if not canvas.any():
        canvas[int(rng.integers(height)), int(rng.integers(width))] = 1
    return canvas.astype(bool)


def series_hole(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Spans on some channels (T, C): one to three of them, a grating of equal blocks, or seldom everything."""
    length, channels = shape
    lines, draw = np.zeros(length, bool), rng.random()
    if draw < 0.05:
        lines[:] = True
    elif draw < 0.2:
        block = int(rng.integers(1, max(2, length // 4) + 1))
        lines[:] = (np.arange(length) + int(rng.integers(2 * block))) // block % 2 == 0
    else:
        for _ in range(int(rng.integers(1, 4))):
            span = int(np.clip(np.exp(rng.uniform(0, np.log(max(2, 0.7 * length)))), 1, length))
            first = int(rng.integers(length - span + 1))
            lines[first : first + span] = True
    lines[int(rng.integers(length))] |= not lines.any()
    chosen = np.zeros(channels, bool)
    how_many = channels if rng.random() < 0.4 else int(rng.integers(1, channels + 1))
    chosen[rng.permutation(channels)[:how_many]] = True
    return lines[:, None] & chosen


def row_hole(rng: np.random.Generator, shape: tuple[int]) -> np.ndarray:
    """A random subset of the columns (D,), of any size from one to all, each size as likely."""
    out = np.zeros(shape[0], bool)
    out[rng.permutation(shape[0])[: int(rng.integers(1, shape[0] + 1))]] = True
    return out


HOLES = {"image": image_hole, "series": series_hole, "row": row_hole}


def random_mask(rng: np.random.Generator, shape: tuple[int, ...], *, modality: str) -> np.ndarray:
    """A random hole of `shape`, bool, never empty: (H, W) for images, (T, C) for series, (D,) for rows."""
    return HOLES[modality](rng, shape)
