"""What the hard gates measure: exact on planted faults, and the same in any company."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny

from data.records import Records, concat
from data.records.codecs import CODECS
from detection.gates import Gates, limits, posterior, violations


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
    allowed = limits(hosts)
    assert allowed["count"][0] >= 0  # never below 0 in the data, so never below it
    x = support.x.copy()
    x.loc[0, "amount"] = 1e9
    x.loc[1, "count"] = -1
    x["shop"] = x["shop"].astype(object)
    x.loc[2, "shop"] = "moon"
    x.loc[3, ["amount", "count"]] = pd.NA
    broken = Records("row", support.meta, x, support.mask, support.schema)
    assert list(violations(broken, allowed)) == [1, 1, 1, 2]
    assert list(violations(support, allowed)) == [0] * 4


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
