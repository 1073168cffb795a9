"""The split: groups stay whole, the layout's own split is kept, windows never touch across parts."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.records import Records, make_meta
from data.sources import SOURCES
from data.split import Split, blocks, check_folds, split, take_share
from data.split import fold as fold_of
from data.windows import add_pool, centred, middle_of

EASY = {"seeds": 2, "support": 3, "folds": 2, "test_share": 0.4, "calib_share": 0.25}


def rows(groups: list, labels: list, kinds: list | None = None, given: list | None = None) -> Records:
    n = len(groups)
    kinds = kinds or ["anomaly" if label else "normal" for label in labels]
    meta = make_meta(n, id=[f"r{i}" for i in range(n)], group=[str(g) for g in groups], label=labels, kind=kinds,
                     given=given or [""] * n)  # fmt: skip
    schema = {"columns": [{"name": "x", "type": "numeric", "nullable": False}]}
    return Records(
        "row", meta, pd.DataFrame({"x": np.arange(n, dtype=float)}), np.array(labels, bool)[:, None], schema
    )


def groups_of(part: Records) -> set:
    return set(part.meta["group"])


def check_rows(records: Records, s: Split, support: int, folds: int, seeds: int) -> None:
    """The promises every grouped split keeps."""
    ids = [name for part in s.parts().values() for name in part.meta["id"]] + s.plan["left_out"]
    assert sorted(ids) == sorted(records.meta["id"])
    train = groups_of(s.fit) | groups_of(s.support)
    assert (
        not train & groups_of(s.test)
        and not train & groups_of(s.calib)
        and not groups_of(s.calib) & groups_of(s.test)
    )
    assert not s.fit.meta["label"].any() and not s.calib.meta["label"].any() and s.support.meta["label"].all()
    assert set(s.test.meta["label"]) == {0, 1}
    for name, part in s.parts().items():
        assert set(part.meta["split"]) == {name}
    pool, of = set(s.support.meta["id"]), dict(zip(records.meta["id"], records.meta["group"]))
    assert len(s.plan["supports"]) == len(s.plan["folds"]) == seeds
    for chosen, fold in zip(s.plan["supports"], s.plan["folds"]):
        assert len(set(chosen)) == len(chosen) == support and set(chosen) <= pool
        assert set(fold) == set(s.fit.meta["id"]) | set(chosen) and set(fold.values()) == set(range(folds))
        for group in set(of.values()):
            assert len({fold[name] for name in fold if of[name] == group}) <= 1
    json.dumps(s.plan)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0, 1]), st.sampled_from("ab"),
                          st.sampled_from(["train", "test", ""])), min_size=10, max_size=60),
       st.booleans(), st.integers(2, 4), st.integers(2, 3), st.integers(0, 3))  # fmt: skip
def test_groups_stay_whole_whatever_the_data(items: list, layout: bool, support: int, folds: int, seed: int):
    records = rows(
        [i[0] for i in items],
        [i[1] for i in items],
        [i[2] if i[1] else "normal" for i in items],
        [i[3] if layout else "" for i in items],
    )
    options = {
        "seeds": 2,
        "support": support,
        "folds": folds,
        "test_share": 0.4,
        "calib_share": 0.2,
        "seed": seed,
    }
    try:
        s = split(records, **options)
    except InputError as error:
        assert any(rule in str(error) for rule in ("there must be", "must hold", "folds must have normals"))
        return
    check_rows(records, s, support, folds, 2)
    again = split(records, **options)
    assert again.plan == s.plan and all(
        a.meta.equals(b.meta) for a, b in zip(again.parts().values(), s.parts().values())
    )


def test_shares_are_met_where_groups_allow():
    records = rows(list(range(200)), [0] * 160 + [1] * 40)
    s = split(records, **EASY)
    check_rows(records, s, 3, 2, 2)
    assert [len(part) for part in s.parts().values()] == [72, 24, 24, 64 + 16]


def test_the_layouts_own_split_of_normals_is_kept_and_anomalies_drawn():
    given = ["train"] * 20 + ["test"] * 20 + ["test"] * 20
    records = rows(list(range(60)), [0] * 40 + [1] * 20, given=given)
    s = split(records, **EASY)
    check_rows(records, s, 3, 2, 2)
    test = s.test.where(label=0)
    assert set(test.meta["id"]) == {f"r{i}" for i in range(20, 40)}
    assert len(s.test.where(label=1)) == 8 and len(s.support) == 12


def test_the_layouts_own_split_of_anomalies_is_kept_where_both_sides_have_some():
    given = (["train"] * 20 + ["test"] * 20) + (["train"] * 5 + ["test"] * 15)
    s = split(rows(list(range(60)), [0] * 40 + [1] * 20, given=given), **EASY)
    assert set(s.support.meta["id"]) == {f"r{i}" for i in range(40, 45)}
    assert len(s.test) == 35


def test_a_group_given_to_both_sides_goes_to_test():
    given = ["train"] * 20 + ["test"] * 20 + [""] * 10
    groups = list(range(50))
    groups[0] = groups[20]
    s = split(rows(groups, [0] * 40 + [1] * 10, given=given), **EASY)
    assert "r0" in set(s.test.meta["id"])


def test_a_seed_changes_supports_and_another_number_of_seeds_does_not():
    records = rows(list(range(100)), [0] * 60 + [1] * 40)
    two, five = split(records, **EASY), split(records, **EASY | {"seeds": 5})
    assert five.plan["supports"][:2] == two.plan["supports"] and five.plan["folds"][:2] == two.plan["folds"]
    assert len({tuple(chosen) for chosen in five.plan["supports"]}) == 5
    assert split(records, **EASY, seed=1).plan != two.plan


def test_a_support_is_even_over_kinds_and_takes_new_groups_first():
    kinds = ["a"] * 30 + ["b"] * 6 + ["c"] * 2
    groups = (
        [i % 40 for i in range(40)]
        + [100 + i // 10 for i in range(30)]
        + [200 + i // 2 for i in range(6)]
        + [300, 301]
    )
    records = rows(groups, [0] * 40 + [1] * 38, ["normal"] * 40 + kinds)
    s = split(records, seeds=4, support=6, folds=2, test_share=0.3, calib_share=0.2)
    meta = s.support.meta.set_index("id")
    for chosen in s.plan["supports"]:
        counts = Counter(meta.loc[chosen, "kind"])
        assert counts["c"] == 1 and {counts["a"], counts["b"]} == {2, 3}
        for kind in "ab":
            used = meta.loc[[name for name in chosen if meta.loc[name, "kind"] == kind], "group"]
            available = meta.loc[meta["kind"] == kind, "group"].nunique()
            assert used.nunique() == min(len(used), available)


def test_every_fold_trains_on_some_support():
    s = split(rows(list(range(100)), [0] * 60 + [1] * 40), **EASY | {"folds": 4, "support": 2})
    for chosen, fold in zip(s.plan["supports"], s.plan["folds"]):
        for held in range(4):
            assert any(fold[name] != held for name in chosen)


def test_where_every_group_is_mixed_calib_takes_whole_groups():
    records = rows([i // 4 for i in range(80)], [0, 1, 0, 1] * 20)
    s = split(records, **EASY)
    check_rows(records, s, 3, 2, 2)
    assert len(s.calib) > 0 and len(s.plan["left_out"]) == len(s.calib)
    scarce = split(rows([i // 4 for i in range(80)], [0, 1, 0, 0] * 20), **EASY | {"support": 11})
    assert len(scarce.support) >= 11 and len(scarce.calib) > 0  # calib forgoes groups that the pool needs


@pytest.mark.parametrize(
    "labels, groups, message",
    [
        ([0] * 20 + [1] * 3, None, "at least 4 anomalies for support and test, got 3"),
        ([0] * 20, None, "at least 4 anomalies for support and test, got 0"),
        ([0] + [1] * 20, None, "at least 4 normals for fit, calib and test, got 1"),
        ([0] * 20 + [1] * 8, [0] * 20 + [1] * 8, "at least"),
        ([0] * 20 + [1] * 8, [*range(20), *[99] * 8], "3 anomalies for supports and 1 for test"),
        ([1], None, "at least 4 normals"),
    ],
)
def test_too_few_is_told_with_the_least(labels: list, groups: list | None, message: str):
    with pytest.raises(InputError, match=message) as caught:
        split(rows(groups or list(range(len(labels))), labels), **EASY)
    assert "\n" not in str(caught.value) and "label more" in str(caught.value)


def test_a_fold_without_normals_is_told():
    """Six anomalies of a lot in one fold; in the other, to make up for them, both lots that have normals too."""
    records = rows([0] * 6 + [1] * 25 + [2] * 21, [1] * 6 + ([0] * 20 + [1] * 5) + ([0] * 20 + [1]))
    fit, odd, block = records.where(label=0).meta, list(records.where(label=1).meta["id"]), blocks(records)
    of = fold_of(fit, odd, block, 2, np.random.default_rng(0))
    assert Counter(of[name] for name in odd) == {0: 6, 1: 6}
    with pytest.raises(InputError, match=r"2 folds must have normals, got 40 in 2 groups, 20 of them in one; .*lower"):
        check_folds(fit, block, of, 2)
    check_folds(fit, block, of | {fit["id"].iloc[0]: 0}, 2)


def test_no_records_is_told():
    with pytest.raises(InputError, match="must hold records"):
        split(rows([], []), **EASY)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 9), max_size=8), st.floats(0, 40), st.integers(0, 9)
)
def test_a_share_is_never_all_and_never_too_much(groups: dict, want: float, seed: int):
    taken = take_share(groups, want, np.random.default_rng(seed))
    assert taken <= set(groups) and (len(taken) < len(groups) or not groups)
    held = sum(groups[name] for name in taken)
    assert held <= max(round(want), min(groups.values(), default=0))
    assert taken or want <= 0 or len(groups) < 2


# ---------------------------------------------------------------- recordings


def series(*parts: tuple[str, str, int, list[tuple[int, int, str]]]) -> Records:
    """Recordings of (entity, given, steps, segments) whose values are unique in the whole data set."""
    x, masks, start = [], [], 0
    for _, _, steps, segments in parts:
        x.append(np.arange(start, start + steps, dtype=float)[:, None] + [0, 0.5])
        mask = np.zeros((steps, 2), bool)
        for a, b, _ in segments:
            mask[a:b] = True
        masks.append(mask)
        start += steps
    at = [
        0 if given != "test" else sum(p[2] for p in parts if p[:2] == (name, "train"))
        for name, given, *_ in parts
    ]
    meta = make_meta(
        len(parts),
        id=[f"{name}-{given}" for name, given, *_ in parts],
        group=[p[0] for p in parts],
        start=at,
        given=[p[1] for p in parts],
        label=[int(bool(p[3])) for p in parts],
        kind=["mixed" if p[3] else "normal" for p in parts],
        segments=[json.dumps(p[3]) for p in parts],
    )
    return Records("series", meta, x, masks, {"channels": ["a", "b"]}, [np.arange(len(v)) for v in x])


WINDOWED = {"seeds": 2, "support": 2, "folds": 2, "test_share": 0.4, "calib_share": 0.25, "window": 10}


def values(part: Records) -> list[float]:
    return [value for x in part.x for value in x[:, 0]]


def test_a_recording_is_cut_exactly():
    records = series(
        ("m", "train", 100, []), ("m", "test", 200, [(20, 24, "a"), (50, 75, "b"), (150, 153, "a")])
    )
    s = split(records, **WINDOWED)
    assert s.fit.meta["start"].tolist() == [0, 10, 20, 30, 40, 50, 60][: len(s.fit)]
    assert s.calib.meta["start"].tolist() == [80, 90]
    assert s.support.meta[["start", "kind"]].values.tolist() == [
        [117, "a"],
        [149, "b"],
        [158, "b"],
        [166, "b"],
    ]
    assert s.test.meta["start"].tolist() == list(range(210, 300, 10))
    assert s.test.meta[["start", "label", "kind"]].values.tolist()[4] == [250, 1, "a"]
    assert s.test.meta["label"].sum() == 1 and s.test.time[0].tolist() == list(range(110, 120))
    np.testing.assert_array_equal(s.test.x[0][:, 0], np.arange(210, 220))
    np.testing.assert_array_equal(s.support.mask[0][:, 0], np.isin(np.arange(17, 27), range(20, 24)))
    assert "segments" not in s.fit.meta and set(s.fit.meta["group"]) == {"m"}


def test_the_last_test_window_is_right_aligned():
    s = split(
        series(("m", "train", 100, []), ("m", "test", 207, [(20, 24, "a"), (50, 75, "b"), (150, 153, "a")])),
        **WINDOWED,
    )
    assert s.test.meta["start"].tolist() == [*range(213, 300, 10), 297]
    assert sorted(set(values(s.test))) == list(range(213, 307))


@st.composite
def recordings(draw) -> tuple[Records, int]:
    window = draw(st.integers(2, 12))
    parts = []
    for entity in range(draw(st.integers(1, 3))):
        layout = draw(st.sampled_from(["both", "one", "labelled train"]))
        for side in ("train", "test") if layout != "one" else ("",):
            steps = draw(st.integers(window, 150))
            cuts = sorted(draw(st.lists(st.integers(0, steps), max_size=8, unique=True)))
            spans = [(a, b, draw(st.sampled_from("ab"))) for a, b in zip(cuts[::2], cuts[1::2])]
            parts.append((f"e{entity}", side, steps, [] if side == "train" and layout == "both" else spans))
    return series(*parts), window


@settings(max_examples=200, deadline=None)
@given(recordings(), st.integers(2, 3))
def test_windows_of_different_parts_never_touch(case: tuple[Records, int], folds: int):
    records, window = case
    try:
        s = split(records, **WINDOWED | {"window": window, "folds": folds})
    except InputError as error:
        assert "must" in str(error)
        return
    seen = {name: set(values(part)) for name, part in s.parts().items()}
    assert not seen["fit"] & seen["calib"] and not (seen["fit"] | seen["calib"]) & seen["support"]
    assert not seen["test"] & (seen["fit"] | seen["calib"] | seen["support"])
    assert len(seen["fit"]) == window * len(s.fit)  # fit windows do not overlap
    truth = {v: odd for x, mask in zip(records.x, records.mask) for v, odd in zip(x[:, 0], mask.any(1))}
    where = {
        v: (name, i)
        for name, given, x in zip(records.meta["group"], records.meta["given"], records.x)
        for i, v in enumerate(x[:, 0])
    }
    record_of = {v: row for row, x in enumerate(records.x) for v in x[:, 0]}
    assert not any(truth[v] for v in seen["fit"] | seen["calib"])
    for part in s.parts().values():
        for x, mask, label, kind in zip(part.x, part.mask, part.meta["label"], part.meta["kind"]):
            assert x.shape == (window, 2)
            assert mask.any(1).tolist() == [truth[v] for v in x[:, 0]] and label == mask.any()
            assert kind in "ab" if label else kind == "normal"
            np.testing.assert_array_equal(np.diff(x[:, 0]), 1)
    for v in seen["test"]:  # an embargo of a window where both come from one recording
        near = [u for u in seen["support"] if record_of[u] == record_of[v]]
        assert all(abs(where[u][1] - where[v][1]) > window for u in near)
    for chosen, fold in zip(s.plan["supports"], s.plan["folds"]):
        assert set(fold) == set(s.fit.meta["id"]) | set(chosen) and len(set(chosen)) == 2
        spans = {name: set(x[:, 0]) for name, x in zip(s.support.meta["id"], s.support.x)}
        for a in chosen:
            for b in chosen:
                assert fold[a] == fold[b] or not spans[a] & spans[b]


def test_one_recording_gives_its_first_half_and_a_labelled_train_part_all_of_it():
    one = series(("m", "", 200, [(20, 24, "a"), (50, 53, "b"), (150, 153, "a")]))
    s = split(one, **WINDOWED)
    assert max(values(s.fit) + values(s.calib) + values(s.support)) < 100
    assert min(values(s.test)) == 110
    both = series(("m", "train", 100, [(20, 24, "a"), (50, 53, "b")]), ("m", "test", 100, [(50, 53, "a")]))
    s = split(both, **WINDOWED)
    assert s.support.meta["start"].tolist() == [17, 46] and s.test.meta["start"].tolist() == list(
        range(100, 200, 10)
    )


def test_whole_recordings_are_for_the_test_or_for_training():
    """An incident late in each of six recordings: their halves leave none to learn from, whole ones half of them."""
    parts = [(f"r{i}", "", 100, [(70, 76, "a" if i < 4 else "b")]) for i in range(6)] + [("calm", "", 100, [])]
    with pytest.raises(InputError, match=r"first half of labelled recordings, got 0; .*series.split to recording"):
        split(series(*parts), **WINDOWED)
    s = split(series(*parts), **WINDOWED | {"test_share": 0.5}, whole=True)
    tested, pool = set(s.test.meta["group"]), set(s.support.meta["group"])
    assert not tested & (pool | set(s.fit.meta["group"]) | set(s.calib.meta["group"]))
    assert pool | tested == {f"r{i}" for i in range(6)} and len(tested & {"r0", "r1", "r2", "r3"}) == 2
    assert len(tested & {"r4", "r5"}) == 1  # of every kind half
    assert len(s.test) == 10 * len(tested) and set(s.support.meta["start"]) == {68}  # round(73 - 5)
    assert set(s.calib.meta["group"]) == {"calm"} and s.calib.meta["start"].tolist() == list(range(0, 100, 10))
    assert s.fit.meta["start"].tolist() == [0, 10, 20, 30, 40, 50, 80, 90] * len(pool)  # all but the incident's


@pytest.mark.parametrize("count, support", [(4, 2), (8, 9)])
def test_too_few_recordings_to_hold_one_out_keep_their_last_tiles_for_calib(count: int, support: int):
    """Two of four are for training; five of eight, with ten windows on incidents, of which a support takes nine."""
    parts = [(f"r{i}", "", 100, [(60, 76, "a")]) for i in range(count)]
    s = split(series(*parts), **WINDOWED | {"support": support}, whole=True)
    assert set(s.calib.meta["group"]) == set(s.fit.meta["group"]) == set(s.support.meta["group"])
    for _, part in s.fit.meta.groupby("group"):
        assert part["start"].tolist() == [0, 10, 20, 30, 40]  # 50 to 80 meet the incident's windows


@pytest.mark.parametrize("quiet", [0, 1, 3])
def test_calib_is_of_recordings_of_its_own_and_spares_incidents(quiet: int):
    calm = [(f"q{i}", "", 100, []) for i in range(quiet)]
    s = split(series(*((f"r{i}", "", 100, [(70, 76, "a")]) for i in range(10)), *calm), **WINDOWED, whole=True)
    groups = {name: set(part.meta["group"]) for name, part in s.parts().items()}
    assert not groups["calib"] & (groups["fit"] | groups["support"] | groups["test"]) and groups["calib"]
    assert len(s.calib) >= 0.25 * (len(s.fit) + len(s.calib)) - 10
    if quiet == 3:
        assert groups["calib"] <= {"q0", "q1", "q2"}
    assert len(groups["support"]) + len(groups["test"] - {"q0", "q1", "q2"}) >= 10 - len(groups["calib"])


def test_a_recording_without_a_normal_window_is_not_held_out_for_calib():
    busy = [(5, 95, "a")]
    parts = [(f"b{i}", "", 100, busy) for i in range(5)] + [(f"r{i}", "", 100, [(70, 76, "a")]) for i in range(5)]
    for seed in range(12):
        s = split(series(*parts), **WINDOWED, whole=True, seed=seed)
        assert len(s.calib) and all(name.startswith("r") for name in s.calib.meta["group"])


def test_the_train_part_of_a_tested_machine_is_for_training():
    parts = [(f"m{i}", side, 100, [(70, 76, "a")] if side == "test" else [])
             for i in range(4) for side in ("train", "test")]  # fmt: skip
    s = split(series(*parts), **WINDOWED | {"test_share": 0.5}, whole=True)
    tested, pool = set(s.test.meta["group"]), set(s.support.meta["group"])
    assert len(tested) == len(pool) == 2 and not tested & pool
    assert set(s.fit.meta["group"]) == {"m0", "m1", "m2", "m3"}
    assert max(s.fit.meta["start"]) < 100 <= min(s.test.meta["start"])


@settings(max_examples=100, deadline=None)
@given(recordings(), st.integers(2, 3))
def test_no_recording_is_parted_where_whole_ones_are_asked_for(case: tuple[Records, int], folds: int):
    records, window = case
    try:
        s = split(records, **WINDOWED | {"window": window, "folds": folds}, whole=True)
    except InputError as error:
        assert "must" in str(error) and "prepare.series.split" not in str(error)
        return
    of = {v: name for name, x in zip(records.meta["id"], records.x) for v in x[:, 0]}
    seen = {name: {of[v] for v in values(part)} for name, part in s.parts().items()}
    assert not seen["test"] & (seen["fit"] | seen["calib"] | seen["support"])
    for name in seen["test"]:
        whole = records.x[list(records.meta["id"]).index(name)]
        assert {v for v in values(s.test) if of[v] == name} == set(whole[:, 0])


def test_the_middle_does_not_part_a_segment():
    for segment, expected in (
        ((95, 120), 95),
        ((80, 104), 104),
        ((100, 120), 100),
        ((80, 100), 100),
        ((99, 101), 99),
    ):
        assert middle_of(series(("m", "", 200, [(*segment, "a")])), 0, 10) == expected
    assert middle_of(series(("m", "", 200, [(5, 150, "a")])), 0, 10) == 150
    assert (
        middle_of(series(("m", "", 200, [(5, 195, "a")])), 0, 10) == 100
    )  # no end leaves room: it is parted


@given(st.integers(0, 60), st.integers(1, 40), st.integers(2, 15))
def test_centred_windows_cover_their_segment(a: int, length: int, window: int):
    starts = centred([[a, a + length, "k"]], (0, 100), window)
    covered = {step for start in starts for step in range(start, start + window)}
    assert set(range(a, a + length)) <= covered and len(starts) == -(-length // window)
    assert min(covered) >= 0 and max(covered) < 100


@given(st.integers(0, 60), st.integers(1, 300), st.integers(2, 40), st.integers(3, 60))
def test_windows_of_one_incident_are_of_one_block(start: int, length: int, window: int, gap: int):
    """However its length divides; what begins two windows later is another."""
    end, later = start + length, start + length + 3 * window + gap
    records = series(("m", "", later + 2 * window, [(start, end, "a"), (later, later + 2, "a")]))
    parts, block = {"support": []}, {}
    add_pool(records, 0, (0, len(records.x[0])), window, parts, block)
    pool = parts["support"][0]
    of = [block[name] for name in pool.meta["id"]]
    assert len(of) == -(-length // window) + 1 and len(set(of[:-1])) == 1 and of[-1] != of[0]
    again = blocks(pool)
    assert [of.index(b) for b in of] == [list(again.values()).index(again[name]) for name in pool.meta["id"]]


@pytest.mark.parametrize(
    "parts, message",
    [
        ([("m", "train", 100, []), ("m", "test", 9, [])], "entity m-test: .*a window .10 steps., got 9"),
        (
            [("m", "train", 100, []), ("m", "test", 25, [(3, 5, "a")])],
            "entity m: its test part must be as long",
        ),
        (
            [("m", "train", 100, []), ("m", "test", 200, [])],
            "at least 2 anomalies .* in the first half .*, got 0",
        ),
        (
            [("m", "train", 100, []), ("m", "test", 200, [(5, 9, "a"), (50, 59, "a")])],
            "test must hold an anomaly",
        ),
        (
            [("m", "train", 12, []), ("m", "test", 200, [(5, 9, "a"), (50, 59, "a")])],
            "at least 2 normals to fit on, got 1",
        ),
    ],
)
def test_recordings_with_too_little_are_told_with_the_least(parts: list, message: str):
    with pytest.raises(InputError, match=message) as caught:
        split(series(*parts), **WINDOWED)
    assert "\n" not in str(caught.value)


def test_without_segments_in_meta_the_runs_of_the_mask_count():
    records = series(
        ("m", "train", 100, []), ("m", "test", 200, [(20, 24, "a"), (50, 75, "b"), (150, 153, "a")])
    )
    plain = Records(
        "series", records.meta.drop(columns="segments"), records.x, records.mask, records.schema, records.time
    )
    a, b = split(records, **WINDOWED), split(plain, **WINDOWED)
    assert a.support.meta["start"].tolist() == b.support.meta["start"].tolist() and set(
        b.support.meta["kind"]
    ) == {"anomaly"}


@pytest.mark.parametrize("modality", ["image", "series", "row"])
def test_the_demo_sets_can_be_split(modality: str):
    records, _ = SOURCES["demo"](None, modality=modality)
    s = split(records, seeds=2, support=6, folds=2, test_share=0.4, calib_share=0.2, window=32)
    assert all(len(part) for part in s.parts().values())
    for chosen in s.plan["supports"]:
        kinds = Counter(s.support.meta.set_index("id").loc[chosen, "kind"])
        assert max(kinds.values()) - min(kinds.values()) <= 1 and set(kinds) == set(s.support.meta["kind"])


def test_the_schema_of_rows_knows_what_training_has_and_nothing_of_the_test():
    labels = [0] * 30 + [1] * 12
    records = rows(list(range(42)), labels)
    parts = split(records, **EASY)
    seen = {*parts.fit.meta["id"], *parts.support.meta["id"], *parts.calib.meta["id"]}
    inside = np.isin(records.meta["id"], sorted(seen))
    x = pd.DataFrame({
        "n": np.where(inside, 0.5, 0.125), "gap": np.where(inside, 1.0, np.nan),
        "word": pd.array(np.where(inside, "known", "strange"), "string"),
    })  # fmt: skip
    columns = [{"name": "n", "type": "numeric", "nullable": False, "decimals": 3},
               {"name": "gap", "type": "numeric", "nullable": True, "decimals": 0},
               {"name": "word", "type": "categorical", "nullable": False, "categories": ["known", "strange"]}]
    records = Records("row", records.meta, x, np.zeros((42, 3), bool), {"columns": columns})
    parts = split(records, **EASY)
    assert set(parts.test.x["word"]) == {"strange"}
    for part in parts.parts().values():
        n, gap, word = part.schema["columns"]
        assert (n["decimals"], gap["nullable"], word["categories"]) == (1, False, ["known"])
