"""Steering: where judges are weak more is drawn, variety is measured exactly, and a loop that collapsed stops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from detection.steering import diversity, effective, shift, stop, tally, weights


def meta(count: int, **columns) -> pd.DataFrame:
    base = {"kind": "k", "size_bin": "like", "severity_bin": "like", "place": "inner", "host_bin": "usual"}
    base["area"] = 0.01
    return pd.DataFrame({**{k: [v] * count for k, v in base.items()}, **columns})


def test_steering_prefers_arms_that_pass_where_the_judges_are_weak():
    drawn = meta(30, size_bin=["small"] * 10 + ["like"] * 10 + ["large"] * 10)
    keep = np.r_[np.ones(10, bool), np.ones(10, bool), np.zeros(10, bool)]
    fused = np.r_[np.full(10, 0.7), np.full(10, 0.9), np.full(10, 0.2)]
    counts = tally(drawn, keep, fused, np.array([0.8]))
    assert counts["k|small|like"] == [10, 10, 10] and counts["place:inner"] == [30, 20, 10]
    found = weights(counts)
    assert found["k|small|like"] == pytest.approx(11 / 12 * 11 / 12)
    assert found["k|like|like"] == pytest.approx(11 / 12 * 1 / 12)
    assert found["k|large|like"] == pytest.approx(1 / 12 * 1 / 2)


def test_an_arm_that_was_never_drawn_is_thought_better_than_one_that_always_fell():
    """The first round's plan may miss arms; what is not known to fail must not be drawn least of all."""
    import tiny

    from generation.plan import chances
    from pipelines.filter import untried

    _, support = tiny.make("image")
    none = untried(support)
    assert len(none) == 2 * 9 + 2 + 3 and set(map(tuple, none.values())) == {(0, 0, 0)}
    drawn = meta(4, kind=["k0"] * 4)
    counts = tally(drawn, np.zeros(4, bool), np.zeros(4), np.array([0.5]), none)
    found = weights(counts)
    assert found["k1|like|like"] == pytest.approx(1 / 4) and found["k0|like|like"] == pytest.approx(1 / 6 * 1 / 2)
    shapes = [name for name in none if "|" in name]
    share = dict(zip(shapes, chances(shapes, found)))
    assert share["k0|like|like"] < share["k1|like|like"] == share["k0|small|faint"]
    assert none["k0|like|like"] == [0, 0, 0]


def test_evidence_adds_up_over_rounds():
    one = tally(meta(4), np.ones(4, bool), np.zeros(4), np.array([0.5]))
    both = tally(meta(6), np.zeros(6, bool), np.zeros(6), np.array([0.5]), one)
    assert both["host:usual"] == [10, 4, 4] and one["host:usual"] == [4, 4, 4]


def test_the_effective_number_is_that_of_equal_shares():
    assert effective(np.array([5.0, 5, 5])) == pytest.approx(3)
    assert effective(np.array([7.0, 0])) == pytest.approx(1) and effective(np.zeros(2)) == 0


def test_diversity_of_the_real_ones_themselves_is_one():
    real = np.array([[0.0, 0], [2, 0], [0, 2]])
    found = diversity(meta(3, kind=["a", "b", "c"]), np.ones(3, bool), real, real)
    assert found["spread"] == pytest.approx(1) and found["coverage"] == 1 and found["kinds"] == pytest.approx(3)
    one = diversity(meta(3), np.array([True, True, True]), real[[0, 0, 0]], real)
    assert one["spread"] == 0 and one["coverage"] == pytest.approx(1 / 3) and one["kinds"] == pytest.approx(1)
    none = diversity(meta(3), np.zeros(3, bool), real, real)
    assert set(none.values()) == {0.0}


def told(**changed) -> dict:
    varied = {"kept": 0.5, "kinds": 3.0, "shapes": 9.0, "areas": 4.0, "spread": 0.8, "coverage": 0.6}
    return {"diversity": varied | changed, "weights": {"a": 1.0, "b": 1.0}}


@pytest.mark.parametrize("name, value", [("kinds", 1.4), ("shapes", 4.4), ("spread", 0.3), ("coverage", 0.2)])
def test_a_round_half_as_varied_is_a_collapse_named_by_its_measure(name, value):
    assert stop(told(**{name: value}), told(), collapse=0.5, settled=0.0).startswith(f"collapse: {name} fell")


def test_nothing_kept_is_a_collapse_from_the_first_round_on():
    assert stop(told(kept=0.0), None, collapse=0.5, settled=0.1) == "collapse: no record was kept"
    assert stop(told(), None, collapse=0.5, settled=0.1) == ""


def test_steering_that_no_longer_moves_has_settled():
    moved = told() | {"weights": {"a": 1.2, "b": 0.8}}
    assert shift(moved["weights"], told()["weights"]) == pytest.approx(0.1)
    assert stop(moved, told(), collapse=0.5, settled=0.05) == ""
    assert stop(moved, told(), collapse=0.5, settled=0.2).startswith("settled")
