"""What the hard gates measure: exact on planted faults, and the same in any company."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
from scipy.ndimage import binary_dilation, gaussian_filter

from data.records import Records, concat, make_meta
from data.records.codecs import CODECS
from detection.gates import Gates, posterior, violations
from detection.novelty import Copies, copy_distance, edit_vectors
from generation.limits import allowed, within


def world(modality: str):
    fit, support = tiny.make(modality)
    hosts = concat([fit, support])
    return hosts, support, Gates(hosts, support, CODECS[modality].fit(fit))


def as_made(support: Records, host: list[str]) -> Records:
    """The support as if it were generated from these hosts."""
    meta = support.meta.assign(host=host, synthetic=True)
    if support.modality == "row":
        meta["changed"] = [[True] * support.x.shape[1] for _ in host]
    return Records(support.modality, meta, support.x, support.mask, support.schema, support.time)


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_a_real_anomaly_passes_every_gate_and_is_a_copy(modality):
    _, support, gates = world(modality)
    found = gates.measure(as_made(support, list(support.meta["id"])))
    assert (found["outside"] == 0).all() and (found["violations"] == 0).all()
    np.testing.assert_allclose(found["copy_distance"], 0, atol=1e-6)
    assert (found["posterior"] >= 0.5).all()
    if modality == "row":
        assert found["contrast_low"].isna().all()
    else:
        assert (found["contrast_low"] >= 1 - 1e-9).all() and (found["contrast_high"] <= 1 + 1e-9).all()


def test_edits_are_measured_by_the_spacing_of_their_kind():
    fit, support = tiny.make("row")
    support = concat([support, support])
    support.meta["id"] = [f"s{i}" for i in range(len(support))]
    x, kinds = support.x.copy(), np.repeat(["near", "far"], len(support) // 2)
    x.loc[:3, "amount"] = x["amount"].iloc[0] + np.array([0.0, 0.01, 0.02, 0.03])
    x.loc[:3, "count"] = x["count"].iloc[0]
    support = Records("row", support.meta.assign(kind=kinds), x, support.mask, support.schema, None)
    gates = Gates(concat([fit, support]), support, CODECS["row"].fit(fit))
    vectors = edit_vectors(fit, gates.codec)
    found = gates.measure(as_made(fit, list(fit.meta["id"])))["edit_distance"]
    np.testing.assert_array_equal(found, copy_distance(vectors, gates.copies.vectors, kinds))
    assert (found != copy_distance(vectors, gates.copies.vectors)).all()


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_a_round_that_was_stopped_has_nothing_to_measure(modality):
    _, support, gates = world(modality)
    made = as_made(support, list(support.meta["id"]))
    assert len(gates.measure(made.take([]))) == 0 and set(gates.measure(made.take([]))) == set(gates.measure(made))


def test_rows_that_do_not_say_what_was_edited_may_differ_where_their_mask_is():
    _, support, gates = world("row")
    own = support.meta.assign(host=list(support.meta["id"]), synthetic=True)
    made = Records("row", own, support.x, support.mask, support.schema, support.time)
    assert "changed" not in made.meta and (gates.measure(made)["outside"] == 0).all()


@pytest.mark.parametrize("modality", ["image", "series"])
def test_a_change_outside_the_mask_is_counted(modality):
    _, support, gates = world(modality)
    x = [value.copy() for value in support.x]
    where = np.argwhere(~np.asarray(support.mask[1], bool))[:3]
    for at in where:
        x[1][tuple(at)] += 1
    changed = Records(modality, support.meta, x, support.mask, support.schema, support.time)
    made = as_made(changed, list(support.meta["id"]))
    assert list(gates.measure(made)["outside"]) == [0, 3, 0, 0]


def test_cells_that_were_not_edited_must_be_the_hosts():
    _, support, gates = world("row")
    made = as_made(support, list(support.meta["id"]))
    made.meta["changed"] = [[False] * 4 for _ in range(4)]
    other = as_made(support, list(support.meta["id"][[1, 1, 2, 3]]))
    other.meta["changed"] = made.meta["changed"]
    assert list(gates.outside(made)) == [0] * 4  # missing cells are like missing cells
    assert gates.outside(other)[0] > 0 and gates.outside(as_made(support, ["nobody"] * 4))[0] == -1


def test_a_measure_does_not_depend_on_its_company():
    for modality in tiny.MODALITIES:
        _, support, gates = world(modality)
        made = as_made(support, list(support.meta["id"]))
        whole, alone = gates.measure(made), gates.measure(made.take([2]))
        np.testing.assert_allclose(whole.iloc[[2]].to_numpy(float), alone.to_numpy(float), equal_nan=True)


def test_rows_that_break_the_tables_rules_are_counted_per_cell():
    hosts, support, _ = world("row")
    may = allowed(hosts)
    assert may["count"].low >= 0  # never below 0 in the data, so never below it
    x = support.x.copy()
    x.loc[0, "amount"] = 1e9
    x.loc[1, "count"] = -1
    x["shop"] = x["shop"].astype(object)
    x.loc[2, "shop"] = "moon"
    x.loc[3, ["amount", "count"]] = pd.NA
    broken = Records("row", support.meta, x, support.mask, support.schema)
    gaps = sum(not may[name].gaps for name in ("amount", "count"))
    assert list(violations(broken, may)) == [1, 1, 1, gaps]
    assert list(violations(support, may)) == [0] * 4


def test_what_the_schema_allows_and_no_real_row_holds_is_a_violation():
    """The schema is typed by all rows, the test among them: its gaps and categories are not the normals'."""
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(20), "D")
    gone, flag, shop = ([None] * 20, "Int64"), ([True] * 20, "boolean"), (["a", "b"] * 10, "string")
    cells = {name: pd.array(*of) for name, of in {"gone": gone, "flag": flag, "shop": shop}.items()}
    x = pd.DataFrame({"load": np.arange(20.0), "day": day.astype("datetime64[ns]"), **cells})
    types = ["numeric", "date", "integer", "boolean", "categorical"]
    columns = [{"name": n, "type": t, "nullable": True, "categories": ["a", "b", "c"]} for n, t in zip(x, types)]
    meta = make_meta(20, id=[f"r{i}" for i in range(20)])
    real = Records("row", meta, x, np.zeros((20, 5), bool), {"columns": columns})
    may, made = allowed(real), x.iloc[:9].copy()
    assert list(violations(real, may)) == [0] * 20
    made.loc[0, "load"] = np.nan
    made.loc[1, "gone"] = 3
    made.loc[2, "flag"] = False
    made.loc[3, "day"] = pd.Timestamp("2024-01-22")  # two days past the last: a tenth of the range is spare
    made.loc[4, "day"] = pd.Timestamp("2024-01-21")
    made.loc[5, "day"] = pd.NaT
    made.loc[6, "shop"] = "c"
    made.loc[7, "shop"] = pd.NA
    made.loc[8, ["load", "flag"]] = [-1e-9, pd.NA]
    assert list(violations(Records("row", real.meta.iloc[:9], made, real.mask[:9], real.schema), may)) == [
        1, 1, 1, 1, 0, 1, 1, 1, 2]  # fmt: skip


def test_what_lies_beyond_a_limit_is_put_on_it_and_nothing_else_moves():
    hosts, support, _ = world("row")
    may, made = allowed(hosts), support.x.copy()
    made.loc[0, "amount"], made.loc[1, "count"], made.loc[2, "count"] = 1e9, -3, 10**9
    made.loc[3, ["amount", "count"]] = pd.NA
    out = within(made, hosts)
    assert out.loc[0, "amount"] == pytest.approx(may["amount"].high)
    assert list(out.loc[1:2, "count"]) == [np.ceil(may["count"].low), np.floor(may["count"].high)]
    assert out.loc[3, ["amount", "count"]].isna().all()
    assert (out.dtypes == made.dtypes).all()
    gaps = np.array([0, 0, 0, sum(not may[name].gaps for name in ("amount", "count"))])
    assert (violations(Records("row", support.meta, out, support.mask, support.schema), may) == gaps).all()
    pd.testing.assert_frame_equal(within(support.x, hosts), support.x)


@pytest.mark.parametrize("kind, dtype, value", [
    ("numeric", "float64", 1.5), ("integer", "Int64", 3), ("boolean", "boolean", True), ("categorical", "string", "a"),
    ("date", "datetime64[ns]", pd.Timestamp("2024-01-01"))])  # fmt: skip
def test_a_column_that_no_real_row_fills_stays_empty(kind, dtype, value):
    x = pd.DataFrame({"gone": pd.array([None] * 3, dtype), "here": [1.0, 2.0, 3.0]})
    types = [{"name": "gone", "type": kind, "nullable": True}, {"name": "here", "type": "numeric", "nullable": False}]
    real = Records("row", make_meta(3), x, np.zeros((3, 2), bool), {"columns": types})
    made = x.copy()
    made["gone"] = pd.array([value, None, value], dtype)
    out = within(made, real)
    assert out["gone"].isna().all() and (out.dtypes == made.dtypes).all() and list(out["here"]) == [1, 2, 3]


def test_a_whole_number_is_put_on_a_whole_limit():
    x = pd.DataFrame({"age": pd.array(range(20, 35), "Int64")})
    columns = {"columns": [{"name": "age", "type": "integer", "nullable": False}]}
    real = Records("row", make_meta(15, id=[f"r{i}" for i in range(15)]), x, np.zeros((15, 1), bool), columns)
    out = within(pd.DataFrame({"age": pd.array([1, 25, 99], "Int64")}), real)
    assert list(out["age"]) == [19, 25, 35]  # a tenth of 14 below 20 is 18.6
    assert (violations(Records("row", real.meta.iloc[:3], out, real.mask[:3], real.schema), allowed(real)) == 0).all()


@pytest.mark.parametrize("unit", ["ns", "s"])
def test_a_date_beyond_those_there_are_is_put_on_the_limit(unit):
    x = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=11).astype(f"datetime64[{unit}]")})
    columns = {"columns": [{"name": "day", "type": "date", "nullable": True}]}
    real = Records("row", make_meta(11, id=[f"r{i}" for i in range(11)]), x, np.zeros((11, 1), bool), columns)
    days = pd.to_datetime(["1971-01-01", None, "2024-01-05", "2099-01-01"]).astype(x["day"].dtype)
    out = within(pd.DataFrame({"day": days}), real)["day"]
    assert list(out.dt.strftime("%F").fillna("")) == ["2023-12-31", "", "2024-01-05", "2024-01-12"]
    assert out.dtype == x["day"].dtype


def test_copies_are_measured_by_how_far_different_anomalies_lie_apart():
    """Though most of the support is one anomaly over and over."""
    real = np.array([[0.0, 0.0]] * 9 + [[3.0, 4.0]])
    np.testing.assert_allclose(copy_distance(np.array([[0.0, 1.0], [3.0, 4.0]]), real), [0.2, 0])
    same = copy_distance(np.array([[0.0, 0.0], [0.1, 0.0]]), real[:9])
    assert same[0] == 0 and same[1] > 1e6, "all of it one: a copy or none"
    often = np.array([[0.0]] * 4 + [[3.0], [4.0]])
    np.testing.assert_allclose(copy_distance(np.array([[6.0]]), often), 2)  # the spacings are 3, 1 and 1


def blots(count: int, seed: int = 3) -> Records:
    """Photographs (48, 56) of noise, on each a ragged blot of another grain."""
    rng, x, mask = np.random.default_rng(seed), [], []
    for _ in range(count):
        hole = np.zeros((48, 56), bool)
        top, left = rng.integers(10, 28, 2)
        hole[top : top + 10, left : left + 12] = gaussian_filter(rng.normal(size=(10, 12)), 1.5) > -0.05
        image = rng.integers(90, 130, hole.shape).astype(np.uint8)
        image[hole] = np.clip(160 + 25 * gaussian_filter(rng.normal(size=hole.shape), 1.5)[hole] * 4, 0, 255)
        x.append(image)
        mask.append(hole)
    meta = make_meta(count, id=[f"b{i}" for i in range(count)], label=[1] * count, kind=["k"] * count)
    return Records("image", meta, x, mask, {})


@pytest.mark.parametrize("turn", range(8))
def test_the_pixels_of_an_anomaly_are_found_wherever_they_were_put(turn):
    """On another image, elsewhere, turned and mirrored, under a wider label, longer on one side."""
    support, others = blots(6), blots(40, seed=4)
    x, mask, rng = [], [], np.random.default_rng(0)
    for image, hole in zip(support.x, support.mask):
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        under, seen = (np.rot90(a[box], turn % 4)[:, :: 1 if turn < 4 else -1] for a in (hole, image))
        host, label = rng.integers(60, 90, hole.shape).astype(np.uint8), np.zeros(hole.shape, bool)
        place = slice(20, 20 + under.shape[0]), slice(30, 30 + under.shape[1])
        host[place][under], label[place] = seen[under], under
        x.append(host)
        mask.append(binary_dilation(label) | np.roll(label, 4, axis=0))
    pasted = Records("image", support.meta, x, mask, {})
    copies = Copies(support, None)
    distance, which = copies.nearest(pasted, edit_vectors(pasted, None))
    np.testing.assert_allclose(distance, 0, atol=1e-6)
    assert list(which) == list(range(6))
    assert copy_distance(edit_vectors(pasted, None), copies.vectors).min() > 0.1, "by the looks of the box they are new"
    measured = Gates(support, support, CODECS["image"].fit(support)).measure(as_made(pasted, list(pasted.meta["id"])))
    np.testing.assert_allclose(measured["copy_distance"], 0, atol=1e-6)
    assert measured["edit_distance"].min() > 0.1
    far = copies.nearest(others, edit_vectors(others, None))[0]
    assert far.min() > 0.5 and 0.8 < np.median(far) < 1.2


def test_anomalies_that_are_there_twice_are_no_measure_of_how_far_real_ones_are_apart():
    support = blots(3)
    mirrored = [[np.ascontiguousarray(a[:, ::-1]) for a in part] for part in (support.x, support.mask)]
    twins = Records("image", support.meta.assign(id=["t0", "t1", "t2"]), *mirrored, {})
    alone, twice = Copies(support, None), Copies(concat([support, twins]), None)
    assert twice.usual[0] == pytest.approx(alone.usual[0], rel=0.1)  # other pixels of a mirrored one are compared
    found = twice.nearest(twins, edit_vectors(twins, None))[0]
    np.testing.assert_allclose(found, 0, atol=1e-6)
    assert Copies(concat([support.take([0]), twins.take([0])]), None).usual[0] == pytest.approx(2**0.5)


def test_a_tight_kind_is_not_held_against_how_far_a_wide_one_spreads():
    """Each is measured by its own kind; one alone in its kind by all."""
    rng = np.random.default_rng(0)
    tight, wide, fresh = rng.normal(0, 0.01, (5, 4)), rng.normal(9, 2, (5, 4)), rng.normal(0, 0.01, (200, 4))
    both, kinds = np.concatenate([tight, wide]), np.repeat(["flood", "theft"], 5)
    apart = copy_distance(fresh, both, kinds)
    np.testing.assert_array_equal(apart, copy_distance(fresh, tight))
    assert np.median(apart) > 0.5 and np.median(copy_distance(fresh, both)) < 0.05
    assert copy_distance(both, both, kinds).max() == 0
    lone = np.array([[0.0], [1.0], [5.0]])
    np.testing.assert_allclose(copy_distance(np.array([[7.0]]), lone, np.array(["a", "a", "b"])), 2.0)  # of 1, 1 and 4


def test_images_are_measured_by_their_own_kind_too():
    support = blots(6)
    support.meta["kind"] = ["a"] * 4 + ["b"] * 2
    parts = [Copies(support.take(range(4)), None).usual[0], Copies(support.take([4, 5]), None).usual[0]]
    np.testing.assert_allclose(Copies(support, None).usual, np.repeat(parts, [4, 2]))


def test_two_or_three_pixels_are_no_copy_of_all_that_has_as_many():
    rng, names = np.random.default_rng(0), [f"p{i}" for i in range(60)]
    meta = make_meta(60, id=names, label=[1] * 60, kind=["k"] * 60)
    mask = np.zeros((20, 20), bool)
    mask[9, 9:11] = True
    x = [rng.integers(0, 255, (20, 20)).astype(np.uint8) for _ in range(60)]
    points = Records("image", meta, x, [mask] * 60, {})
    support, others = points.take(range(8)), points.take(range(8, 60))
    found = Copies(support, None).nearest(others, edit_vectors(others, None))[0]
    np.testing.assert_array_equal(found, copy_distance(edit_vectors(others, None), edit_vectors(support, None)))


def test_an_anomaly_of_a_single_value_or_far_larger_is_compared_by_its_box_alone():
    support = blots(3)
    flat = [np.where(hole, 200, image).astype(np.uint8) for image, hole in zip(support.x, support.mask)]
    for own in (Records("image", support.meta, flat, support.mask, {}), support.take([0])):
        found = Copies(own, None).nearest(support, edit_vectors(support, None))[0]
        np.testing.assert_array_equal(found, copy_distance(edit_vectors(support, None), edit_vectors(own, None)))
    small = [np.zeros_like(hole) for hole in support.mask]
    for hole in small:
        hole[2:4, 2:4] = True
    tiny_ones = Records("image", support.meta, support.x, small, {})
    assert np.isinf(Copies(support, None).apart(support.x[0], small[0], 3)).all()
    found = Copies(support, None).nearest(tiny_ones, edit_vectors(tiny_ones, None))[0]
    np.testing.assert_array_equal(found, copy_distance(edit_vectors(tiny_ones, None), edit_vectors(support, None)))


def test_the_posterior_is_bayes_with_gaussian_kernels():
    real, kinds = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array(["a", "a", "b", "b"])
    at = np.array([[0.5], [5.5], [10.0]])
    found = posterior(at, np.array(["a", "a", "a"]), real, kinds)
    weight = lambda x, k: np.mean([np.exp(-0.5 * (x - r) ** 2) for r in real[kinds == k, 0]])  # noqa: E731
    expected = [weight(x, "a") / (weight(x, "a") + weight(x, "b")) for x in at[:, 0]]
    np.testing.assert_allclose(found, expected)
    assert found[1] == pytest.approx(0.5)
    twice = posterior(at, np.array(["a", "a", "a"]), np.repeat(real, 2, axis=0), np.repeat(kinds, 2))
    np.testing.assert_allclose(twice, expected)  # an anomaly that is there twice tells nothing of how wide kinds are
    assert list(posterior(at, np.array(["a"] * 3), real[:2], kinds[:2])) == [1, 1, 1]


def test_columns_are_compared_cell_by_cell_whatever_they_hold():
    from detection.gates import differ

    cells = {"float": [1.5, 2.5, 3.5], "Int64": [1, 2, 3], "boolean": [True, False, True], "string": ["a", "b", "c"],
             "category": ["a", "b", "c"], "datetime64[ns]": pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"])}
    for dtype, (a, b, c) in cells.items():  # c is a for booleans
        one, other = (pd.Series(v, dtype=dtype) for v in ([a, b, None, a, None], [a, c, None, None, b]))
        assert differ(one, other).tolist() == [False, b != c, False, True, True], dtype
    one, other = pd.Series(["a", "b"], dtype="category"), pd.Series(["a", "z"], dtype="category")
    assert differ(one, other).tolist() == [False, True]  # of other categories


def test_a_copy_is_one_wherever_in_its_window_it_lies():
    """The same steps, eight later: no distance; in another channel, or doubled, there is some."""
    x, mask = np.zeros((4, 40, 2)), np.zeros((4, 40, 2), bool)
    for i, (first, c, size) in enumerate([(4, 0, 3), (12, 0, 3), (4, 1, 3), (20, 0, 6)]):
        x[i, first : first + 6, c] = size * np.arange(1, 7)
        mask[i, first : first + 6, c] = True
    records = Records("series", make_meta(4), list(x), list(mask), {"channels": ["a", "b"]})
    codec = CODECS["series"].fit(records.where(label=0))
    vectors = edit_vectors(records, codec)
    apart = np.linalg.norm(vectors - vectors[0], axis=1)
    assert apart[1] < 1e-6 and (apart[2:] > 1).all()
