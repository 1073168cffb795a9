"""Standard augmentation: what it may change, and that label and data move together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_classical import SETS, images, items, same

from data.errors import InputError
from data.records import Records, make_meta
from generation.augment import augment, image_one, series_one
from generation.classical import classical

SEEDS = [3, 2**52 + 1, 9, 14, 0, 77]


@pytest.mark.parametrize("modality", list(SETS))
def test_a_copy_depends_on_its_seed_not_on_its_batch(modality):
    normals, support = SETS[modality]
    whole, part = augment(support, SEEDS, normals), augment(support, [SEEDS[4], SEEDS[1]], normals)
    for k, i in enumerate((4, 1)):
        assert same(items(whole)[i], items(part)[k])
        assert np.array_equal(whole.mask[i], part.mask[k])
        assert whole.meta.iloc[i].equals(part.meta.iloc[k])
    assert len(augment(support, [], normals)) == 0


@pytest.mark.parametrize("modality", list(SETS))
def test_label_kind_and_parent_are_kept(modality):
    normals, support = SETS[modality]
    made = augment(support, list(range(40)), normals)
    assert (made.meta["label"] == 1).all() and made.meta["label"].dtype == np.int8
    assert (made.meta["generator"] == "standard").all() and made.meta["synthetic"].all()
    assert {p for (p,) in made.meta["parents"]} == set(support.meta["id"])
    parent = support.take([support.meta["id"].tolist().index(p) for (p,) in made.meta["parents"]])
    assert (made.meta["kind"] == parent.meta["kind"]).all()
    moved = 0
    for a, b, mask, old in zip(items(made), items(parent), made.mask, parent.mask):
        moved += not same(a, b)
        assert mask.any() == old.any() and mask.shape == old.shape
    assert moved > 30


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_and_mask_move_together(dtype, channels):
    """The defect is black on grey, so the mask must sit on what is dark."""
    support = images([(48, 60), (50, 50)], dtype=dtype, channels=channels, label=1, contrast=-0.5, spot=9)
    made = augment(support, list(range(40)), support)
    white = np.iinfo(dtype).max
    for x, mask in zip(made.x, made.mask):
        assert x.dtype == dtype and x.ndim == (2 if channels == 1 else 3)
        grey = x / white if channels == 1 else x.mean(2) / white
        assert grey[mask].mean() < grey[~mask].mean() - 0.3
        assert grey[~mask].min() > 0.1 or mask.sum() < 81 * 1.5
    centres = np.array([[v.mean() for v in np.nonzero(m)] for m in made.mask])
    assert (centres.std(0) > 0.5).all()


def test_uint16_keeps_more_than_256_levels():
    image = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    outs = [image_one(image, np.ones((64, 64), bool), s)[0] for s in range(5)]
    assert all(len(np.unique(x)) > 1000 for x in outs)


def test_a_defect_is_never_lost_by_the_geometry():
    mask = np.zeros((40, 40), bool)
    mask[0, 0] = True
    image = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    assert all(image_one(image, mask, s)[1].any() for s in range(60))


def test_a_series_is_warped_with_its_mask():
    x = np.zeros((100, 2))
    x[40:60, 0] = 10
    mask = x > 5
    for seed in range(20):
        out, label = series_one(x, mask, np.random.default_rng(seed), np.ones(2))
        assert out[label].min() > 4 and out[~label].max() < 6
        assert 12 <= label.sum() <= 30


def test_a_series_holds_what_its_channels_can_take():
    """A flag stays one, a count whole and not below 0, a reading of one decimal has one."""
    rng, count = np.random.default_rng(0), 12
    x = [np.stack([rng.integers(0, 2, 40), rng.poisson(0.8, 40) * 100 + rng.integers(0, 90, 40),
                   np.round(rng.normal(20, 3, 40), 1)], axis=1).astype(float) for _ in range(count)]  # fmt: skip
    mask = [np.ones((40, 3), bool) for _ in range(count)]
    time = [np.arange(40)] * count
    meta = make_meta(count, id=[f"w{i}" for i in range(count)])
    every = Records("series", meta, x, mask, {"channels": ["flag", "hits", "heat"]}, time)
    made = np.concatenate(augment(every.take(range(8, 12)), list(range(30)), every.take(range(8))).x)
    assert set(np.unique(made[:, 0])) == {0, 1}
    assert made[:, 1].min() >= 0 and (made[:, 1] == np.round(made[:, 1])).all()
    np.testing.assert_allclose(made[:, 2], np.round(made[:, 2], 1), atol=1e-12)
    assert len(np.unique(made[:, 2])) > 60


def test_amounts_stay_amounts():
    """Anomalies at the low end of amounts: no noise takes them below 0, or far below what there is."""
    columns = {"columns": [{"name": "a", "type": "numeric", "nullable": False}]}
    meta = make_meta(310, id=[f"r{i}" for i in range(310)])
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"a": np.r_[rng.lognormal(5, 1, 300), rng.uniform(0, 0.01, 10)]})
    every = Records("row", meta, x, np.ones((310, 1), bool), columns)
    normals, support = every.take(range(300)), every.take(range(300, 310))
    arms = [augment(support, list(range(80)), normals), classical("row", normals, support, list(range(80)))]
    assert min(arm.x["a"].min() for arm in arms) >= 0


def test_rows_get_small_noise_on_numbers_only():
    normals, support = SETS["row"]
    made = augment(support, list(range(60)), normals)
    parent = support.take([support.meta["id"].tolist().index(p) for (p,) in made.meta["parents"]])
    for column in ("colour", "flag"):
        assert (made.x[column] == parent.x[column]).all()
    assert (made.x["gap"].isna() == parent.x["gap"].isna()).all()
    change = (made.x["amount"] - parent.x["amount"]).abs() / parent.x["amount"]
    assert 0 < change.median() < 0.2
    assert (made.x.dtypes == support.x.dtypes).all()


def test_nothing_to_augment_is_an_input_error():
    empty = Records("image", make_meta(0), [], [], {})
    with pytest.raises(InputError, match="at least one"):
        augment(empty, [1], empty)


def test_rows_move_by_what_all_rows_say_of_a_number():
    """Three anomalies at 50 among normals from 0 to 100: a twentieth of a spread is two, not what parts the three."""
    columns = {"columns": [{"name": "a", "type": "numeric", "nullable": False}]}
    meta = make_meta(1003, id=[f"r{i}" for i in range(1003)])
    x = pd.DataFrame({"a": np.r_[np.arange(1000) / 10, 50.1, 50.2, 50.3]})
    every = Records("row", meta, x, np.zeros((1003, 1), bool), columns)
    made = augment(every.take([1000, 1001, 1002]), list(range(60)), every.take(range(1000)))
    assert 0.5 < (made.x["a"] - 50.2).abs().median() < 4


def test_flips_turns_and_the_rest_are_drawn_apart():
    """Of a square all eight orientations, and hardly a copy: one draw for all of them gave four, and three in ten."""
    image = np.random.default_rng(0).integers(0, 255, (24, 24)).astype(np.uint8)
    image[:12, :8] = 255  # a corner that tells how it lies
    mask = np.zeros((24, 24), bool)
    mask[2:5, 2:9] = True
    made = [image_one(image, mask, seed) for seed in range(300)]
    assert np.mean([np.array_equal(x, image) for x, _ in made]) < 0.05
    lying = {(m.any(1).sum() > m.any(0).sum(), *(np.array(np.nonzero(m)).mean(1) > 11.5)) for _, m in made if m.any()}
    assert len(lying) == 8
