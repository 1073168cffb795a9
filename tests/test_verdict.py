"""Verdicts: the first failing gate is the reason, limits come from real scores, quotas keep kinds alive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.novelty import Duplicates, copy_distance
from detection.verdict import (
    BY_HAND,
    CRITERIA,
    HARD,
    KEPT,
    REASONS,
    REFUSED,
    SOFT,
    band_limits,
    best_of,
    cap_trivial,
    quotas,
    verdicts,
)

SETTINGS = {"min_overlap": 0.2, "seam": 0.95, "contrast": [0.5, 2.0], "copy": 0.3, "posterior": 0.1, "floor": 0.5,
            "ceiling": 0.95, "low": 0.1, "high": 0.9, "trivial_share": 0.5, "criterion": "eap", "keep_share": 1.0,
            "kind_most": 1.0, "kind_least": 0}  # fmt: skip
REAL = pd.DataFrame({"fused": np.linspace(0.6, 0.98, 20), "likelihood": np.linspace(0.9, 1, 20)})


GOOD = {"fused": 0.8, "supervised": 0.8, "likelihood": np.nan, "control": 0.3, "copy_distance": 1.0,
        "edit_distance": 1.0, "outside": 0, "contrast_low": 1.2, "contrast_high": 0.8, "violations": 0,
        "posterior": 1.0, "duplicate_of": ""}  # fmt: skip


def ledger(**columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One good record, with `columns` changed."""
    base = {"id": "a", "kind": "k", "mask_iou": 0.9, "seed": 1, "size_bin": "like", "severity_bin": "like", **GOOD}
    row = pd.DataFrame([{**base, **columns}])
    names = ["id", "kind", "mask_iou", "seed", "size_bin", "severity_bin"]
    return row[names], row.drop(columns=names)


@pytest.mark.parametrize("column, value, reason", [
    ("mask_iou", 0.1, "unchanged"), ("control", 0.97, "seam"), ("copy_distance", 0.1, "copy"),
    ("duplicate_of", "b", "duplicate"), ("fused", 0.55, "invisible"), ("fused", 0.8, KEPT),
    ("control", float("nan"), KEPT), ("outside", 1, "outside"), ("contrast_low", 0.4, "contrast"),
    ("contrast_high", 2.1, "contrast"), ("contrast_low", float("nan"), KEPT), ("violations", 1, "constraint"),
    ("posterior", 0.05, "kind"),
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
    scores = table.assign(**{k: v for k, v in GOOD.items() if k not in table})
    scores["duplicate_of"] = np.where(table["twin"], "x", "")
    loose = verdicts(meta, scores, REAL, **{**SETTINGS, "trivial_share": 0.99})
    tight = verdicts(meta, scores, REAL, **{**SETTINGS, "trivial_share": 0.99, "min_overlap": 0.5, "copy": 0.6})
    assert set(loose["reason"]) <= set(REASONS)
    gates = ~tight["reason"].isin([KEPT, "trivial"])
    assert (gates | loose["reason"].isin([KEPT, "trivial"])).all()
    assert list(loose["id"]) == list(meta["id"])


def many(count: int, **columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    meta = pd.DataFrame({"id": [str(i) for i in range(count)], "kind": "k", "mask_iou": 0.9, "seed": range(count)})
    scores = pd.DataFrame({**{k: [v] * count for k, v in GOOD.items()}, **columns})
    return meta, scores


@pytest.mark.parametrize("criterion, best", [
    ("eap", 3), ("near", 1), ("alike", 0), ("balanced", 3), ("plain", 4), ("hard", 2), ("likelihood", 0),
    ("typical", 4),
])  # fmt: skip
def test_every_criterion_keeps_what_it_ranks_first(criterion, best):
    columns = {"fused": [0.7, 0.8, 0.65, 0.85, 0.9], "supervised": [0.9, 0.8, 0.1, 0.8, 0.7],
               "likelihood": [0.99, 0.5, 0.5, 0.6, 0.5], "edit_distance": [1.0, 1.0, 1.0, 1.9, 0.4]}  # fmt: skip
    meta, scores = many(5, **columns)
    out = verdicts(meta, scores, REAL, **{**SETTINGS, "criterion": criterion, "keep_share": 0.2})
    assert list(np.flatnonzero(out["keep"])) == [best]
    assert (out["reason"].drop(best) == "outranked").all() and out["rank"].idxmax() == best


def test_the_criteria_named_in_the_settings_are_those_there_are():
    from typing import get_args

    from pipelines.config import FilterSettings

    assert set(get_args(FilterSettings.model_fields["criterion"].annotation)) == set(CRITERIA)


def test_a_decision_by_hand_overrides_everything():
    meta, scores = many(3, mask_iou=0.9)
    meta["mask_iou"] = [0.0, 0.9, 0.9]
    out = verdicts(meta, scores, REAL, **SETTINGS, decisions={"0": "accept", "1": "reject"})
    assert list(out["reason"]) == [BY_HAND, REFUSED, KEPT] and list(out["keep"]) == [True, False, True]


def test_the_best_of_each_kind_stay():
    kind, rank = np.array(["a"] * 4 + ["b"] * 2), np.array([1.0, 4, 3, 2, 9, 8])
    out = best_of(np.full(6, KEPT, object), kind, rank, 0.5)
    assert list(out) == ["outranked", KEPT, KEPT, "outranked", KEPT, "outranked"]


def test_no_kind_takes_more_than_its_share_and_none_dies_of_soft_reasons():
    kind, rank = np.array(["a"] * 8 + ["b"] * 4), np.arange(12.0)
    reason = np.array([KEPT] * 8 + ["invisible", "outranked", "copy", "trivial"], object)
    out = quotas(reason, kind, rank, most=0.75, least=2)
    assert list(out[8:]) == ["invisible", KEPT, "copy", KEPT]  # the best two of the softly refused; a copy stays out
    assert (out[:8] == KEPT).sum() == 6 and (out[:2] == "quota").all()  # 6 of 8 are three quarters
    assert list(quotas(reason[:8], kind[:8], rank[:8], most=0.5, least=0)) == [KEPT] * 8  # alone there is no quota


@pytest.mark.parametrize(
    ("counts", "most", "left"),
    [((10, 3), 0.7, [7, 3]), ((10, 10, 1), 0.4, [5, 5, 1]), ((9, 9, 9), 0.2, [9, 9, 9]), ((9, 5, 5), 0.4, [6, 5, 5])],
)
def test_no_kind_is_above_its_share_whatever_the_share(counts, most, left):
    """Seven of ten are not above 0.7; where fewer of one make another's share too large, that one has fewer too, but
    never less than half of what there is."""
    kind = np.repeat([f"k{i}" for i in range(len(counts))], counts)
    out = quotas(np.full(len(kind), KEPT), kind, np.arange(float(len(kind))), most=most, least=1)
    assert [int(((kind == name) & (out == KEPT)).sum()) for name in np.unique(kind)] == left


@pytest.mark.parametrize("least", [0, 4])
def test_where_nothing_of_another_kind_is_good_all_that_is_good_stays(least):
    kind, reason = np.array(["a"] * 300 + ["b"] * 20), np.array([KEPT] * 300 + ["unchanged"] * 20, object)
    assert (quotas(reason, kind, np.arange(320.0), most=0.7, least=least) == reason).all()
    reason[-2:] = KEPT
    out = quotas(reason, kind, np.arange(320.0), most=0.7, least=least)
    assert (out == KEPT)[:300].sum() == 150 and (out == KEPT)[300:].sum() == 2 and (out[:150] == "quota").all()


def test_a_share_of_trivial_ones_is_not_lost_to_rounding():
    """Three of five are 0.6, though 0.6 * 2 / (1 - 0.6) is 2.9999999999999996."""
    reason, band = np.full(9, KEPT, object), np.array(["informative"] * 2 + ["trivial"] * 7)
    out = cap_trivial(reason, band, np.array(["a"] * 9), np.arange(9), 0.6)
    assert (out == KEPT).sum() == 5


@given(st.lists(st.sampled_from([*HARD, *SOFT, KEPT]), min_size=1, max_size=30), st.integers(0, 5), st.data())
def test_quotas_never_bring_back_what_a_hard_gate_refused(reasons, least, data):
    kind = np.array(data.draw(st.lists(st.sampled_from("ab"), min_size=len(reasons), max_size=len(reasons))))
    before = np.array(reasons, object)
    after = quotas(before, kind, np.arange(float(len(reasons))), most=0.6, least=least)
    assert (after[np.isin(before, HARD)] == before[np.isin(before, HARD)]).all()


def test_copy_distance_is_zero_for_a_copy_and_one_at_the_real_spacing():
    support = np.array([[0.0, 0], [2, 0], [0, 2]])
    np.testing.assert_allclose(copy_distance(np.array([[2.0, 0], [4, 0], [1, 0]]), support), [0, 1, 0.5])
    assert all(np.isinf(copy_distance(np.array([[1.0, 1]]), support[:few])).all() for few in (0, 1))


def test_duplicates_are_found_over_batches_and_name_the_first():
    import tiny

    fit, _ = tiny.make("series")
    seen = Duplicates()
    assert seen.of(fit.take([0, 1, 0])) == ["", "", fit.meta["id"][0]]
    assert seen.of(fit.take([2, 1])) == ["", fit.meta["id"][1]]
