"""What the hard gates measure: exact on planted faults, and the same in any company."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny

from data.records import Records, concat, make_meta
from data.records.codecs import CODECS
from detection.gates import Gates, allowed, posterior, violations
from detection.novelty import copy_distance, edit_vectors


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


@pytest.mark.parametrize("modality", tiny.MODALITIES)
def test_a_round_that_was_stopped_has_nothing_to_measure(modality):
    _, support, gates = world(modality)
    made = as_made(support, list(support.meta["id"]))
    assert len(gates.measure(made.take([]))) == 0 and set(gates.measure(made.take([]))) == set(gates.measure(made))


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


def test_copies_are_measured_by_how_far_different_anomalies_lie_apart():
    """Though most of the support is one anomaly over and over."""
    real = np.array([[0.0, 0.0]] * 9 + [[3.0, 4.0]])
    np.testing.assert_allclose(copy_distance(np.array([[0.0, 1.0], [3.0, 4.0]]), real), [0.2, 0])
    same = copy_distance(np.array([[0.0, 0.0], [0.1, 0.0]]), real[:9])
    assert same[0] == 0 and same[1] > 1e6, "all of it one: a copy or none"


def test_the_posterior_is_bayes_with_gaussian_kernels():
    real, kinds = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array(["a", "a", "b", "b"])
    at = np.array([[0.5], [5.5], [10.0]])
    found = posterior(at, np.array(["a", "a", "a"]), real, kinds)
    weight = lambda x, k: np.mean([np.exp(-0.5 * (x - r) ** 2) for r in real[kinds == k, 0]])  # noqa: E731
    expected = [weight(x, "a") / (weight(x, "a") + weight(x, "b")) for x in at[:, 0]]
    np.testing.assert_allclose(found, expected)
    assert found[1] == pytest.approx(0.5)
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
