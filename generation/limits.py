"""What a cell of a generated row may hold, by what real rows hold; numbers and dates beyond it are brought back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.records import Records
from data.records.table import nanoseconds

MARGIN = 0.1  # of a column's range that a generated number or date may leave it by
AMOUNTS = ("numeric", "integer", "date")


@dataclass(frozen=True)
class Allowed:
    """What the cells of a column may be. low, high: of numbers, and of dates in ns; nan of others. names: categories
    and truth values. gaps: whether any may be missing."""

    low: float
    high: float
    names: frozenset[str]
    gaps: bool


def amounts(cells: pd.Series, kind: str) -> np.ndarray:
    """(N,) float64 of a column of numbers or dates (ns), NaN where missing."""
    if kind == "date":
        return np.where(cells.isna(), np.nan, nanoseconds(cells))
    return cells.to_numpy(float, na_value=np.nan)


def allowed(real: Records) -> dict[str, Allowed]:
    """{column: what the real rows hold}: the range of numbers and dates with MARGIN of it to spare, but never below 0
    where none is; categories and truth values that were met; gaps only where there are some."""
    return {column["name"]: allowed_of(real.x[column["name"]], column["type"]) for column in real.schema["columns"]}


def allowed_of(cells: pd.Series, kind: str) -> Allowed:
    """The same of one column of a type."""
    there, low, high, names = cells.dropna(), np.nan, np.nan, frozenset()
    if kind in AMOUNTS and len(there):
        value = amounts(there, kind)
        spare = MARGIN * (value.max() - value.min())
        low, high = value.min() - spare, value.max() + spare
        low = max(low, 0.0) if value.min() >= 0 else low
    elif kind not in AMOUNTS:
        names = frozenset(there.astype(str))
    return Allowed(low, high, names, bool(cells.isna().any()))


def within(cells: pd.DataFrame, real: Records) -> pd.DataFrame:
    """Rows whose numbers and dates are none that `allowed` refuses: what lies beyond a limit is put on it. A codec goes
    on beyond the normals that it was fitted on, where amounts and counts may fall below 0. A column that no real row
    fills stays empty.

    cells: (N, columns) of the real rows' schema.
    """
    out = cells.copy()
    for column in real.schema["columns"]:
        name, kind = column["name"], column["type"]
        if not real.x[name].notna().any():
            out[name] = out[name].mask(np.ones(len(out), bool))
        if kind not in AMOUNTS:
            continue
        may, value = allowed_of(real.x[name], kind), amounts(out[name], kind)
        low, high = (np.ceil(may.low), np.floor(may.high)) if kind != "numeric" else (may.low, may.high)
        beyond = np.flatnonzero((value < low) | (value > high))
        if len(beyond):
            put, fixed = np.clip(value[beyond], low, high), out[name].copy()
            fixed.iloc[beyond] = pd.to_datetime(put.astype(np.int64)) if kind == "date" else put.astype(
                np.int64 if kind == "integer" else float)  # fmt: skip
            out[name] = fixed
    return out
