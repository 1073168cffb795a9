"""How denoised values come back onto their hosts, and what each arm of an evaluation is trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny

from data.records import Records, concat, make_meta
from detection.arms import ARMS, additions, as_normals, training_set
from detection.evaluation import measure, timeline
from generation.classical import classical
from generation.paste import bridge, paste_images, taper, tidy


def test_tidy_drops_specks_fills_holes_and_leaves_the_rest():
    mask = np.zeros((20, 20), bool)
    mask[2:9, 2:9] = True
    mask[4:6, 4:6] = False  # a hole
    mask[15, 15] = True  # a speck
    want = np.zeros((20, 20), bool)
    want[2:9, 2:9] = True
    np.testing.assert_array_equal(tidy(mask), want)
    edge = np.zeros((8, 8), bool)
    edge[:3, :3] = True
    np.testing.assert_array_equal(tidy(edge), edge)  # what touches the border is not eaten away


def test_a_hole_in_what_was_edited_is_no_anomaly():
    """A ring is edited, what it surrounds is the host's: labelled is what changed, bit for bit."""
    rng = np.random.default_rng(0)
    hosts = Records("image", make_meta(1, id=["h"]), [rng.integers(90, 120, (40, 40)).astype(np.uint8)],
                    [np.zeros((40, 40), bool)], {})  # fmt: skip
    ring = np.zeros((40, 40), bool)
    ring[8:32, 8:32], ring[11:29, 11:29] = True, False
    support = Records("image", make_meta(1, id=["a"], label=[1], kind=["k"]), hosts.x, [ring], {})
    plan = pd.DataFrame({"host": [0], "parent": [0], "seed": [5], "kind": ["k"], "severity_factor": [1.0], "fold": [0],
                         "size": ["any"], "severity_bin": ["any"], "host_bin": ["any"], "place": ["any"]})  # fmt: skip
    made, control = np.full((1, 3, 40, 40), 0.9), np.full((1, 3, 40, 40), -0.2)
    out = paste_images(hosts, support, plan, [ring], [(0, 0, 40, 40)], made, control, source="random")
    label = out.mask[0]
    assert not label[14:26, 14:26].any() and (label & ring).sum() > 0.9 * ring.sum()
    assert (out.x[0] != hosts.x[0])[label].mean() > 0.95 and list(out.meta["mask_source"]) == ["random"]


def test_taper_fades_both_ends_of_a_long_span_and_no_short_one():
    mask = np.zeros((60, 2), bool)
    mask[5:55, 0] = True
    mask[10:15, 1] = True
    fade = taper(mask)
    np.testing.assert_array_equal(fade[10:15, 1], 1)
    np.testing.assert_allclose(fade[5:9, 0], 0.5 - 0.5 * np.cos(np.pi * np.arange(1, 5) / 5))
    np.testing.assert_allclose(fade[51:55, 0], fade[5:9, 0][::-1])
    assert (fade[~mask] == 0).all() and (fade[9:51, 0] == 1).all()


def test_bridge_joins_short_gaps_only():
    mask = np.zeros((40, 1), bool)
    mask[[5, 6, 10, 25], 0] = True
    joined = bridge(mask, gap=4)[:, 0]
    assert joined[5:11].all() and not joined[11:25].any() and joined[25]


def test_a_timestamp_covered_by_two_windows_counts_once():
    _, support = tiny.make("series", odd=2)
    records = support.with_meta(group=["e", "e"], start=[0, 20])  # windows of 32 that overlap by 12
    maps = [np.zeros(32), np.ones(32)]
    labels, scores = timeline(records, maps)["e"]
    assert len(labels) == len(scores) == 52
    np.testing.assert_array_equal(scores, np.r_[np.zeros(32), np.ones(20)])
    np.testing.assert_array_equal(labels, np.r_[records.mask[0].any(1), records.mask[1].any(1)[12:]])


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_arms_add_what_they_say_and_equally_much(modality):
    fit, support = tiny.make(modality, normals=20, odd=6)
    generated = classical(modality, fit, support, list(range(100, 112)))
    generated = Records(modality, generated.meta, generated.x, generated.mask, fit.schema, generated.time, generated.x)
    kept = generated.take(np.arange(6))
    odd = {}
    for arm in ARMS:
        records = training_set(arm, fit, support, generated, kept, seed=0)
        assert records.meta["id"].is_unique
        real = concat([fit, support]).meta["id"]
        assert set(real) <= set(records.meta["id"])
        odd[arm] = int((records.meta["label"] == 1).sum()) - len(support)
    assert odd == {"real": 0, "standard": 6, "classical": 6, "generated": 12, "dropped": 6, "filtered": 6, "mixed": 6}


@pytest.mark.parametrize("modality", tiny.MODALITIES)
@pytest.mark.parametrize("arm", ["standard", "classical"])
def test_what_an_arm_adds_does_not_depend_on_how_many(arm, modality):
    """The first ten of sixty are the ten of ten."""
    fit, support = tiny.make(modality, normals=40, odd=6)
    few, many = (additions(arm, fit, support, support.take([]), fit.take(np.resize(np.arange(40), n)), seed=0)[0]
                 for n in (10, 60))  # fmt: skip
    pd.testing.assert_frame_equal(few.meta, many.meta.iloc[:10])
    if modality == "row":
        pd.testing.assert_frame_equal(few.x, many.x.iloc[:10])
        return
    for one, other in zip([*few.x, *few.mask], [*many.x[:10], *many.mask[:10]]):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("arm", ["standard", "classical"])
def test_numbers_of_rows_that_an_arm_adds_move(arm):
    """Ties, of a support that is repeated before its quantiles are taken, would hold them fast."""
    fit, support = tiny.make("row", normals=40, odd=6)
    many = additions(arm, fit, support, support.take([]), fit.take(np.resize(np.arange(40), 200)), seed=0)[0]
    assert many.x["amount"].isin(pd.concat([fit.x, support.x])["amount"]).mean() < 0.2


def test_a_generation_in_which_nothing_changed_is_in_no_arm():
    fit, support = tiny.make("image", normals=20, odd=6)
    made = classical("image", fit, support, list(range(12)))
    mask = [m if i % 3 else np.zeros_like(m) for i, m in enumerate(made.mask)]
    made = Records("image", made.meta, made.x, mask, fit.schema, None, made.x)
    kept = made.take([1, 2, 4, 5, 7, 8])
    for seed in range(5):
        for arm, count in (("generated", 8), ("dropped", 6)):
            (added,) = additions(arm, fit, support, made, kept, seed=seed)
            assert len(added) == count and all(m.any() for m in added.mask)


def test_a_grey_record_is_labelled_where_its_grey_changed():
    """Colour that the network drew and no grey record has is no anomaly."""
    host = np.full((32, 32), 128, np.uint8)
    hosts = Records("image", make_meta(1, id=["h"]), [host], [np.zeros((32, 32), bool)], {})
    support = Records("image", make_meta(1, id=["s"], label=1, kind="k"), [host], [np.ones((32, 32), bool)], {})
    row = dict(seed=5, kind="k", size="like", severity_bin="like", place="inner", host_bin="plain", size_factor=1.0,
               severity_factor=1.0, parent=0, host=0, fold=0)  # fmt: skip
    mask, control = np.zeros((32, 32), bool), np.zeros((1, 3, 32, 32), np.float32)
    mask[8:24, 8:24] = True
    made = control.copy()
    made[0, :, 8:24, 8:16] += np.array([0.4, -0.2, -0.2], np.float32)[:, None, None]
    made[0, :, 8:24, 18:22] += 0.4
    out = paste_images(hosts, support, pd.DataFrame([row]), [mask], [(0, 0, 32, 32)], made, control)
    label = out.mask[0]
    assert label[10:22, 18:22].all() and not label[:, 8:15].any()
    assert (out.x[0] != out.control[0])[label].all()


def test_twins_enter_training_as_normals_without_a_mask():
    fit, support = tiny.make("image")
    made = classical("image", fit, support, [1, 2, 3])
    twins = as_normals(Records("image", made.meta, made.x, made.mask, made.schema, None, fit.take([0, 1, 2]).x))
    assert (twins.meta["label"] == 0).all() and not any(m.any() for m in twins.mask)
    np.testing.assert_array_equal(twins.x[1], fit.x[1])
    for modality in ("series", "row"):
        fit, support = tiny.make(modality)
        made = classical(modality, fit, support, [1, 2])
        twins = Records(modality, made.meta, made.x, made.mask, made.schema, made.time, made.x)
        assert as_normals(made) is as_normals(twins) is None


def test_recordings_of_one_label_alone_are_measured_together():
    """Runs that are wholly healthy or wholly faulty: no single one has a precision, all of them have one."""
    records, _ = tiny.make("series", 4, 0)
    faulty = [np.full(m.shape, i > 1) for i, m in enumerate(records.mask)]
    runs = Records("series", records.meta.assign(group=list("abcd"), start=0), records.x, faulty, records.schema)
    right = measure(runs, [np.full(len(x), float(i)) for i, x in enumerate(records.x)])
    wrong = measure(runs, [np.full(len(x), -float(i)) for i, x in enumerate(records.x)])
    assert right["ap"] == right["auroc"] == 1 and right["vus_pr"] > 0.9 > wrong["vus_pr"]
    faulty[0][:8] = True  # one recording holds both: it alone is measured, as before
    one = Records("series", runs.meta, runs.x, faulty, runs.schema)
    scores = [np.where(np.arange(len(x)) < 8, 1.0, 0.0) for x in runs.x]
    alone = measure(one.take([0]), scores[:1])["vus_pr"]
    assert measure(one, scores)["vus_pr"] == pytest.approx(alone)
