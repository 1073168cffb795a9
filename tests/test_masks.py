"""Masks: never empty, where they belong, and of the parent's size."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import Records, make_meta
from data.records.codecs import CODECS
from generation.masks import (
    BORDER_SHARE,
    MIN_PIXELS,
    border_share,
    carry,
    carry_mask,
    components,
    edges,
    image_mask,
    placement,
    random_mask,
    row_mask,
    series_mask,
)


def image_support(*masks: np.ndarray) -> Records:
    meta = make_meta(len(masks), label=1, split="support", kind="dent")
    return Records("image", meta, [np.zeros(m.shape, np.uint8) for m in masks], list(masks), {})


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


# geometry


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_carried_at_scale_one_is_a_flip_or_quarter_turn_of_itself(seed):
    source = np.zeros((9, 12), bool)
    source[3:6, 4:9] = True
    source[3, 4] = source[5, 8] = False
    source[4, 3] = True  # no symmetry
    affine = placement(np.random.default_rng(seed), source, (30, 31), scale=(1, 1), turn=0.0)
    got = carry_mask(source, affine, (30, 31))
    rows, columns = np.flatnonzero(got.any(1)), np.flatnonzero(got.any(0))
    found = got[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shape = source[3:6, 3:9]
    options = [np.rot90(f, k) for f in (shape, shape[:, ::-1]) for k in range(4)]
    assert any(o.shape == found.shape and (o == found).all() for o in options)


def test_an_image_is_carried_with_its_mask():
    image = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    mask = disc((20, 20), (9, 8), 4)
    for seed in range(10):
        affine = placement(np.random.default_rng(seed), mask, (40, 30), scale=(1, 1), turn=0.0)
        box = (0, 0, 40, 30)
        moved = carry(image, affine, box)[carry_mask(mask, affine, (40, 30))]
        np.testing.assert_allclose(np.sort(moved), np.sort(image[mask]), atol=1e-6)


@given(height=st.integers(12, 90), width=st.integers(12, 90), radius=st.floats(1, 30), size=st.floats(0.3, 2.5),
       seed=st.integers(0, 2**32))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_an_image_mask_is_never_empty_nor_full_and_spares_the_border_lines(height, width, radius, size, seed):
    parent = disc((70, 70), (35, 35), radius)
    if seed % 2:  # a square
        parent = parent.any(0)[:, None] & parent.any(0)
    mask = image_mask(np.random.default_rng(seed), image_support(parent), 0, (height, width), size=size)
    assert mask.shape == (height, width) and mask.dtype == bool
    assert MIN_PIXELS <= mask.sum() < mask.size
    assert border_share(mask) <= BORDER_SHARE


@pytest.mark.parametrize("size", [0.6, 1.0, 1.5])
def test_the_area_of_masks_follows_the_square_of_size(size):
    parent = disc((100, 100), (50, 50), 10)
    support = image_support(parent)
    areas = [image_mask(np.random.default_rng(s), support, 0, (200, 200), size=size).sum() for s in range(60)]
    assert np.median(areas) / parent.sum() == pytest.approx(size**2, rel=0.2)


def test_thin_masks_do_not_vanish_when_they_shrink():
    crack = np.zeros((80, 80), bool)
    crack[20:60, 40] = True
    support = image_support(crack)
    areas = [image_mask(np.random.default_rng(s), support, 0, (80, 80), size=0.6).sum() for s in range(30)]
    assert min(areas) >= 10


def test_masks_on_an_edge_stay_on_one_and_others_fall_anywhere():
    edge = disc((60, 60), (0, 30), 8) & (np.arange(60)[:, None] < 8)
    inner = disc((60, 60), (30, 30), 5)
    support = image_support(edge, inner)
    centres, sides = [], set()
    for seed in range(80):
        found = edges(image_mask(np.random.default_rng(seed), support, 0, (70, 90)))
        assert found.any()
        sides |= {tuple(p) for p in np.argwhere(found)}
        mask = image_mask(np.random.default_rng(seed), support, 1, (70, 90))
        centres.append([v.mean() for v in np.nonzero(mask)])
    assert sides == {(0, 0), (0, 1), (1, 0), (1, 1)}
    spread = np.std(centres, axis=0)
    assert spread == pytest.approx([(70 - 10) / 12**0.5, (90 - 10) / 12**0.5], rel=0.25)  # uniform


def test_the_side_of_a_mask_that_lay_on_the_border_lies_on_it_again():
    """A triangle with its base on the border: the line on the border is the longest."""
    y, x = np.ogrid[:60, :60]
    wedge = np.abs(x - 30) <= 8 - y
    for seed in range(30):
        mask = image_mask(np.random.default_rng(seed), image_support(wedge), 0, (70, 90))
        lines = [mask[0], mask[-1], mask[:, 0], mask[:, -1]]
        base = max(line.sum() for line in lines)
        assert base >= 0.6 * max(mask.sum(0).max(), mask.sum(1).max()) and base >= 8


def test_a_mask_that_fills_a_third_of_a_border_line_is_drawn_again():
    """A bar of 30 % of its own border line, which would be half of the host's narrow side."""
    y, x = np.ogrid[:100, :100]
    bar = (y < 6) & (x >= 35) & (x < 65)
    for seed in range(40):
        mask = image_mask(np.random.default_rng(seed), image_support(bar), 0, (100, 60))
        assert border_share(mask) <= 1.25 * 0.3


def test_a_mask_from_border_to_border_spans_the_host_too():
    crack = np.zeros((50, 40), bool)
    crack[:, 20:22] = True
    for seed in range(20):
        mask = image_mask(np.random.default_rng(seed), image_support(crack), 0, (90, 70))
        assert edges(mask)[0].all() or edges(mask)[1].all()


def test_scattered_components_are_placed_one_by_one():
    parent = disc((100, 100), (8, 8), 4) | disc((100, 100), (90, 90), 4) | disc((100, 100), (8, 90), 4)
    counts = set()
    for seed in range(40):
        labels, sizes = components(image_mask(np.random.default_rng(seed), image_support(parent), 0, (60, 60)))
        assert labels.any() and sizes[1:].max() < 4 * 49
        counts.add(len(sizes) - 1)
    assert {1, 2, 3} <= counts


def test_an_empty_parent_is_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        image_mask(np.random.default_rng(0), image_support(np.zeros((9, 9), bool)), 0, (9, 9))
    with pytest.raises(ValueError, match="must not be empty"):
        series_mask(np.random.default_rng(0), np.zeros((9, 2), bool), (9, 2))


# series


@given(length=st.integers(1, 80), span=st.integers(1, 30), size=st.floats(0.2, 3), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_series_mask_is_one_span_on_the_parents_channels(length, span, size, seed):
    parent = np.zeros((span, 4), bool)
    parent[:, [1, 3]] = True
    mask = series_mask(np.random.default_rng(seed), parent, (length, 4), size=size)
    assert mask.shape == (length, 4)
    assert mask.any(0).tolist() == [False, True, False, True]
    steps = np.flatnonzero(mask.any(1))
    assert len(steps) == np.ptp(steps) + 1
    assert min(length, int(0.85 * span * size)) <= len(steps) <= max(1, 1.15 * span * size + 0.5)


def test_channels_that_join_later_join_later_in_the_mask():
    parent = np.zeros((20, 3), bool)
    parent[:, 0] = parent[10:, 1] = True
    for seed in range(20):
        mask = series_mask(np.random.default_rng(seed), parent, (60, 3))
        first = mask[:, :2].argmax(0)
        assert first[1] - first[0] == pytest.approx(mask[:, 0].sum() / 2, abs=1)
        assert not mask[:, 2].any()


# rows


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n = 400
    normal = pd.DataFrame({
        "a": rng.normal(size=n), "b": rng.normal(size=n), "c": rng.exponential(size=n),
        "colour": pd.array(rng.choice(["red", "blue"], n), dtype="string"),
        "rare": pd.array(["usual"] * (n - 1) + ["odd"], dtype="string"),
        "gap": np.where(np.arange(n) < 2, np.nan, rng.normal(size=n)),
    })  # fmt: skip
    odd = pd.DataFrame({
        "a": [9.0, 0.0], "b": [0.1, 0.0], "c": [0.7, 40.0], "colour": pd.array(["red", "blue"], dtype="string"),
        "rare": pd.array(["usual", "odd"], dtype="string"), "gap": [np.nan, 0.1],
    })  # fmt: skip
    kinds = ["numeric"] * 3 + ["categorical"] * 2 + ["numeric"]
    schema = {"columns": [{"name": c, "type": t, "nullable": c == "gap"} for c, t in zip(normal, kinds)]}
    hosts = Records("row", make_meta(n), normal, np.zeros((n, 6), bool), schema)
    support = Records("row", make_meta(2, label=1), odd, np.ones((2, 6), bool), schema)
    codec = CODECS["row"].fit(hosts)
    return support, codec.encode(hosts)[0], codec


def test_a_row_mask_keeps_the_cells_that_deviate(rows):
    support, normals, codec = rows
    seeds = [np.random.default_rng(s) for s in range(40)]
    masks = [[row_mask(rng, support, p, normals, codec, share=0.5) for rng in seeds] for p in (0, 1)]
    kept = ~np.array(masks)  # (2, 40, 6)
    assert kept[0][:, [0, 5]].all()  # far number, rare gap
    assert kept[1][:, [2, 4]].all()  # far number, rare category
    assert (~kept).sum(-1).tolist() == [[3] * 40] * 2
    assert len({tuple(m) for m in kept[0]}) > 1  # not always the same cells


@given(share=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_row_mask_makes_some_cells_anew_and_never_all(rows, share, seed):
    support, normals, codec = rows
    mask = row_mask(np.random.default_rng(seed), support, 0, normals, codec, share=share)
    assert mask.shape == (6,) and 1 <= mask.sum() <= 5


def test_a_partial_label_is_kept(rows):
    support, normals, codec = rows
    label = np.zeros((2, 6), bool)
    label[:, 1] = True  # the most usual cell
    marked = Records("row", support.meta, support.x, label, support.schema)
    for seed in range(20):
        assert not row_mask(np.random.default_rng(seed), marked, 0, normals, codec, share=0.8)[1]


# holes


@pytest.mark.parametrize(
    ("modality", "shape"),
    [("image", (32, 48)), ("image", (12, 12)), ("image", (3, 4)), ("series", (100, 5)), ("series", (1, 1)),
     ("row", (1,)), ("row", (17,))],
)  # fmt: skip
def test_random_holes_are_never_empty_and_vary(modality, shape):
    holes = [random_mask(np.random.default_rng(s), shape, modality=modality) for s in range(300)]
    assert all(h.shape == shape and h.dtype == bool and h.any() for h in holes)
    shares = np.array([h.mean() for h in holes])
    if np.prod(shape) > 10:
        assert shares.min() < 0.15 and shares.max() == 1 and 0.05 < np.median(shares) < 0.6
        assert np.mean([h for h in holes], axis=0).min() > 0.05  # every element is hidden at times
    same = random_mask(np.random.default_rng(3), shape, modality=modality)
    assert (same == holes[3]).all()


def test_random_holes_are_cheap():
    rng = np.random.default_rng(0)
    for modality, shape in (("image", (96, 96)), ("series", (128, 30)), ("row", (40,))):
        random_mask(rng, shape, modality=modality)
        start = time.process_time()
        for _ in range(300):
            random_mask(rng, shape, modality=modality)
        assert time.process_time() - start < 0.3  # a thousand a second at the least
