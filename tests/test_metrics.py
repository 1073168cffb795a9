"""Metrics against hand-computed values and independent oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection import metrics


def cases():
    """Labels and scores with ties, in several sizes."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(4, 300))
        labels = rng.random(n) < 0.3
        labels[:2] = [True, False]
        yield labels, np.round(rng.normal(size=n) + labels, 1 if seed % 2 else 9)


@pytest.mark.parametrize(("labels", "scores"), cases())
def test_areas_equal_sklearn_and_scipy_ties_included(labels, scores):
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import average_precision_score, roc_auc_score

    assert metrics.ap(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert metrics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    u = mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert metrics.auroc(labels, scores) == pytest.approx(u / labels.sum() / (~labels).sum(), abs=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30))
def test_the_curve_is_sklearns_best_precision_at_or_beyond_each_recall(points):
    from sklearn.metrics import precision_recall_curve

    from detection.evaluation import curve

    labels = np.array([True, False, *(label for label, _ in points)])
    scores = np.array([3.0, 3.0, *(score for _, score in points)], float)
    precision, recall, _ = precision_recall_curve(labels, scores)
    expected = [(r, precision[recall >= r].max()) for r in np.linspace(0, 1, 21)]
    np.testing.assert_allclose(curve(labels, scores, 21), expected)


def test_areas_by_hand():
    """Ranks: anomaly, normal, anomaly and normal tied. AP = 1/2 * 1 + 1/2 * 2/4; AUROC = (1 + 1 + 0 + 1/2) / 4."""
    labels, scores = [1, 0, 1, 0], [4.0, 3.0, 2.0, 2.0]
    assert metrics.image_ap(labels, scores) == 0.75
    assert metrics.image_auroc(labels, scores) == 0.625


def test_pixels_are_pooled_over_images_of_any_size():
    masks = [np.array([[True, False]]), np.array([[False], [True], [False]])]
    maps = [np.array([[4.0, 3.0]]), np.array([[1.0], [2.0], [2.0]])]
    assert metrics.pixel_ap(masks, maps) == metrics.ap([1, 0, 0, 1, 0], [4, 3, 1, 2, 2]) == 0.75
    assert metrics.pixel_auroc(masks, maps) == metrics.auroc([1, 0, 0, 1, 0], [4, 3, 1, 2, 2])
    flat = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    assert metrics.pixel_ap(*flat) == metrics.pixel_ap(masks, maps)


@pytest.mark.parametrize("metric", [metrics.ap, metrics.auroc, metrics.pixel_ap, metrics.image_auroc])
@pytest.mark.parametrize(("labels", "scores"), [
    ([1, 1], [0, 1]), ([0, 0], [0, 1]), ([0, 1], [0, np.nan]), ([1], [0, 1]),
])  # fmt: skip
def test_what_has_no_answer_is_refused(metric, labels, scores):
    with pytest.raises(ValueError, match="must"):
        metric(labels, scores)


def brute_range_pr(labels, scores, width, ranks):
    """The range-aware area, a threshold and an event at a time, from the definition."""
    n, half = len(labels), width // 2
    runs, start = [], None
    for i in range(n + 1):
        if i < n and labels[i]:
            start = i if start is None else start
        elif start is not None:
            runs.append((start, i - 1))
            start = None
    y, event = [], [0] * n
    for i in range(n):
        gaps = [max(first - i, i - last, 0) for first, last in runs]
        y.append(min(1.0, sum(1.0 if g == 0 else math.sqrt(1 - g / width) for g in gaps if g <= half)))
        event[i] = int(any(g <= half for g in gaps))
    count, marks = 0, []
    for i in range(n):  # segments that share a position of their buffers are one event; neighbours alone are not
        reaches = [k for k, (first, last) in enumerate(runs) if first - half <= i <= last + half]
        if reaches:
            if not marks or not (set(reaches) & marks[-1][1]):
                count += 1
                marks.append(([], set()))
            marks[-1][0].append(i)
            marks[-1][1].update(reaches)
    area, before = 0.0, 0.0
    ordered = sorted(scores, reverse=True)
    for rank in ranks:
        alarm = [s >= ordered[rank] for s in scores]
        tp = sum(v for v, a in zip(y, alarm) if a)
        beside = sum(v for v, a, label in zip(y, alarm, labels) if a and not label)
        found = sum(any(alarm[i] for i in places) for places, _ in marks) / count
        recall = min(tp / (sum(labels) + beside / 2), 1) * found
        area += (recall - before) * tp / sum(alarm)
        before = recall
    return area


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40), st.integers(0, 9))
def test_the_range_aware_area_follows_its_definition(points, width):
    labels, scores = [p[0] for p in points], [float(p[1]) for p in points]
    if all(labels) or not any(labels):
        return
    expected = brute_range_pr(labels, scores, width, range(len(scores)))
    # every rank once: at least as many thresholds as points would repeat some, which adds nothing
    assert metrics.range_pr(labels, scores, width=width, thresholds=len(scores)) == pytest.approx(expected, abs=1e-12)
    assert metrics.range_pr(labels, scores, width=width) == pytest.approx(expected, abs=1e-12)


def test_vus_pr_by_hand():
    """Six timestamps, anomaly at 2 and 3; the first alarm is its right neighbour, worth r = sqrt(1 - 1/2) at width 2.

    Widths 0 and 1 have no buffer: 1/2 * 1/2 + 1/2 * 2/3. At width 2 P' = 2 + r/2 from the first alarm on:
    recalls r / P', (1 + r) / P', 1 with precisions r, (1 + r) / 2, (2 + r) / 3.
    """
    labels, scores = [0, 0, 1, 1, 0, 0], [0.1, 0.4, 0.9, 0.8, 0.95, 0.2]
    r = math.sqrt(0.5)
    p = 2 + r / 2
    wide = r / p * r + 1 / p * (1 + r) / 2 + (1 - (1 + r) / p) * (2 + r) / 3
    plain = 1 / 4 + 1 / 3
    assert metrics.range_pr(labels, scores, width=2) == pytest.approx(wide, abs=1e-12)
    assert metrics.vus_pr(labels, scores, window=2) == pytest.approx((plain + plain + wide) / 3, abs=1e-12)


def test_an_event_missed_halves_the_recall_until_it_is_found():
    """Two events of one timestamp; the first alarm finds one: recall 1/2 * 1/2, then 1 * 1, both with precision 1."""
    assert metrics.vus_pr([1, 0, 0, 0, 0, 1], [9, 0, 0, 0, 0, 8], window=0) == pytest.approx(1.0)
    # the second is found third, after a false alarm: 1/4 * 1 + 0 * 1/2 + 3/4 * 2/3
    assert metrics.vus_pr([1, 0, 0, 0, 0, 1], [9, 0, 8, 0, 0, 7], window=0) == pytest.approx(0.75)


def test_vus_without_a_buffer_is_average_precision_for_one_event():
    rng = np.random.default_rng(0)
    labels = np.zeros(60, bool)
    labels[20:29] = True
    scores = rng.normal(size=60) + labels
    assert metrics.vus_pr(labels, scores, window=0) == pytest.approx(metrics.ap(labels, scores), abs=1e-12)


def test_a_late_alarm_is_worth_more_with_a_buffer():
    labels, scores = np.zeros(50, bool), np.zeros(50)
    labels[20:25], scores[25:28] = True, 1.0
    assert metrics.vus_pr(labels, scores, window=16) > 2 * metrics.vus_pr(labels, scores, window=0)


def test_buffers_that_share_a_timestamp_make_one_event():
    labels = np.array([0, 1, 0, 0, 0, 1, 0])
    assert metrics.events(labels, 2).tolist() == [[0, 2], [4, 6]]
    assert metrics.events(labels, 4).tolist() == [[0, 6]]
    assert metrics.segments(np.array([1, 1, 0, 1])).tolist() == [[0, 1], [3, 3]]


def test_an_interval_is_students():
    """Mean 2, standard deviation 1, 3 values: t(0.975, 2) = 4.302653 from the tables, over sqrt(3)."""
    got = metrics.interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert got["values"] == [1.0, 2.0, 3.0] and got["mean"] == 2.0
    assert got["low"] == pytest.approx(2 - half, abs=1e-5) and got["high"] == pytest.approx(2 + half, abs=1e-5)


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [0.5, -0.1, 0.4, 0.3], [-0.1, 0.2]])
def test_at_the_confidence_that_it_holds_at_an_interval_touches_zero(values):
    assert metrics.interval(values, metrics.holds_at(values))["low"] == pytest.approx(0, abs=1e-9)


def test_nothing_holds_without_a_gain_or_a_spread_and_a_steady_gain_always():
    assert metrics.holds_at([-1.0, 0.5]) == metrics.holds_at([0.0, 0.0]) == metrics.holds_at([3.0]) == 0
    assert metrics.holds_at([0.25, 0.25, 0.25]) == 1


def test_one_value_has_no_interval_and_none_no_mean():
    assert metrics.interval([0.25]) == {"mean": 0.25, "low": None, "high": None, "values": [0.25]}
    for bad in ([], [np.nan], [1.0, np.inf]):
        with pytest.raises(ValueError, match="values must be finite"):
            metrics.interval(bad)


def test_a_paired_gain_ignores_what_both_share():
    """Seeds differ by 10, the gain is 1 in each: the interval is a point."""
    got = metrics.paired([11.0, 21.0, 31.0], [10.0, 20.0, 30.0])
    assert (got["mean"], got["low"], got["high"]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="equally many"):
        metrics.paired([1.0], [1.0, 2.0])
