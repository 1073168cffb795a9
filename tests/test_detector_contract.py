"""What every detector in DETECTORS promises: an easy planted set is ranked, and nothing depends on company."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from data.records import Records, concat, make_meta
from detection import metrics
from detection.detectors import DETECTORS, detector, name_of
from detection.store import load, save

OPTIONS = {  # small, so that the suite takes seconds
    ("image", "memory"): {"size": 64, "bank": 200},
    ("image", "segmentation"): {"size": 64, "steps": 60},
    ("series", "forest"): {"trees": 40, "kernels": 8},
    ("row", "forest"): {"trees": 40},
    ("row", "lightgbm"): {"rounds": 30},
}
UNSUPERVISED = {"memory", "pca", "knn", "iforest"}
ALL = [(modality, name) for modality, choices in DETECTORS.items() for name in choices
       if find_spec("detection." + DETECTORS[modality][name].address.split(":")[0])]  # fmt: skip
BOTH = pytest.mark.parametrize(("modality", "name"), ALL)


def images(n: int, odd: bool, rng, prefix: str) -> Records:
    """Grey noise of 48 x 56 pixels; an odd one holds a bright square of 12."""
    x, mask = [], []
    for _ in range(n):
        image, where = rng.normal(110, 12, (48, 56)), np.zeros((48, 56), bool)
        if odd:
            top, left = rng.integers(0, 36), rng.integers(0, 44)
            where[top : top + 12, left : left + 12] = True
            image[where] += 90
        x.append(np.clip(image, 0, 255).astype(np.uint8))
        mask.append(where)
    return Records("image", meta(n, odd, prefix), x, mask, {})


def series(n: int, odd: bool, rng, prefix: str) -> Records:
    """Two waves of 64 steps; in an odd record one is shifted for 16 steps."""
    x, mask, time = [], [], []
    for _ in range(n):
        t = np.arange(64) + rng.integers(100)
        value = np.stack([np.sin(t / 4), np.cos(t / 7)], axis=1) + rng.normal(0, 0.1, (64, 2))
        where = np.zeros((64, 2), bool)
        if odd:
            start = rng.integers(0, 48)
            where[start : start + 16, 0] = True
            value[where] += 3
        x.append(value)
        mask.append(where)
        time.append(t.astype(np.int64))
    return Records("series", meta(n, odd, prefix), x, mask, {"channels": ["a", "b"]}, time)


def rows(n: int, odd: bool, rng, prefix: str) -> Records:
    """Two numbers and a category; odd rows lie elsewhere in one number."""
    frame = pd.DataFrame({"a": rng.normal(size=n) + 5 * odd, "b": rng.normal(size=n),
                          "c": pd.Series(rng.choice(["u", "v"], n), dtype="string")})  # fmt: skip
    columns = [{"name": "a", "type": "numeric", "nullable": False, "decimals": 12},
               {"name": "b", "type": "numeric", "nullable": False, "decimals": 12},
               {"name": "c", "type": "categorical", "nullable": False, "categories": ["u", "v"]}]  # fmt: skip
    mask = np.zeros((n, 3), bool)
    mask[:, 0] = odd
    return Records("row", meta(n, odd, prefix), frame, mask, {"columns": columns})


def meta(n: int, odd: bool, prefix: str) -> pd.DataFrame:
    return make_meta(n, id=[f"{prefix}{i}" for i in range(n)], label=int(odd), kind="shift" if odd else "normal")


MAKE = {"image": images, "series": series, "row": rows}


@cache
def planted(modality: str) -> tuple[Records, Records]:
    """(training set, test set): mostly normals, and anomalies anyone can see."""
    make, rng = MAKE[modality], np.random.default_rng(5)
    few = {"image": (24, 8, 10, 7), "series": (40, 8, 12, 8), "row": (200, 20, 50, 11)}[modality]
    parts = [make(n, odd, rng, f"{i}-") for i, (n, odd) in enumerate(zip(few, (False, True, False, True)))]
    return concat(parts[:2]), concat(parts[2:])


@cache
def fitted(modality: str, name: str):
    return fresh(modality, name).fit(planted(modality)[0], seed=3)


def fresh(modality: str, name: str):
    return DETECTORS[modality][name](**OPTIONS.get((modality, name), {}))


def same(a, b) -> None:
    """Equal maps, bit for bit."""
    assert len(a) == len(b)
    for one, other in zip(a, b):
        np.testing.assert_array_equal(one, other)


@BOTH
def test_higher_is_worse(modality, name):
    test = planted(modality)[1]
    assert metrics.auroc(test.meta["label"], fitted(modality, name).score(test)) > 0.9


@BOTH
def test_maps_have_the_records_shape_and_point_at_the_anomaly(modality, name):
    test = planted(modality)[1]
    maps = fitted(modality, name).score_map(test)
    if modality == "row":
        assert maps.shape == (len(test),) and maps.dtype == np.float32
        return
    where = [m if modality == "image" else m.any(1) for m in test.mask]
    for m, w in zip(maps, where):
        assert m.shape == w.shape and m.dtype == np.float32
        assert np.isfinite(m).all()
        assert not w.any() or m[w].mean() > m[~w].mean()


@BOTH
def test_a_score_depends_on_its_record_not_on_batch_or_order(modality, name):
    test, judge = planted(modality)[1], fitted(modality, name)
    scores, maps = judge.score(test), judge.score_map(test)
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_array_equal(judge.score(test.take(order)), scores[order])
    same(judge.score_map(test.take(order)), [maps[i] for i in order])
    for i in (0, len(test) - 1):
        np.testing.assert_array_equal(judge.score(test.take([i])), scores[i : i + 1])
        same(judge.score_map(test.take([i])), maps[i : i + 1])
    many = judge.score(concat([test.with_meta(id=[f"{k}{i}" for i in test.meta["id"]]) for k in range(3)]))
    np.testing.assert_array_equal(many, np.tile(scores, 3))


@BOTH
def test_no_records_give_no_scores(modality, name):
    none = planted(modality)[1].take([])
    assert len(fitted(modality, name).score(none)) == len(fitted(modality, name).score_map(none)) == 0


@BOTH
def test_a_saved_detector_scores_the_same(modality, name, tmp_path):
    test, judge = planted(modality)[1], fitted(modality, name)
    save(judge, tmp_path / "d")
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["config.json", "model.safetensors"]
    again = load(tmp_path / "d")
    assert type(again) is type(judge) and name_of(again) == (modality, name)
    np.testing.assert_array_equal(again.score(test), judge.score(test))
    same(again.score_map(test), judge.score_map(test))


@BOTH
def test_the_same_seed_gives_the_same_detector(modality, name):
    train = planted(modality)[0]
    arrays, config = fresh(modality, name).fit(train, seed=3).state()
    expected, other = fitted(modality, name).state()
    assert config == other and arrays.keys() == expected.keys()
    for key, value in arrays.items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.parametrize(("modality", "name"), [case for case in ALL if case[1] in UNSUPERVISED])
def test_unsupervised_detectors_ignore_anomalies(modality, name):
    train, test = planted(modality)
    normals = fresh(modality, name).fit(train.where(label=0), seed=3)
    np.testing.assert_array_equal(normals.score(test), fitted(modality, name).score(test))


@pytest.mark.parametrize(("modality", "name"), [case for case in ALL if case[1] not in UNSUPERVISED])
def test_a_record_of_no_weight_teaches_nothing(modality, name):
    """The anomalies again, four times each and labelled normal by mistake: harmless at weight 0, harmful at 1."""
    train, test = planted(modality)
    odd = train.where(label=1)
    wrong = odd.take(np.tile(np.arange(len(odd)), 4))
    wrong = wrong.with_meta(id=[f"w{i}" for i in range(len(wrong))], label=0, kind="normal")
    wrong.mask[:] = [np.zeros_like(m) for m in wrong.mask]
    gaps = []
    for weight in (0.0, 1.0):
        judge = fresh(modality, name).fit(concat([train.with_meta(weight=1.0), wrong.with_meta(weight=weight)]), seed=3)
        scores, label = judge.score(test), test.meta["label"].to_numpy()
        gaps.append(scores[label == 1].mean() - scores[label == 0].mean())
        assert weight or metrics.auroc(label, scores) > 0.9
    assert gaps[0] > gaps[1] + 0.1


def test_an_unknown_detector_is_named_with_the_nearest():
    from data.errors import SettingsError

    with pytest.raises(SettingsError, match="did you mean 'forest'"):
        detector("row", "forrest")
    with pytest.raises(ValueError, match="DETECTORS"):
        name_of(object())
