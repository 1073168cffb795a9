"""The do-no-harm gate: exact values, nested choice, and a decision that is refused unless a gain is shown."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from data.records import Records, concat, read_store, write_store
from detection.gate import Candidate, candidates, decide, precision_at, sentence, values
from pipelines.config import ROUNDS
from pipelines.gate import export, folds_of, inner_folds, tied_by

REAL, CLASSICAL, MIXED = (Candidate(arm, "forest", 0.5, False) for arm in ("real", "classical", "mixed"))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_the_mean_value_is_the_average_precision(positive, negative):
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    expected = average_precision_score(labels, np.r_[positive, negative])
    assert precision_at(np.array(positive, float), np.array(negative, float)).mean() == pytest.approx(expected)


def test_precision_at_a_positive_counts_what_scores_no_less():
    np.testing.assert_allclose(precision_at(np.array([3.0, 1.0]), np.array([2.0, 1.0, 0.0])), [1.0, 2 / 4])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12),
       st.lists(st.tuples(st.integers(0, 6), st.floats(0.1, 9)), min_size=1, max_size=12),
       st.floats(0.1, 9))  # fmt: skip
def test_weights_are_those_of_an_average_precision_with_them(positive, negative, weight):
    scores, weights = np.array(negative).T
    expected = average_precision_score(np.r_[np.ones(len(positive)), np.zeros(len(scores))], np.r_[positive, scores],
                                       sample_weight=np.r_[np.full(len(positive), weight), weights])  # fmt: skip
    found = precision_at(np.array(positive, float), scores, weight, weights)
    assert found.mean() == pytest.approx(expected)


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_a_share_counts_anomalous_records_as_if_there_were_more_of_them(modality):
    """12 normals and 4 anomalies, of 1/2: each anomaly is given three times."""
    normals, odd = tiny.make(modality)
    rng = np.random.default_rng(0)

    def maps(records):
        shapes = [np.shape(m) if modality == "image" else (len(m),) for m in records.mask]
        return rng.random(len(records)) if modality == "row" else [rng.random(shape) for shape in shapes]

    some, other = maps(normals), maps(odd)
    put = np.concatenate if modality == "row" else lambda parts: [m for part in parts for m in part]
    ids, found = values(concat([normals, odd]), put([some, other]), 0.5)
    _, often = values(concat([normals, odd, odd, odd]), put([some, other, other, other]))
    assert ids == list(odd.meta["id"])
    np.testing.assert_allclose(found, often[:4])
    as_given = values(concat([normals, odd]), put([some, other]))[1]
    np.testing.assert_allclose(values(concat([normals, odd]), put([some, other]), 0.25)[1], as_given)
    assert (found > as_given).all()


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_a_perfect_map_gives_every_anomaly_the_value_one(modality):
    records = concat(list(tiny.make(modality)))
    if modality == "row":
        maps = records.meta["label"].to_numpy(float)
    else:
        maps = [np.asarray(m if modality == "image" else m.any(1), float) for m in records.mask]
    ids, found = values(records, maps)
    assert ids == list(records.meta["id"][records.meta["label"] == 1])
    np.testing.assert_array_equal(found, 1.0)


def test_a_missed_anomaly_has_a_low_value_and_leaves_the_others_theirs():
    records = concat(list(tiny.make("image")))
    maps = [np.asarray(m, float) for m in records.mask]
    odd = int(np.flatnonzero(records.meta["label"] == 1)[1])
    maps[odd] = np.full(maps[odd].shape, -1.0)
    _, found = values(records, maps)
    total = sum(m.size for m in maps)
    hits = sum(m.sum() for m in records.mask)
    np.testing.assert_allclose(found, [1.0, hits / total, 1.0, 1.0])


def test_candidates_start_with_the_simple_and_unsupervised_ones_see_the_real_alone():
    made = list(candidates(["mixed", "real"], ["forest", "pca"], [0.5, 0.8], fuse=True))
    told = [(c.arm, c.detector, c.weight, c.fuse) for c in made]
    assert told == [
        ("real", "forest", 0.5, False), ("real", "forest", 0.5, True), ("real", "pca", 0.5, False),
        ("real", "pca", 0.5, True), ("mixed", "forest", 0.5, False), ("mixed", "forest", 0.5, True),
        ("mixed", "forest", 0.8, False), ("mixed", "forest", 0.8, True),
    ]  # fmt: skip
    assert [c.generated for c in made] == [False] * 4 + [True] * 4


def run(table, block=None, **options) -> dict:
    table = np.array(table, float)
    ids = [f"a{i}" for i in range(table.shape[1])]
    return decide([REAL, CLASSICAL, MIXED], table, ids, block or [str(i % 2) for i in range(len(ids))], **options)


def test_a_steady_gain_is_accepted_and_measured_over_the_best_simple_arm():
    said = run([[0.2] * 6, [0.4] * 6, [0.5, 0.52, 0.48, 0.5, 0.51, 0.49]])
    assert said["accepted"] and said["chosen"]["arm"] == "mixed" and said["reference"]["arm"] == "classical"
    assert said["gain"]["mean"] == pytest.approx(0.1)
    assert "used" in sentence(said, "ap")


def test_a_gain_that_could_be_chance_is_refused_with_its_figure():
    said = run([[0.2] * 6, [0.4] * 6, [0.9, 0.1, 0.9, 0.1, 0.4, 0.4]])
    assert not said["accepted"] and said["chosen"] == said["reference"] and said["best"]["arm"] == "mixed"
    assert said["gain"]["low"] < 0 < said["gain"]["high"]
    assert "not used" in sentence(said, "ap") and "classical" in sentence(said, "ap")


def test_a_refusal_tells_the_confidence_at_which_it_would_accept():
    table = [[0.2] * 6, [0.4] * 6, [0.9, 0.1, 0.9, 0.1, 0.6, 0.6]]
    holds = run(table)["holds_at"]
    assert 0.5 < holds < 0.9 and f"interval of {int(100 * holds)} % would" in sentence(run(table), "ap")
    assert run(table, confidence=holds - 1e-6)["accepted"] and not run(table, confidence=holds + 1e-6)["accepted"]
    worse = run([[0.2] * 6, [0.7] * 6, table[2]])
    assert worse["holds_at"] == 0 and "would lie" not in sentence(worse, "ap")


def test_the_sentence_does_not_contradict_itself_by_rounding():
    """Refused at 95 %, so no interval of 95 % lies above 0, and a bound that is not 0 shows its sign."""
    said = {"gain": {"mean": 0.021, "low": -0.0004, "high": 0.043}, "reference": REAL.told(), "best": MIXED.told(),
            "accepted": False, "holds_at": 0.9478, "anomalies": 10}  # fmt: skip
    text = sentence(said, "ap")
    assert "+0.021 (-0.0004 to +0.043, 10 anomalies)" in text and "an interval of 94 % would lie above 0" in text
    said |= {"accepted": True, "gain": {"mean": 0.021, "low": 0.00004, "high": 0.042}}
    assert "Generations are used: " in sentence(said, "ap") and "(+0.00004 to +0.042, " in sentence(said, "ap")


def test_a_fold_is_measured_with_what_the_other_folds_chose():
    """On fold 0 `real` is best by far, on fold 1 `classical`: each fold is held against the other's favourite."""
    table = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]
    said = run(table, ["0", "0", "1", "1"])
    np.testing.assert_allclose(said["gain"]["values"], 0.5)  # 0.5 - 0 everywhere; the optimist's way gives -0.5 or 0


def test_an_anomaly_in_two_supports_counts_once_and_never_judges_its_own_choice():
    table = np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [0.3, 0.5, 0.2]])
    said = decide([REAL, CLASSICAL, MIXED], table, ["a", "a", "b"], ["0/0", "1/0", "1/1"])
    assert said["anomalies"] == 2
    np.testing.assert_allclose(sorted(said["gain"]["values"]), [0.1, 0.3])


def test_without_anomalies_or_without_both_sides_nothing_is_accepted():
    empty = decide([REAL, MIXED], np.zeros((2, 0)), [], [])
    assert not empty["accepted"] and empty["chosen"]["arm"] == "real" and "Too few" in sentence(empty, "ap")
    one = decide([REAL, CLASSICAL], np.ones((2, 4)), list("abcd"), ["0", "1"] * 2)
    assert not one["accepted"] and one["best"] is None


def test_windows_of_one_incident_count_once():
    """Five windows of one incident that gain, one each of two that lose: three gains, whose mean is below 0."""
    pool = tiny.make("series", 8, 7)[1]
    width = len(pool.x[0])
    start = [0, width, 2 * width, 3 * width, 4 * width, 9 * width, 12 * width]  # the first five touch
    pool = pool.with_meta(group="pump", start=start)
    tied = tied_by(pool)
    units = [tied[name] for name in pool.meta["id"]]
    assert len(set(units)) == 3 and len(set(units[:5])) == 1
    table = np.zeros((3, 7))
    table[2] = [0.5, 0.4, 0.5, 0.4, 0.5, -0.6, -0.5]
    block = ["0/0"] * 5 + ["0/1"] * 2
    said = decide([REAL, CLASSICAL, MIXED], table, units, block)
    assert said["anomalies"] == len(said["gain"]["values"]) == 3
    assert len(decide([REAL, CLASSICAL, MIXED], table, list(pool.meta["id"]), block)["gain"]["values"]) == 7


def test_anomalies_that_are_all_of_one_group_count_each_by_itself():
    odd = tiny.make("row", 9, 6)[1].with_meta(group="lot")
    assert tied_by(odd) == {name: name for name in odd.meta["id"]}


def test_normals_of_one_group_are_parted_by_record_where_a_fold_must_have_some():
    from data.split import blocks

    normals, odd = tiny.make("row", 9, 6)
    one, many = normals.with_meta(group="lot"), normals.with_meta(group=[f"g{i // 2}" for i in range(9)])
    folds = inner_folds(one, odd, tied_by(odd), 3)
    counts = [[folds[name] for name in part.meta["id"]].count(0) for part in (one, odd)]
    assert counts[0] in (4, 5) and counts[1] == 3 and folds == inner_folds(one, odd, tied_by(odd), 3)
    folds = inner_folds(many, odd, tied_by(odd), 3)
    assert all(len({folds[i] for i, g in blocks(many).items() if g == group}) == 1 for group in set(many.meta["group"]))


def test_anomalies_of_one_group_are_parted_by_record_where_both_folds_must_have_some():
    normals, odd = tiny.make("row", 9, 6)
    odd = odd.with_meta(group="lot")
    folds = inner_folds(normals, odd, tied_by(odd), 3)
    assert [folds[name] for name in odd.meta["id"]].count(0) == 3
    pairs = odd.with_meta(group=[f"g{i // 3}" for i in range(6)])
    folds = inner_folds(normals, pairs, tied_by(pairs), 3)
    assert len({folds[i] for i in pairs.meta["id"][:3]}) == len({folds[i] for i in pairs.meta["id"][3:]}) == 1
    two = inner_folds(normals, odd.take([0, 1]), tied_by(odd), 3)
    assert {two[name] for name in odd.meta["id"][:2]} == {0, 1}


def test_a_fold_that_leaves_one_anomaly_is_not_looked_at():
    folds = {"a": 0, "b": 0, "c": 1, "d": 2, "n": 3}
    plan = {"supports": [["a", "b", "c"], ["a", "b", "c", "d"], ["a", "c"]], "folds": [folds] * 3}
    assert [folds_of(plan, seed) for seed in range(3)] == [[1], [0, 1, 2], []]


@pytest.mark.parametrize("modality", ["image", "series"])
@pytest.mark.parametrize("arm", ["classical", "filtered"])
def test_what_is_exported_is_what_was_measured(tmp_path, modality, arm):
    """The generations with their twins, where the detectors that the gate measured had them."""
    fit, odd = tiny.make(modality)
    hosts = fit.take(np.arange(len(odd)))
    for r in ROUNDS:
        meta = odd.meta.assign(id=[f"r{r}-{i}" for i in range(len(odd))], synthetic=True, host=list(hosts.meta["id"]))
        made = Records(modality, meta, odd.x, odd.mask, odd.schema, odd.time, hosts.x)
        for part in ("generated", "kept"):
            write_store(tmp_path / f"r{r}" / part / "seed0", made)
    paths = SimpleNamespace(round=lambda r: tmp_path / f"r{r}", training=tmp_path / "training")
    export(SimpleNamespace(paths=paths, seeds=[0]), {"arm": arm}, fit, odd)
    out, added = read_store(paths.training), len(ROUNDS) * len(odd)
    twins = out.meta["id"].str.endswith("-control").to_numpy()
    assert twins.sum() == (added if (modality, arm) == ("image", "filtered") else 0)
    assert out.meta["synthetic"].sum() == added + twins.sum() and (out.meta["label"] != 0).sum() == len(odd) + added
    named = dict(zip(out.meta["id"], range(len(out))))
    for name in out.meta["id"][twins]:
        own = out.meta.iloc[named[name]]
        np.testing.assert_array_equal(out.x[named[name]], out.x[named[own["host"]]])
        assert (own["label"], own["kind"], own["synthetic"]) == (0, "normal", True) and not out.mask[named[name]].any()


def test_pure_noise_is_seldom_accepted():
    """The paired interval holds its level where generations do nothing: at most 8 of 100 at a one-sided 2.5 %."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        hits += run(np.clip(rng.normal(0.5, 0.2, (3, 20)), 0, 1))["accepted"]
    assert hits <= 8


def test_a_value_is_a_number_of_json():
    import json

    said = run([[0.2] * 4, [0.4] * 4, [0.5, 0.52, 0.48, 0.5]])
    assert json.loads(json.dumps(said)) == said
    assert pd.DataFrame(said["candidates"])["mean"].tolist() == pytest.approx([0.2, 0.4, 0.5])
