"""Verdicts: the first failing gate is the reason, limits come from real scores, quotas keep kinds alive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.novelty import Duplicates, copy_distance
from detection.verdict import KEPT, REASONS, band_limits, cap_trivial, steer, verdicts

SETTINGS = {"min_overlap": 0.2, "seam": 0.95, "copy": 0.3, "floor": 0.5, "ceiling": 0.95, "low": 0.1, "high": 0.9,
            "trivial_share": 0.5}  # fmt: skip
REAL = pd.DataFrame({"fused": np.linspace(0.6, 0.98, 20)})


def ledger(**columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One good record, with `columns` changed."""
    base = {"id": "a", "kind": "k", "mask_iou": 0.9, "seed": 1, "size_bin": "like", "severity_bin": "like",
            "fused": 0.8, "control": 0.3, "copy_distance": 1.0, "duplicate_of": ""}  # fmt: skip
    row = pd.DataFrame([{**base, **columns}])
    names = ["id", "kind", "mask_iou", "seed", "size_bin", "severity_bin"]
    return row[names], row.drop(columns=names)


@pytest.mark.parametrize("column, value, reason", [
    ("mask_iou", 0.1, "unchanged"), ("control", 0.97, "seam"), ("copy_distance", 0.1, "copy"),
    ("duplicate_of", "b", "duplicate"), ("fused", 0.55, "invisible"), ("fused", 0.8, KEPT),
    ("control", float("nan"), KEPT),
])  # fmt: skip
def test_each_gate_gives_its_reason(column, value, reason):
    meta, scores = ledger(**{column: value})
    out = verdicts(meta, scores, REAL, **SETTINGS)
    assert out["reason"][0] == reason and out["keep"][0] == (reason == KEPT)


def test_the_first_failing_gate_is_the_reason():
    meta, scores = ledger(mask_iou=0.0, control=0.99, fused=0.0, duplicate_of="b", copy_distance=0.0)
    assert verdicts(meta, scores, REAL, **SETTINGS)["reason"][0] == "unchanged"
    meta, scores = ledger(control=0.99, fused=0.0, duplicate_of="b", copy_distance=0.0)
    assert verdicts(meta, scores, REAL, **SETTINGS)["reason"][0] == "seam"


def test_a_score_that_is_not_a_number_is_invisible_not_kept():
    meta, scores = ledger(fused=float("nan"))
    assert verdicts(meta, scores, REAL, **SETTINGS)["reason"][0] == "invisible"


def test_limits_are_quantiles_of_real_scores_within_percentiles_of_normals():
    real = np.linspace(0, 1, 101)
    assert band_limits(real, floor=0.0, ceiling=1.0, low=0.1, high=0.9) == pytest.approx((0.1, 0.9))
    assert band_limits(real, floor=0.5, ceiling=0.95, low=0.1, high=0.9)[0] == 0.5  # faint real ones: the floor holds
    assert band_limits(real * 0 + 0.99, floor=0.5, ceiling=0.95, low=0.1, high=0.9)[0] == 0.95
    assert band_limits(np.array([]), floor=0.5, ceiling=0.95, low=0.1, high=0.9) == (0.95, np.inf)


def test_trivial_records_are_at_most_their_share_of_each_kinds_kept():
    kind = np.array(["a"] * 12 + ["b"] * 4)
    band = np.array(["informative"] * 4 + ["trivial"] * 8 + ["trivial"] * 4)
    reason = cap_trivial(np.full(16, KEPT, object), band, kind, np.arange(16), 0.5)
    assert (reason[:12] == KEPT).sum() == 8 and (reason[:4] == KEPT).all()
    assert (reason[12:] == KEPT).sum() == 2  # a kind that is trivial throughout does not die out
    none = cap_trivial(np.full(16, KEPT, object), band, kind, np.arange(16), 0.0)
    assert (none[4:12] == "trivial").all() and (none[:4] == KEPT).all()


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4, st.booleans()), min_size=1, max_size=40))
def test_every_record_has_one_known_reason_and_thresholds_only_tighten(rows):
    table = pd.DataFrame(rows, columns=["mask_iou", "fused", "control", "copy_distance", "twin"])
    meta = pd.DataFrame(
        {"id": [str(i) for i in range(len(rows))], "kind": "k", "mask_iou": table["mask_iou"], "seed": range(len(rows))}
    )
    scores = table.assign(duplicate_of=np.where(table["twin"], "x", ""))
    loose = verdicts(meta, scores, REAL, **{**SETTINGS, "trivial_share": 0.99})
    tight = verdicts(meta, scores, REAL, **{**SETTINGS, "trivial_share": 0.99, "min_overlap": 0.5, "copy": 0.6})
    assert set(loose["reason"]) <= set(REASONS)
    gates = ~tight["reason"].isin([KEPT, "trivial"])
    assert (gates | loose["reason"].isin([KEPT, "trivial"])).all()
    assert list(loose["id"]) == list(meta["id"])


def test_steering_prefers_bins_that_pass_where_the_judges_are_weak():
    meta = pd.DataFrame(
        {"kind": "k", "size_bin": ["small"] * 10 + ["like"] * 10 + ["large"] * 10, "severity_bin": "like"}
    )
    keep = np.r_[np.ones(10, bool), np.ones(10, bool), np.zeros(10, bool)]
    fused = np.r_[np.full(10, 0.7), np.full(10, 0.9), np.full(10, 0.2)]
    weight = steer(meta, pd.DataFrame({"keep": keep}), fused, np.array([0.8]))
    assert weight["k|small|like"] == pytest.approx(11 / 12 * 11 / 12)
    assert weight["k|like|like"] == pytest.approx(11 / 12 * 1 / 12)
    assert weight["k|large|like"] == pytest.approx(1 / 12 * 1 / 2)


def test_copy_distance_is_zero_for_a_copy_and_one_at_the_real_spacing():
    support = np.array([[0.0, 0], [2, 0], [0, 2]])
    np.testing.assert_allclose(copy_distance(np.array([[2.0, 0], [4, 0], [1, 0]]), support), [0, 1, 0.5])
    assert np.isinf(copy_distance(np.array([[1.0, 1]]), support[:1])).all()


def test_duplicates_are_found_over_batches_and_name_the_first():
    import tiny

    fit, _ = tiny.make("series")
    seen = Duplicates()
    assert seen.of(fit.take([0, 1, 0])) == ["", "", fit.meta["id"][0]]
    assert seen.of(fit.take([2, 1])) == ["", fit.meta["id"][1]]
