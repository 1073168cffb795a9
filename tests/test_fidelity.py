"""Fidelity measures: closed forms and independent oracles for every formula, then what they say of records."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import make

from data.records import concat
from detection import twosample
from detection.fidelity import MEASURES, fidelity, measure, some
from detection.views import LEAST, View, square


def gauss(n: int, d: int = 4, seed: int = 0, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * spread + shift


# Frechet


def test_frechet_of_one_dimension_is_the_difference_of_means_and_of_deviations():
    a, b = gauss(30, 1), gauss(50, 1, seed=1, shift=2, spread=3)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert twosample.frechet(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("count", [40, 5], ids=["full rank", "fewer rows than columns"])
def test_frechet_agrees_with_the_matrix_square_root(count):
    from scipy.linalg import sqrtm

    a, b = gauss(count, 8) @ gauss(8, 8, seed=9), gauss(60, 8, seed=1, shift=0.5)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    if count < 9:  # the root of a singular product needs a little noise
        ca = ca + 1e-9 * np.eye(8)
    root = np.trace(sqrtm(ca @ cb).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * root
    assert twosample.frechet(a, b) == pytest.approx(expected, rel=1e-4)


def test_frechet_is_zero_for_the_same_sample_in_any_order():
    a = gauss(20)
    assert twosample.frechet(a, a[::-1]) == pytest.approx(0, abs=1e-12)


# KID


def test_kernel_distance_is_the_u_statistic_written_out():
    from sklearn.metrics.pairwise import polynomial_kernel

    a, b = gauss(7, 3), gauss(5, 3, seed=1, shift=1)

    def mean(x, y, same):
        k = polynomial_kernel(x, y, degree=3, gamma=1 / 3, coef0=1)
        return np.mean([k[i, j] for i in range(len(x)) for j in range(len(y)) if not (same and i == j)])

    assert twosample.kernel_distance(a, b) == pytest.approx(mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False))


def test_kernel_distance_is_unbiased():
    draws = [twosample.kernel_distance(gauss(6, 2, seed=2 * i), gauss(6, 2, seed=2 * i + 1)) for i in range(400)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 20 and min(draws) < 0


# neighbours


def test_precision_recall_and_coverage_agree_with_a_neighbour_search():
    from sklearn.neighbors import NearestNeighbors

    real, made = gauss(30), gauss(40, seed=1, shift=0.7)

    def radius(x, k):
        return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k]

    def inside(x, centres, k):
        return np.mean([any(np.linalg.norm(p - c) <= r for c, r in zip(centres, radius(centres, k))) for p in x])

    rr, gg, rg = (twosample.distances(*p) for p in ((real, real), (made, made), (real, made)))
    assert twosample.precision(rr, rg) == pytest.approx(inside(made, real, 3))
    assert twosample.precision(gg, rg.T) == pytest.approx(inside(real, made, 3))
    told = measure(View(real), View(made), np.arange(70))
    assert (told["precision"], told["recall"]) == (inside(made, real, 3), inside(real, made, 3))
    met = [min(np.linalg.norm(p - q) for q in made) <= r for p, r in zip(real, radius(real, 5))]
    assert twosample.coverage(rr, rg) == pytest.approx(np.mean(met))


def test_the_neighbour_of_a_point_is_another_one_even_where_two_are_equal():
    points = np.array([[0.0], [0.0], [1.0], [5.0]])
    within = twosample.distances(points, points)
    assert twosample.neighbour(within, 1).tolist() == [0, 0, 1, 4]
    assert twosample.neighbour(within, 2).tolist() == [1, 1, 1, 5]
    assert twosample.neighbour(within, 9).tolist() == [5, 5, 4, 5]


def test_copies_lie_at_distance_nothing_and_the_real_ones_at_one():
    real = np.arange(10.0)[:, None]  # every one 1 from its nearest
    assert twosample.closest(real, real[:4]) == (0, 0)
    median, low = twosample.closest(real, np.array([[-2.0], [-3.0], [12.0], [0.5]]))
    assert median == pytest.approx(2.5) and low == pytest.approx(np.quantile([2, 3, 3, 0.5], 0.05))


# supports


def test_support_measures_are_one_for_the_same_distribution_and_zero_for_two_ways_to_miss_it():
    real, made = gauss(800, 2), gauss(800, 2, seed=1)
    assert twosample.alpha_precision(real, made) > 0.95
    assert twosample.beta_recall(real, made) > 0.8
    far, middle = gauss(50, 2, shift=100), np.repeat(real.mean(0)[None], 50, axis=0)
    assert twosample.alpha_precision(real, far) == pytest.approx(0, abs=1e-9)
    assert twosample.beta_recall(real, far) == pytest.approx(0, abs=1e-9)
    assert twosample.alpha_precision(real, middle) == pytest.approx(1 / twosample.LEVELS, abs=1e-9)


def test_a_set_recalls_itself_and_many_generated_recall_few_real_ones():
    """Were the nearest of a growing support asked for, 200 would be there too soon, and wider ones do better."""
    same = gauss(100, 4)
    assert twosample.beta_recall(same, same) > 0.98

    def usual(shift: float = 0.0, spread: float = 1.0) -> float:
        sets = [(gauss(30, 10, seed=s), gauss(200, 10, s + 50, shift, spread)) for s in range(8)]
        return float(np.mean([twosample.beta_recall(*pair) for pair in sets]))

    assert usual() > 0.93 and max(usual(spread=2), usual(shift=1.5)) < 0.75


def test_a_real_point_is_as_far_off_as_it_lies_from_the_others():
    """Two at -1 and 1 are 2 from each other: all supports reach to 2, and half of these points lie in them."""
    real, made = np.array([[-1.0], [1.0]]), np.array([[1.5], [9.0]])
    assert twosample.alpha_precision(real, made) == pytest.approx(0.5, abs=0.02)


def test_alpha_precision_of_a_fixed_share_outside_is_its_integral():
    """Half of the generated at the centre, half far away: the share is 1/2 at every level above 0."""
    real = gauss(200, 2)
    made = np.concatenate([np.repeat(real.mean(0)[None], 10, axis=0), gauss(10, 2, shift=99)])
    levels = np.linspace(0, 1, twosample.LEVELS + 1)
    curve = np.where(levels > 0, 0.5, 0.0)
    assert twosample.alpha_precision(real, made) == pytest.approx(
        1 - 2 * np.trapezoid(np.abs(curve - levels), levels), abs=1e-9
    )


# diversity


def test_diversity_is_the_mean_pairwise_distance_of_clusters_and_lonely_points_do_not_count():
    real = np.array([[0.0], [100.0], [200.0]])
    made = np.array([[1.0], [2.0], [4.0], [90.0], [110.0], [201.0]])
    first, second = np.mean([1, 3, 2]), 20.0
    assert twosample.cluster_diversity(real, made) == pytest.approx((first + second) / 2)
    squared = (np.mean([1, 9, 4]) + 400) / 2
    assert twosample.cluster_diversity(real, made, squared=True) == pytest.approx(squared)
    assert twosample.cluster_diversity(real, made[[0, 3, 5]]) is None
    assert twosample.cluster_diversity(real, np.repeat(made[:1], 3, axis=0)) == 0


# trees


def test_trees_tell_apart_what_differs_in_its_dependence_alone_and_nothing_where_nothing_differs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 2))
    a[:, 1] = np.sign(a[:, 0]) * np.abs(a[:, 1])  # both margins are normal
    b = rng.normal(size=(300, 2))
    alone = np.arange(600)
    assert twosample.tree_c2st(a, b, alone, trees=50) > 0.65
    assert twosample.tree_c2st(a, a + 50, alone) == 1.0
    alike = [twosample.tree_c2st(gauss(120, seed=s), gauss(120, seed=s + 50), alone[:240], trees=20) for s in range(4)]
    assert abs(np.mean(alike) - 0.5) < 0.06


def test_trees_do_not_tell_repeats_of_one_for_generated():
    """Nothing but that each is there four times, a little moved, parts the one side from the other."""
    found = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        real, drawn = rng.normal(size=(60, 4)), rng.normal(size=(25, 4))
        made = np.repeat(drawn, 4, axis=0) + rng.normal(0, 0.2, (100, 4))
        group = np.r_[np.arange(60), np.repeat(np.arange(60, 85), 4)]
        found.append([twosample.tree_c2st(real, made, g, trees=50) for g in (group, np.arange(160))])
    own, torn = np.mean(found, axis=0)
    assert abs(own - 0.5) < 0.1 and torn > 0.65
    assert twosample.tree_c2st(real, made, np.r_[np.arange(60), [60] * 100], trees=5) is None, "made of one"
    few = np.r_[np.arange(4), [0] * 7, [1] * 2]  # rows are made of real ones: a fold may hold all of a side
    assert 0 <= twosample.tree_c2st(real[:4], made[:9], few, trees=5) <= 1


# records


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(twosample.tree_c2st, "__kwdefaults__", {"folds": 5, "trees": 10, "seed": 0})


@pytest.fixture(scope="module", params=["image", "series", "row"])
def sets(request):
    """(normals, real anomalies, others of the same kind of making) of a modality."""
    fit, real = make(request.param, 16, 10, seed=0)
    return fit, real, make(request.param, 2, 12, seed=1)[1]


def test_the_order_and_the_names_of_records_change_nothing(sets):
    fit, real, made = sets
    told = fidelity(real, made, reference=fit)
    back = np.arange(len(made))[::-1]
    other = made.take(back).with_meta(id=[f"other{i}" for i in back])
    assert fidelity(real.take(np.roll(np.arange(len(real)), 5)), other, reference=fit) == told
    assert told["all"]["real"] == 10 and told["all"]["generated"] == 12


def test_copies_score_as_copies_and_normals_as_no_anomalies(sets):
    fit, real, made = sets
    copies = fidelity(real, real, reference=fit)["all"]
    assert copies["fid"] == pytest.approx(0, abs=1e-6) and copies["dcr"] == copies["dcr_low"] == 0
    assert copies["precision"] == copies["recall"] == copies["coverage"] == 1
    likely, unlikely = fidelity(real, made, reference=fit)["all"], fidelity(real, fit, reference=fit)["all"]
    assert likely["dcr"] > 0.2
    assert unlikely["fid"] > likely["fid"] and unlikely["kid"] > likely["kid"]
    assert unlikely["c2st"] > max(likely["c2st"], 0.7) and unlikely["precision"] < likely["precision"]


def test_every_measure_is_told_for_all_and_for_every_kind(sets):
    fit, real, made = sets
    told = fidelity(real, made.where(kind="k0"), reference=fit)
    prefixes = ("",) if real.modality == "row" else ("", "crop_")
    names = {"real", "generated", *(p + m for p in prefixes for m in MEASURES)}
    assert set(told["all"]) == names and set(told["kinds"]) == {"k0", "k1"}
    assert all(set(values) == names for values in told["kinds"].values())
    assert told["kinds"]["k0"]["generated"] == 6 and told["kinds"]["k0"]["fid"] >= 0
    lacking = told["kinds"]["k1"]
    assert lacking["generated"] == 0 and {lacking[n] for n in names - {"real", "generated"}} == {None}
    values = [v for v in told["all"].values() if v is not None]
    assert np.isfinite(values).all()


def test_nothing_generated_is_told_as_nothing_known(sets):
    fit, real, made = sets
    none = made.take(np.zeros(0, int))
    told = fidelity(real, none, reference=fit)["all"]
    assert told["generated"] == 0 and told["fid"] is None and told["c2st"] is None
    assert fidelity(real.take([0]), made, reference=fit)["all"]["kid"] is None


def test_a_share_is_drawn_by_content_and_not_by_place(sets):
    _, _, made = sets
    few = some(made, 5)
    assert sorted(some(made.take(np.arange(12)[::-1]), 5).meta["id"]) == sorted(few.meta["id"]) and len(few) == 5
    twice = concat([made, made.with_meta(id=[f"b{i}" for i in range(12)])])
    assert set(few.meta["id"]) < set(some(twice, 12).meta["id"])


def test_a_crop_looks_at_the_anomaly_wherever_it_lies():
    """The same defect on two very different tiles is far apart as a whole, near as a crop."""
    image = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80)
    mask = np.zeros((60, 80), bool)
    mask[:3, 70:80] = True
    part = square(image, mask)
    assert part.shape == (LEAST, LEAST) and part[0, -1] == image[0, 79]
    mask[:50] = True
    assert square(image, mask).shape == (60, 80)
    assert square(image, np.zeros_like(mask)) is image


def test_image_features_are_those_of_the_backbone_pooled():
    from detection.features import extract, unpack
    from detection.views import STRIDES, embed

    images = [np.random.default_rng(i).integers(0, 255, (40, 40)).astype(np.uint8) for i in range(3)]
    view = embed(images, (64, 64), "cpu")
    maps = unpack(np_stack(extract(images[1:2], (64, 64), "cpu")), (64, 64))
    expected = np.concatenate([maps[s][0].float().numpy().mean((1, 2)) for s in STRIDES])
    np.testing.assert_allclose(view.features[1], expected, rtol=1e-4, atol=1e-5)
    parts = []
    for s in STRIDES:
        m = maps[s][0].float().numpy()
        parts.append(m / np.linalg.norm(m, axis=0))
    own = ((view.perceptual[1] - view.perceptual[0]) ** 2).sum()
    other = unpack(np_stack(extract(images[:1], (64, 64), "cpu")), (64, 64))
    expected = np.mean([
        ((p - other[s][0].float().numpy() / np.linalg.norm(other[s][0].float().numpy(), axis=0)) ** 2).sum(0).mean()
        for s, p in zip(STRIDES, parts)
    ])  # fmt: skip
    assert own == pytest.approx(expected, rel=1e-4)


def np_stack(parts):
    import torch

    return torch.stack(parts)


# stage


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_stage_averages_over_supports_and_reads_no_test(tmp_path, jobs):
    from data.records import write_store
    from pipelines.fidelity import main
    from pipelines.stage import Paths

    fit, real = make("row", 16, 10, seed=0)
    made = [make("row", 2, 12, seed=s)[1] for s in (1, 2)]
    run = SimpleNamespace(paths=Paths("x", tmp_path), dataset="x", seeds=range(2), params=SimpleNamespace(device="cpu"),
                          settings=SimpleNamespace(most=50), jobs=jobs, threads=2)  # fmt: skip
    write_store(run.paths.records / "fit", fit)
    write_store(run.paths.records / "support", real)
    for seed, records in enumerate(made):  # the second round was never run
        write_store(run.paths.round(1) / "generated" / f"seed{seed}", records)
        write_store(run.paths.round(1) / "kept" / f"seed{seed}", records.take(range(5) if seed else []))
    main(run)
    told = json.loads((run.paths.folder / "fidelity.json").read_text())
    own = [fidelity(real, records, reference=fit) for records in made]
    assert told["generated"]["all"]["fid"] == pytest.approx(np.mean([o["all"]["fid"] for o in own]))
    assert told["generated"]["kinds"]["k1"]["dcr"] == pytest.approx(np.mean([o["kinds"]["k1"]["dcr"] for o in own]))
    kept = fidelity(real, made[1].take(range(5)), reference=fit)["all"]
    assert told["all"]["fid"] == pytest.approx(kept["fid"])  # the support of which nothing was kept has no value
    assert [s["kept"]["generated"] for s in told["seeds"]] == [0, 5] and told["all"]["generated"] == 2.5
    assert told["seeds"][1]["generated"] == own[1]["all"] and told["seeds"][0]["kept"]["c2st"] is None
