"""The series detectors: exact toy answers, oracles, planted anomalies, reload and batch independence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from data.errors import InputError
from data.records import Records, concat, make_meta
from detection import windows
from detection.windows import ConvForest, PCAResidual, SubsequenceKNN

SMALL = {"pca": lambda: PCAResidual(), "knn": lambda: SubsequenceKNN(bank=800),
         "forest": lambda: ConvForest(kernels=6, trees=40)}  # fmt: skip
every = pytest.mark.parametrize("name", SMALL)


def waves(n: int, seed: int, *, steps: int = 64, channels: int = 3) -> Records:
    """Sine waves of random phase with a little noise; channel c has period 16 + 8 c and scale 10^c."""
    rng = np.random.default_rng(seed)
    time, period = np.arange(steps)[:, None], 16 + 8 * np.arange(channels)
    x = []
    for _ in range(n):
        wave = np.sin(2 * np.pi * (time / period + rng.random(channels)))
        x.append((wave + 0.05 * rng.normal(size=(steps, channels))) * 10.0 ** np.arange(channels))
    schema = {"channels": [f"c{i}" for i in range(channels)]}
    meta = make_meta(n, id=[f"n{seed}-{i}" for i in range(n)])
    return Records("series", meta, x, [np.zeros(v.shape, bool) for v in x], schema)


def planted(n: int, seed: int, *, synthetic: bool = False, **shape) -> Records:
    """The same with a burst of noise over 10 steps of one channel."""
    plain = waves(n, seed, **shape)
    rng, x, mask = np.random.default_rng(seed + 1000), [], []
    for v, m in zip(plain.x, plain.mask):
        at, c = rng.integers(0, len(v) - 10), rng.integers(v.shape[1])
        v, m = v.copy(), m.copy()
        v[at : at + 10, c] += 10.0**c * rng.normal(0, 1.0, 10)
        m[at : at + 10, c] = True
        x.append(v)
        mask.append(m)
    meta = make_meta(n, id=[f"a{seed}-{i}" for i in range(n)], label=1, synthetic=synthetic)
    return Records("series", meta, x, mask, plain.schema)


@pytest.fixture(scope="module")
def fitted() -> dict:
    training = concat([waves(40, 1), planted(10, 2)])
    return {name: make().fit(training, seed=3) for name, make in SMALL.items()}


# ---------------------------------------------------------------- exact toy answers

def test_positions_end_at_the_very_end():
    assert windows.positions(10, 4, 4).tolist() == [0, 4, 6]
    assert windows.positions(8, 4, 2).tolist() == [0, 2, 4]
    assert windows.positions(3, 4, 2).tolist() == [0]


def test_a_score_is_spread_over_the_steps_it_covers():
    out = windows.spread_back(np.array([1.0, 3.0]), np.array([0, 2]), 3, 5)
    np.testing.assert_allclose(out, [1, 1, 2, 3, 3])
    out = windows.spread_back(np.array([1.0, 4.0]), np.array([0, 1]), 3, 4, np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(out, [1, 2, 3, 4])


def test_cut_takes_rows_and_lengthens_short_series():
    z = np.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(windows.cut(z, np.array([0, 2]), 2), [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(windows.cut(z[:1], np.array([0]), 3), [[0, 1, 0, 1, 0, 1]])


def test_the_residual_of_a_line_is_the_distance_to_it():
    """Normals on the line (t, 2t): a row (2, -1) beyond the mean is orthogonal to it, (1, 2) lies on it."""
    bank = np.arange(-5.0, 6)[:, None] * [1.0, 2.0] + [3.0, 4.0]
    mean, basis = windows.principal(bank, 0.95)
    assert basis.shape == (2, 1)
    out = windows.residual(np.array([[5.0, 3.0], [4.0, 6.0]]), mean, basis)
    np.testing.assert_allclose(out, [[2, -1], [0, 0]], atol=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_the_subspace_is_that_of_sklearn(share):
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    oracle = PCA(share, svd_solver="full").fit(bank)
    mean, basis = windows.principal(bank, share)
    np.testing.assert_allclose(basis @ basis.T, oracle.components_.T @ oracle.components_, atol=1e-8)
    rows = rng.normal(size=(5, 12))
    back = oracle.inverse_transform(oracle.transform(rows))
    np.testing.assert_allclose(windows.residual(rows, mean, basis), rows - back, atol=1e-8)


def test_a_constant_bank_has_an_empty_subspace():
    mean, basis = windows.principal(np.ones((5, 3)), 0.95)
    assert basis.shape == (3, 0)
    np.testing.assert_allclose(windows.residual(np.full((1, 3), 3.0), mean, basis), 2.0)


def test_the_distance_is_that_to_the_kth_nearest():
    rng = np.random.default_rng(0)
    knn = SubsequenceKNN(k=3)
    knn.bank = rng.normal(size=(200, 20)).astype(np.float32)
    rows = rng.normal(size=(30, 20)).astype(np.float32)
    oracle = np.sort(cdist(rows, knn.bank), axis=1)[:, 2] / np.sqrt(20)
    np.testing.assert_allclose(knn._distances(rows), oracle, rtol=1e-5)


def test_convolutions_are_those_of_torch():
    rng = np.random.default_rng(0)
    z, kernels = rng.normal(size=(50, 3)), windows.draw_kernels(3, 5, 7)
    parts = []
    for dilation, weights in zip(windows.DILATIONS, kernels):
        w = torch.tensor(weights.reshape(windows.TAPS, 3, 5).transpose(2, 1, 0).copy())  # (K, C, taps)
        reach = dilation * (windows.TAPS // 2)
        x = torch.nn.functional.pad(torch.tensor(z.T.copy())[None], (reach, reach), mode="replicate")
        parts.append(torch.conv1d(x, w, dilation=dilation)[0].numpy().T)
    np.testing.assert_allclose(windows.convolve(z, kernels), np.concatenate(parts, 1), atol=1e-10)


def test_kernels_ignore_the_level():
    response = windows.convolve(np.full((20, 4), 3.0), windows.draw_kernels(4, 8, 0))
    np.testing.assert_allclose(response, 0, atol=1e-12)


def test_sub_windows_anomalous_only_at_their_ends_are_left_out():
    """Width 8, stride 2: odd steps 20..23 make the middle half (steps 2..5) of the starts 16, 18, 20 odd;
    14 and 22 touch them only with their ends."""
    forest = ConvForest(width=8, kernels=1, trees=2, leaf=1)
    training = concat([waves(4, 0, steps=40), planted(1, 1, steps=40)])
    training.mask[4][:] = False
    training.mask[4][20:24, 0] = True
    forest.fit(training, seed=0)
    _, label, owner = forest._examples(training, np.ones(5), np.random.default_rng(0))
    assert label[owner == 4].tolist() == [0] * 7 + [1] * 3 + [0] * 5
    assert (owner < 4).sum() == 4 * 17 and not label[owner < 4].any()


def test_the_default_width_is_half_the_shortest_record_and_24_at_most():
    assert windows.width_of(waves(2, 0, steps=30), None) == 15
    assert windows.width_of(waves(2, 0, steps=100), None) == 24
    assert windows.width_of(waves(2, 0, steps=100), 7) == 7


# ---------------------------------------------------------------- every detector

@every
def test_planted_anomalies_are_found(fitted, name):
    fresh = concat([waves(20, 11), planted(20, 12)])
    maps = fitted[name].score_map(fresh)
    truth = np.concatenate([m.any(1) for m in fresh.mask])
    assert all(m.shape == (64,) and m.dtype == np.float32 for m in maps)
    assert roc_auc_score(truth, np.concatenate(maps)) > 0.9
    assert roc_auc_score(fresh.meta["label"], fitted[name].score(fresh)) > 0.95


@every
def test_a_score_does_not_depend_on_its_batch(fitted, name):
    fresh = concat([waves(3, 21), planted(3, 22)])
    together, order = fitted[name].score_map(fresh), [4, 0, 5]
    for i, other in zip(order, fitted[name].score_map(fresh.take(order))):
        np.testing.assert_array_equal(other, together[i])
    alone = [fitted[name].score(fresh.take([i]))[0] for i in range(len(fresh))]
    np.testing.assert_array_equal(alone, fitted[name].score(fresh))


@every
def test_scores_are_the_same_to_the_bit_after_reload(fitted, name, tmp_path):
    arrays, config = fitted[name].state()
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    save_file(arrays, tmp_path / "model.safetensors")
    config = json.loads(json.dumps(config))
    again = type(fitted[name]).from_state(load_file(tmp_path / "model.safetensors"), config)
    fresh = concat([waves(2, 31), planted(2, 32)])
    for old, new in zip(fitted[name].score_map(fresh), again.score_map(fresh)):
        np.testing.assert_array_equal(old, new)
    assert json.loads(json.dumps(again.state()[1])) == config


@every
def test_the_seed_decides_the_fit(name):
    training, fresh = concat([waves(30, 1), planted(5, 2)]), planted(2, 41)
    first, same = (SMALL[name]().fit(training, seed=5).score(fresh) for _ in range(2))
    np.testing.assert_array_equal(first, same)


@every
def test_one_channel_a_constant_channel_and_short_records(name):
    training = concat([waves(12, 1, channels=1), planted(4, 2, channels=1)])
    detector = SMALL[name]().fit(training, seed=0)
    short = waves(1, 3, steps=9, channels=1)
    assert detector.score_map(short)[0].shape == (9,) and np.isfinite(detector.score(short)).all()
    wide = concat([waves(12, 1), planted(4, 2)])
    for x in wide.x:
        x[:, 1] = 5.0
    detector = SMALL[name]().fit(wide, seed=0)
    assert np.isfinite(detector.score(wide)).all()
    assert len(detector.score_map(wide.take([]))) == 0 and detector.score(wide.take([])).shape == (0,)


@every
def test_without_normals_the_error_says_so(name):
    with pytest.raises(InputError, match="at least one normal"):
        SMALL[name]().fit(planted(3, 0), seed=0)


@pytest.mark.parametrize("name", ["pca", "knn"])
def test_unsupervised_detectors_look_at_normals_alone(name):
    normals, fresh = waves(10, 1), planted(2, 5)
    alone = SMALL[name]().fit(normals, seed=0).score(fresh)
    both = concat([normals, planted(5, 2)])
    np.testing.assert_array_equal(SMALL[name]().fit(both, seed=0).score(fresh), alone)


def test_the_forest_needs_anomalies_with_masks():
    with pytest.raises(InputError, match="at least one anomaly"):
        SMALL["forest"]().fit(waves(4, 0), seed=0)
    blank = planted(2, 1)
    for m in blank.mask:
        m[:] = False
    with pytest.raises(InputError, match="only empty"):
        SMALL["forest"]().fit(concat([waves(4, 0), blank]), seed=0)


def test_real_anomalies_keep_half_of_the_say_against_many_synthetic_ones():
    """Synthetic anomalies call plain waves odd: the larger the real share, the lower plain waves score."""
    plain = planted(60, 3, synthetic=True)
    plain = Records("series", plain.meta, waves(60, 4).x, plain.mask, plain.schema)
    training, fresh = concat([waves(30, 1), planted(6, 2), plain]), waves(10, 5)
    scores = {s: ConvForest(kernels=4, trees=40, real_share=s).fit(training, seed=0).score(fresh).mean()
              for s in (0.0, 0.5, 1.0)}  # fmt: skip
    assert scores[0.0] > scores[0.5] > scores[1.0]


def test_records_of_weight_zero_are_not_seen():
    training, extra, fresh = concat([waves(20, 1), planted(5, 2)]), planted(5, 9), planted(3, 5)
    silent = concat([training, extra])
    silent = Records("series", silent.meta.assign(weight=[1.0] * 25 + [0.0] * 5), silent.x, silent.mask,
                     silent.schema)  # fmt: skip
    np.testing.assert_array_equal(SMALL["forest"]().fit(training, seed=0).score(fresh),
                                  SMALL["forest"]().fit(silent, seed=0).score(fresh))  # fmt: skip
