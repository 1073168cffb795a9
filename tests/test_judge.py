"""What a judge takes from a map: the largest smoothed value, inside the grown mask alone, whatever the company."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from detection import judge
from detection.judge import peaks

SHAPES = {"image": [(7, 9), (9, 7), (1, 4)], "series": [(12,), (5,), (1,)]}


class Some(SimpleNamespace):
    def __len__(self) -> int:
        return self.count


def by_hand(m: np.ndarray, where: np.ndarray | None) -> float:
    """Element by element: the mean of the 3 (x 3) around it, edges mirrored, within two steps of the mask."""
    smooth = np.pad(m, 1, mode="symmetric")
    best = -np.inf
    marked = None if where is None else np.argwhere(where)
    for at in np.ndindex(m.shape):
        near = marked is None or (len(marked) and np.abs(marked - at).sum(1).min() <= 2)
        if near:
            best = max(best, smooth[tuple(slice(i, i + 3) for i in at)].mean())
    return best


@pytest.mark.parametrize("together", [1, 130, 2**20])
@pytest.mark.parametrize("modality", SHAPES)
def test_peaks_are_those_taken_by_hand_one_map_at_a_time(modality, together, monkeypatch):
    monkeypatch.setattr(judge, "TOGETHER", together)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=SHAPES[modality][i % 3]).astype(np.float32) for i in range(20)]
    masks = [rng.random(m.shape if modality == "image" else (*m.shape, 2)) < 0.05 for m in maps]
    flat = masks if modality == "image" else [m.any(1) for m in masks]
    assert any(m.any() for m in masks) and not all(m.any() for m in masks)
    records = Some(modality=modality, count=len(maps))
    found = peaks(records, maps, masks)
    np.testing.assert_allclose(found, [by_hand(m.astype(float), w) for m, w in zip(maps, flat)], rtol=1e-12)
    np.testing.assert_allclose(peaks(records, maps, None), [by_hand(m.astype(float), None) for m in maps], rtol=1e-12)
    alone = [peaks(Some(modality=modality, count=1), [m], [k])[0] for m, k in zip(maps, masks)]
    assert np.array_equal(found, alone)  # not a bit of it is the others'
