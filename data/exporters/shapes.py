"""Masks as regions, exact outlines and run lengths."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Region = tuple[int, int, np.ndarray]  # top, left, (height, width) truth values
Corner = tuple[int, int]  # x, y; pixel (row y, column x) has the corners (x, y) .. (x + 1, y + 1)


def regions(mask: np.ndarray) -> Iterator[Region]:
    """The connected parts of a mask, pixels that touch at a corner being connected, each in its own box."""
    import cv2

    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for i in range(1, count):
        left, top, width, height = map(int, boxes[i, :4])
        yield top, left, labels[top : top + height, left : left + width] == i


def edges(part: np.ndarray) -> dict[Corner, list[Corner]]:
    """The ways along the border from each of its corners, anomalous pixels on the right-hand side."""
    inside = np.pad(part, 1)
    ways: dict[Corner, list[Corner]] = {}
    for way, beyond, (right, down) in (
        ((1, 0), inside[:-2, 1:-1], (0, 0)),  # along the top
        ((0, 1), inside[1:-1, 2:], (1, 0)),
        ((-1, 0), inside[2:, 1:-1], (1, 1)),
        ((0, -1), inside[1:-1, :-2], (0, 1)),
    ):
        for y, x in np.argwhere(part & ~beyond).tolist():
            ways.setdefault((x + right, y + down), []).append(way)
    return ways


def outlines(part: np.ndarray) -> list[np.ndarray]:
    """Closed outlines (K, 2) of x, y along pixel borders: first the outer one, clockwise, then holes the other way.

    Their signed areas add up to the pixels of the connected part, exactly.
    """
    ways, used, loops = edges(part), set(), []
    for start in ways:
        for way in ways[start]:
            corner, before, loop = start, None, []
            while (corner, way) not in used:
                used.add((corner, way))
                if way != before:
                    loop.append(corner)
                corner, before = (corner[0] + way[0], corner[1] + way[1]), way
                # where two pixels touch at a corner a turn to the left keeps them in one outline
                way = (way[1], -way[0]) if len(ways[corner]) == 2 else ways[corner][0]
            if loop:
                loops.append(np.array(loop))  # it began at a turn: edges that lead right come first, row by row
    return loops


def polygon(region: Region) -> np.ndarray:
    """One closed outline (K, 2) of x, y of a region in its image; holes hang on it by short lines of no width."""
    from scipy.spatial import cKDTree

    top, left, part = region
    outer, *holes = outlines(part)
    near, hung = cKDTree(outer) if holes else None, []
    for hole in holes:
        distance, corner = near.query(hole)
        first = int(distance.argmin())
        hung.append((int(corner[first]), np.roll(hole, -first, axis=0)))
    pieces, last = [], 0
    for at, hole in sorted(hung, key=lambda one: one[0]):
        pieces += [outer[last : at + 1], hole, hole[:1]]
        last = at
    return np.concatenate([*pieces, outer[last:]]) + np.array([left, top])


def alone(region: Region, size: tuple[int, int]) -> np.ndarray:
    """Mask of `size` (height, width) with a region and nothing else."""
    top, left, part = region
    mask = np.zeros(size, bool)
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


def run_lengths(flat: np.ndarray) -> list[int]:
    """Lengths of the runs of truth values, the first of False (0 long where the first is True)."""
    ends = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [len(flat)]])
    return [0] * bool(flat[0]) + np.diff(ends).tolist()
