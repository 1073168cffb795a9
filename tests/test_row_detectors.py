"""The row detectors and the fusing of ranks: exact answers, oracles, planted anomalies, reload, batches."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import cdist
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.ensemble import IsolationForest as Oracle
from sklearn.metrics import average_precision_score, roc_auc_score

from data.errors import InputError
from data.records import Records, concat, make_meta
from detection import forests, fuse, rows

SMALL = {"knn": lambda: rows.KNN(), "iforest": lambda: rows.IsolationForest(trees=50),
         "forest": lambda: rows.Forest(trees=60), "lightgbm": lambda: rows.LightGBM(rounds=60)}  # fmt: skip
every = pytest.mark.parametrize("name", SMALL)
COLUMNS = [
    {"name": "amount", "type": "numeric", "nullable": True},
    {"name": "count", "type": "integer", "nullable": False},
    {"name": "shop", "type": "categorical", "nullable": True, "categories": ["a", "b", "c", "d"]},
    {"name": "night", "type": "boolean", "nullable": False},
    {"name": "day", "type": "date", "nullable": False},
]


def purchases(n: int, seed: int, *, odd: bool = False) -> Records:
    """Rows of every type; odd ones are large, at shop d, or of a late day with a missing amount."""
    rng = np.random.default_rng(seed)
    amount, shop = rng.normal(size=n), rng.choice(["a", "b", "c"], n).astype(object)
    count, day = rng.poisson(5, n), rng.integers(0, 300, n)
    if odd:
        amount, count, shop, day = amount + 4, count + 6, np.full(n, "d", object), day + 200
    amount[rng.random(n) < 0.1] = np.nan
    shop[rng.random(n) < 0.1] = None
    frame = pd.DataFrame({
        "amount": amount, "count": pd.array(count, dtype="Int64"), "shop": pd.array(shop, dtype="string"),
        "night": pd.array(rng.random(n) < 0.3, dtype="boolean"),
        "day": (np.datetime64("2020-01-01", "ns") + day * np.timedelta64(86_400 * 10**9, "ns")),
    })  # fmt: skip
    mask = np.full((n, len(COLUMNS)), odd)
    meta = make_meta(n, id=[f"{odd}-{seed}-{i}" for i in range(n)], label=int(odd))
    return Records("row", meta, frame, mask, {"columns": COLUMNS})


def numbers(x: np.ndarray, label) -> Records:
    frame = pd.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])])
    columns = [{"name": name, "type": "numeric", "nullable": False} for name in frame]
    meta = make_meta(len(x), label=label)
    return Records("row", meta, frame, np.zeros(x.shape, bool), {"columns": columns})


@pytest.fixture(scope="module")
def fitted() -> dict:
    training = concat([purchases(400, 1), purchases(15, 2, odd=True)])
    return {name: make().fit(training, seed=3) for name, make in SMALL.items()}


# ---------------------------------------------------------------- every detector

@every
def test_planted_anomalies_are_found(fitted, name):
    fresh = concat([purchases(300, 11), purchases(60, 12, odd=True)])
    scores = fitted[name].score(fresh)
    assert scores.shape == (360,) and scores.dtype == np.float32
    assert roc_auc_score(fresh.meta["label"], scores) > 0.92


@every
def test_a_score_does_not_depend_on_its_batch(fitted, name):
    fresh = concat([purchases(15, 21), purchases(5, 22, odd=True)])
    together, order = fitted[name].score_map(fresh), [17, 3, 9]
    np.testing.assert_array_equal(fitted[name].score_map(fresh.take(order)), together[order])
    alone = [fitted[name].score(fresh.take([i]))[0] for i in range(len(fresh))]
    np.testing.assert_array_equal(alone, together)
    assert fitted[name].score(fresh.take([])).shape == (0,)


@every
def test_scores_are_the_same_to_the_bit_after_reload(fitted, name, tmp_path):
    arrays, config = fitted[name].state()
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    config = json.loads(json.dumps(config))
    again = type(fitted[name]).from_state(load_file(tmp_path / "model.safetensors"), config)
    fresh = concat([purchases(100, 31), purchases(20, 32, odd=True)])
    np.testing.assert_array_equal(again.score(fresh), fitted[name].score(fresh))
    assert json.loads(json.dumps(again.state()[1])) == config


@every
def test_the_seed_decides_the_fit(name):
    training, fresh = concat([purchases(100, 1), purchases(10, 2, odd=True)]), purchases(20, 3)
    first, same = (SMALL[name]().fit(training, seed=5).score(fresh) for _ in range(2))
    np.testing.assert_array_equal(first, same)


@every
def test_without_normals_the_error_says_so(name):
    with pytest.raises(InputError, match="at least one normal"):
        SMALL[name]().fit(purchases(5, 0, odd=True), seed=0)


@pytest.mark.parametrize("name", ["forest", "lightgbm"])
def test_supervised_detectors_need_an_anomaly(name):
    with pytest.raises(InputError, match="at least one anomaly"):
        SMALL[name]().fit(purchases(5, 0), seed=0)


@pytest.mark.parametrize("name", ["forest", "lightgbm"])
def test_records_of_weight_zero_are_not_seen(name):
    training, fresh = concat([purchases(100, 1), purchases(10, 2, odd=True)]), purchases(20, 3, odd=True)
    silent = concat([training, purchases(10, 4, odd=True)])
    silent = Records("row", silent.meta.assign(weight=[1.0] * 110 + [0.0] * 10), silent.x, silent.mask,
                     silent.schema)  # fmt: skip
    np.testing.assert_array_equal(SMALL[name]().fit(silent, seed=0).score(fresh),
                                  SMALL[name]().fit(training, seed=0).score(fresh))  # fmt: skip


@pytest.mark.parametrize("name", ["knn", "iforest"])
def test_unsupervised_detectors_look_at_normals_alone(name):
    normals, fresh = purchases(100, 1), purchases(10, 2, odd=True)
    both = concat([normals, purchases(10, 3, odd=True)])
    alone = SMALL[name]().fit(normals, seed=0).score(fresh)
    np.testing.assert_array_equal(SMALL[name]().fit(both, seed=0).score(fresh), alone)


# ---------------------------------------------------------------- oracles and exact answers

def test_the_forest_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(400, 6)), rng.uniform(0.5, 2, 400)
    label = (x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=400) > 1).astype(int)
    trees = forests.grow_balanced(x, label, weight, trees=30, leaf=3, seed=4)
    oracle = ExtraTreesClassifier(30, min_samples_leaf=3, max_features="sqrt", random_state=4)
    fresh = rng.normal(size=(20_000, 6))
    expected = oracle.fit(x.astype(np.float32), label, weight).predict_proba(fresh.astype(np.float32))[:, 1]
    np.testing.assert_allclose(trees.mean(fresh), expected, atol=1e-12)
    np.testing.assert_array_equal(trees.mean(fresh, jobs=1), trees.mean(fresh, jobs=3))


def test_the_isolation_forest_is_that_of_sklearn():
    records = numbers(np.random.default_rng(0).normal(size=(500, 4)), 0)
    ours = rows.IsolationForest(trees=40, sample=128).fit(records, seed=2)
    x = ours.codec.encode(records)[0].astype(np.float32)
    oracle = Oracle(n_estimators=40, max_samples=128, random_state=2).fit(x)
    np.testing.assert_allclose(ours.score(records), -oracle.score_samples(x), rtol=1e-6)


def test_joined_trees_answer_with_the_mean_of_both():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(200, 5)), rng.integers(0, 2, 200)
    whole = forests.grow_balanced(x, label, np.ones(200), trees=10, leaf=2, seed=0)
    part = forests.grow_balanced(x[:, 2:], label, np.ones(200), trees=10, leaf=2, seed=1)
    expected = (whole.mean(x) + part.mean(x[:, 2:])) / 2
    np.testing.assert_allclose(whole.joined(part, 2).mean(x), expected, atol=1e-12)


def test_numbers_beyond_float32_are_still_scored():
    x = np.random.default_rng(0).normal(size=(50, 2))
    trees = forests.grow_balanced(x, x[:, 0] > 1, np.ones(50), trees=5, leaf=1, seed=0)
    np.testing.assert_array_equal(trees.mean(np.array([[1e300, 0.0]])), trees.mean(np.array([[1e30, 0.0]])))


@pytest.mark.parametrize("columns", [3, 25], ids=["tree", "brute"])
def test_the_nearest_normals_are_those_of_a_full_table(columns):
    rng = np.random.default_rng(0)
    normals = numbers(rng.normal(size=(300, columns)), 0)
    fresh = numbers(2 * rng.normal(size=(50, columns)), 0)
    knn = rows.KNN(k=4).fit(normals, seed=0)
    table = cdist(knn.codec.encode(fresh)[0], knn.codec.encode(normals)[0])
    np.testing.assert_allclose(knn.score(fresh), np.sort(table, axis=1)[:, :4].mean(1), rtol=1e-6)


def test_fewer_normals_than_neighbours_will_do():
    normals = numbers(np.array([[0.0], [1.0]]), 0)
    assert np.isfinite(rows.KNN(k=5).fit(normals, seed=0).score(normals)).all()


def test_balanced_weights_by_hand():
    label, made = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1, 1], bool)
    plain = forests.balanced_weights(label, np.zeros(7, bool)) / 7
    np.testing.assert_allclose(plain, [1 / 6] * 3 + [1 / 8] * 4)
    half = forests.balanced_weights(label, made) / 7
    np.testing.assert_allclose(half, [1 / 6] * 3 + [1 / 4] + [1 / 12] * 3)
    natural = forests.balanced_weights(label, made, real_share=0.1) / 7  # a quarter is real already
    np.testing.assert_allclose(natural, [1 / 6] * 3 + [1 / 8] * 4)
    weighed = forests.balanced_weights(label, made, np.array([2.0, 1, 1, 5, 0, 1, 3])) / 7
    expected = np.array([1 / 4, 1 / 8, 1 / 8, 0.5 * 5 / 9, 0, 0.5 * 1 / 9, 0.5 * 3 / 9])
    np.testing.assert_allclose(weighed, expected * 6 / 7)  # six records have a weight
    alone = forests.balanced_weights(label[[0, 4]], made[[0, 4]]) / 2
    np.testing.assert_allclose(alone, [0.5, 0.5])


@pytest.mark.parametrize("weight", [np.array([1.0, -1.0]), np.array([1.0, np.nan])])
def test_weights_must_be_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match="finite and not negative"):
        forests.balanced_weights(np.array([0, 1]), np.zeros(2, bool), weight)


def test_cells_reach_lightgbm_as_they_are():
    records = purchases(4, 0)
    frame = records.x.assign(
        amount=[1.5, np.nan, 0.0, 2.0], count=pd.array([1, 2, 3, None], dtype="Int64"),
        shop=pd.array(["b", None, "d", "new"], dtype="string"), night=pd.array([True, False, None, True]),
        day=np.array(["1970-01-02", "NaT", "1970-01-03T12", "1970-01-01"], "datetime64[ns]"),
    )  # fmt: skip
    nan = np.nan
    expected = [[1.5, 1, 1, 1, 1], [nan, 2, nan, 0, nan], [0, 3, 3, nan, 2.5], [2, nan, nan, 1, 0]]
    np.testing.assert_array_equal(rows.native(COLUMNS, frame), expected)


@pytest.mark.parametrize("sign", ["missing", "category"])
def test_lightgbm_reads_gaps_and_categories(sign):
    """Rows differ in nothing but a gap, or a category in the middle of the code range."""
    normals, odd = purchases(300, 1), purchases(30, 2)
    odd = Records("row", odd.meta.assign(label=1), odd.x.copy(), odd.mask, odd.schema)
    if sign == "missing":
        normals.x["amount"], odd.x["amount"] = 0.0, np.nan
    else:
        normals.x["shop"] = pd.array(["a", "c", "d"] * 100, dtype="string")
        odd.x["shop"] = pd.array(["b"] * 30, dtype="string")
    both = concat([normals, odd.take(range(15))])
    detector = rows.LightGBM(rounds=60).fit(both, seed=0)
    assert detector.score(odd.take(range(15, 30))).min() > 0.75 > 0.25 > detector.score(normals).max()


# ---------------------------------------------------------------- fusing ranks

def test_percentiles_by_hand():
    """Reference 1, 2, 2, 5: mid-ranks 1/8, 1/2, 7/8, linear between; the last 1/8 halves at
    log(1 + z) = 1."""
    reference = np.array([2.0, 1, 5, 2])
    np.testing.assert_allclose(fuse.percentile(np.array([1, 2, 5, 1.5, 4]), reference),
                               [1 / 8, 1 / 2, 7 / 8, 5 / 16, 3 / 4])  # fmt: skip
    step = (np.e - 1) * reference.std()
    np.testing.assert_allclose(fuse.percentile(np.array([5 + step, 1 - step]), reference), [15 / 16, 1 / 16])


@settings(max_examples=60, deadline=None)
@example([2.2e-311, -2.2e-311], [0.0, 0.0])
@example([1.0, 1.0, 1.0, 1.166489199276474e-280, -92743.25], [0.0, 5.608193282174663e-223])
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.lists(st.floats(-1e6, 1e6), min_size=2))
def test_percentiles_never_decrease_and_stay_inside(reference, scores):
    out = fuse.percentile(np.sort(scores), np.array(reference))
    assert (np.diff(out) >= 0).all() and (out > 0).all() and (out < 1).all()


def test_scores_above_every_normal_stay_apart():
    reference = np.random.default_rng(0).normal(size=1000)
    out = fuse.percentile(reference.max() + np.array([0, 1e-6, 1, 10, 1e3, 1e6, 1e9]), reference)
    assert (np.diff(out) > 0).all()
    assert (np.diff(fuse.percentile(np.array([1.0, 2, 3]), np.ones(5))) > 0).all()  # a constant reference
    for alike in (np.zeros(50), np.full(50, 0.1), np.r_[0.1, np.full(49, 0.3)]):  # the std of 0.1 rounds to 1e-17
        most = fuse.percentile(np.array([alike[-1] + 1, alike[-1] + 1e-9]), alike)
        assert (most > 1 - 0.5 / 50).all() and 0.99 < most[0] < 0.999, "beyond all normals, though they are equal"


def test_fusing_is_the_mean_surprise_and_ignores_the_batch():
    rng = np.random.default_rng(0)
    scores, reference = [rng.normal(size=9), 100 * rng.random(9)], [rng.normal(size=50), 100 * rng.random(30)]
    whole = fuse.rank_fuse(scores, reference)
    p, q = (fuse.percentile(part, base) for part, base in zip(scores, reference))
    np.testing.assert_allclose(np.exp(-2 * whole), (1 - p) * (1 - q))
    alone = [fuse.rank_fuse([s[[i]] for s in scores], reference)[0] for i in range(9)]
    np.testing.assert_array_equal(alone, whole)
    scaled = fuse.rank_fuse([scores[0], 7 * scores[1] - 3], [reference[0], 7 * reference[1] - 3])
    np.testing.assert_allclose(scaled, whole, rtol=1e-9)


def test_a_weak_detector_does_not_drown_a_strong_one():
    """One in a hundred is odd by 3.5 to the one detector, by half a standard deviation to the other."""
    rng = np.random.default_rng(0)
    odd = np.arange(20_000) < 200
    strong, weak = (rng.normal(size=20_000) + shift * odd for shift in (3.5, 0.5))
    reference = [rng.normal(size=5000), rng.normal(size=5000)]
    alone, both = (average_precision_score(odd, s) for s in (strong, fuse.rank_fuse([strong, weak], reference)))
    assert both > 0.85 * alone > 0.6
    fair = rng.normal(size=20_000) + 3 * odd
    assert average_precision_score(odd, fuse.rank_fuse([strong, fair], reference)) > alone + 0.05


def test_fusing_refuses_what_does_not_match():
    one = np.zeros(3)
    for scores, reference in (([one], []), ([], []), ([one, one[:2]], [one, one]), ([one], [one[:0]]),
                              ([one * np.nan], [one])):  # fmt: skip
        with pytest.raises(ValueError):
            fuse.rank_fuse(scores, reference)
