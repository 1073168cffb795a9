"""Rows of mixed columns as numbers of about unit spread and back onto their hosts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from data.errors import InputError
from data.records import Records

KNOTS = 500  # most knots of a quantile transform
TAIL = NormalDist().inv_cdf(0.9)  # extrapolation keeps the mean slope of the outer tenth
FAR = 5.0  # z beyond which values are told apart by their logarithm
MOST_LOG = 600.0  # exp of it is a float64
LEAST = 0.2  # least scale of a feature: a category of one row in a thousand lies 10 away, not 30
MOST_DECIMALS = 9
MOST_UNITS = 1e10  # beyond as many units of the last decimal, rounding could not undo float error
NEAR = 1e-100  # closer values count as this far apart: no slope overflows
EXACT = 2**53  # integers up to here are exact in float64
LARGEST = 2**63 - 2**10  # the largest float64 that is an int64
UNITS = [86_400 * 10**9, 3600 * 10**9, 60 * 10**9, 10**9, 10**6, 10**3, 1]  # of dates, ns: day .. nanosecond
TYPES = ("numeric", "integer", "categorical", "boolean", "date")


def decimals(values: np.ndarray) -> int | None:
    """Fewest decimals (0..9) that write every finite value exactly; None for full precision."""
    values = np.unique(values[np.isfinite(values)])
    for places in range(MOST_DECIMALS + 1 if len(values) else 0):
        if np.abs(values).max() * 10.0**places > MOST_UNITS:
            break
        if (np.round(values, places) == values).all():
            return places
    return None


@dataclass(frozen=True)
class Quantile:
    """A monotone map of a column to the standard normal and back, linear between knots and beyond the ends.

    Beyond FAR spreads it goes on with the logarithm: an anomaly of 17,000 spreads would outweigh all other columns in
    a squared error. A value met once has z = Phi^-1((rank - 1/2) / n). Ties have the z of their mean rank, and the
    middle half of their ranks (at the ends all outer ones) leads back to them: an atom such as 0 survives small errors.
    value: (K,) increasing. low <= mid <= high: (K,) z.
    """

    value: np.ndarray
    before: np.ndarray  # rows below each knot
    count: np.ndarray  # rows at each knot
    rows: int

    @classmethod
    def fit(cls, values: np.ndarray) -> Quantile:
        """On the finite values of a column; with none, 0 stands for 0."""
        values = np.sort(values[np.isfinite(values)]) + 0.0
        values = values if len(values) else np.zeros(1)
        ranks = np.linspace(0, len(values) - 1, min(KNOTS, len(values))).round().astype(int)
        picked = np.unique(values[ranks])
        before = np.searchsorted(values, picked, "left")
        return cls(picked, before, np.searchsorted(values, picked, "right") - before, len(values))

    def __post_init__(self) -> None:
        z = np.vectorize(NormalDist().inv_cdf, otypes=[float])
        ties = (self.count - 1) / 4
        low = self.before + 0.5 + ties
        high = self.before + self.count - 0.5 - ties
        low[0], high[-1] = 0.5, self.rows - 0.5
        mid = self.before + self.count / 2
        for name, rank in (("low", low), ("mid", mid), ("high", high)):
            object.__setattr__(self, name, z(rank / self.rows))
        object.__setattr__(self, "slope", (self._slope(0), self._slope(-1)))

    def _slope(self, end: int) -> float:
        """dz/dvalue beyond an end: of the outer tenth; of all if that is one value; 1 for a constant."""
        value, z, sign = self.value, (self.low[0], self.high[-1])[end], (-1, 1)[end]
        tenth = np.interp(sign * TAIL, *self._knots())
        if tenth != value[end] and abs(z) > TAIL:
            return (abs(z) - TAIL) / max(abs(value[end] - tenth), NEAR)
        if len(value) > 1:
            return (self.high[-1] - self.low[0]) / max(value[-1] - value[0], NEAR)
        return 1 / max(1.0, abs(value[0]))

    def _knots(self) -> tuple[np.ndarray, np.ndarray]:
        z = np.column_stack([self.low, self.high]).ravel()
        first = np.r_[True, np.diff(z) > 0]
        return z[first], np.repeat(self.value, 2)[first]

    def to_normal(self, values: np.ndarray) -> np.ndarray:
        """z of values; strictly increasing, NaN stays NaN."""
        u, last = self.value, len(self.value) - 1
        right = np.clip(np.searchsorted(u, values), 1, max(last, 1))
        left, right = right - 1, np.minimum(right, last)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (values - u[left]) / (u[right] - u[left])
            z = self.high[left] + share * (self.low[right] - self.high[left])
        z = np.where(values < u[0], self.low[0] + (values - u[0]) * self.slope[0], z)
        z = np.where(values > u[last], self.high[last] + (values - u[last]) * self.slope[1], z)
        at = np.clip(np.searchsorted(u, values), 0, last)
        return drawn_in(np.where(u[at] == values, self.mid[at], z))

    def from_normal(self, z: np.ndarray) -> np.ndarray:
        """The values of z; never decreasing, the inverse of `to_normal`."""
        z = let_out(z)
        value = np.interp(z, *self._knots())
        value = np.where(z < self.low[0], self.value[0] + (z - self.low[0]) / self.slope[0], value)
        return np.where(z > self.high[-1], self.value[-1] + (z - self.high[-1]) / self.slope[1], value)

    def state(self) -> dict:
        return {"value": self.value.tolist(), "before": self.before.tolist(), "count": self.count.tolist(),
                "rows": self.rows}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict) -> Quantile:
        return cls(*(np.array(state[key]) for key in ("value", "before", "count")), int(state["rows"]))


def drawn_in(z: np.ndarray) -> np.ndarray:
    """z as it is up to FAR, beyond it sign(z) (FAR + log(1 + |z| - FAR)); strictly increasing and smooth."""
    far = np.maximum(np.abs(z) - FAR, 0.0)
    return np.where(far > 0, np.sign(z) * (FAR + np.log1p(far)), z)


def let_out(z: np.ndarray) -> np.ndarray:
    """The inverse of `drawn_in`; constant from MOST_LOG on."""
    far = np.clip(np.abs(z) - FAR, 0.0, MOST_LOG)
    return np.where(far > 0, np.sign(z) * (FAR + np.expm1(far)), z)


def to_numbers(spec: dict, cells: pd.Series) -> np.ndarray:
    """A numeric, integer or date column as float64, NaN if missing; dates in units since their origin."""
    if spec["type"] != "date":
        return cells.to_numpy(dtype=np.float64, na_value=np.nan)
    since = ((nanoseconds(cells) - spec["origin"]) / spec["unit"]).astype(np.float64)
    return np.where(cells.isna(), np.nan, since)


def nanoseconds(cells: pd.Series) -> np.ndarray:
    """int64 ns since 1970 of a date column, 0 where missing."""
    return cells.astype("datetime64[ns]").fillna(pd.Timestamp(0)).to_numpy().astype(np.int64)


def from_numbers(spec: dict, numbers: np.ndarray) -> np.ndarray:
    """Cells of a numeric, integer or date column, rounded as the column is; no NaN here."""
    if spec["type"] == "numeric":
        return numbers if spec["decimals"] is None else np.round(numbers, spec["decimals"]) + 0.0
    if spec["type"] == "integer":
        return np.clip(np.rint(numbers), -LARGEST, LARGEST).astype(np.int64)
    whole = np.clip(np.rint(numbers), -EXACT, EXACT).astype(np.int64)
    reach = 2**63 - 1 - abs(spec["origin"])
    whole = np.clip(whole, -(reach // spec["unit"]), reach // spec["unit"])
    return (whole * spec["unit"] + spec["origin"]).astype("datetime64[ns]")


def date_grid(cells: pd.Series) -> dict:
    """Origin (the first date) and unit of a date column in ns: the coarsest unit that holds every date."""
    t = nanoseconds(cells[cells.notna()])
    unit = next(unit for unit in UNITS if (t % unit == 0).all())
    return {"origin": int(t.min()) if len(t) else 0, "unit": unit}


def fit_column(column: dict, cells: pd.Series) -> dict:
    """The column of the schema and what decoding it needs: categories, decimals, date grid, quantiles."""
    spec = {key: column[key] for key in ("name", "type")}
    if spec["type"] not in TYPES:
        choice = ", ".join(TYPES)
        raise InputError(f"column '{spec['name']}': type must be one of {choice}, got '{spec['type']}'")
    spec["nullable"] = bool(column.get("nullable") or cells.isna().any())
    if spec["type"] == "categorical":
        found = sorted(set(cells.dropna().astype(str)))
        spec["categories"] = [str(name) for name in column.get("categories") or found]
    if spec["type"] == "date":
        spec |= date_grid(cells)
    if spec["type"] in ("numeric", "integer", "date"):
        numbers = to_numbers(spec, cells)
        if spec["type"] == "numeric":
            spec["decimals"] = column["decimals"] if column.get("decimals") is not None else decimals(numbers)
        spec["quantile"] = Quantile.fit(numbers)
    return spec


def as_seen(schema: dict, frame: pd.DataFrame) -> dict:
    """A schema of rows that knows of the categories, gaps and decimals in `frame` alone."""
    columns = []
    for column in schema["columns"]:
        cells = frame[column["name"]]
        column = column | {"nullable": bool(cells.isna().any())}
        if column["type"] == "categorical":
            column["categories"] = sorted(set(cells.dropna().astype(str)))
        if column["type"] == "numeric":
            column["decimals"] = decimals(cells.to_numpy(np.float64))
        columns.append(column)
    return schema | {"columns": columns}


def features(spec: dict, cells: pd.Series, ids: pd.Series) -> np.ndarray:
    """The column's features (N, k): z, +-1 or one-hot +-1, NaN if missing; then +-1 'missing' if nullable. A category
    that is not among the known ones is none of them."""
    missing = cells.isna().to_numpy()
    if spec["type"] == "categorical":
        hot = cells.astype(object).where(~missing, None).astype(str).to_numpy()[:, None] == np.array(
            spec["categories"], dtype=object
        )
        value = np.where(hot, 1.0, -1.0)
    elif spec["type"] == "boolean":
        value = np.where(cells.fillna(False).astype(bool), 1.0, -1.0)[:, None]
    else:
        numbers = to_numbers(spec, cells)
        if np.isinf(numbers).any():
            row = ids.iloc[np.isinf(numbers).argmax()]
            raise InputError(f"row {row}, column '{spec['name']}': must be finite, got infinity; drop it")
        value = spec["quantile"].to_normal(numbers)[:, None]
    value[missing] = np.nan
    return np.column_stack([value, np.where(missing, 1.0, -1.0)]) if spec["nullable"] else value


def cells_of(spec: dict, raw: np.ndarray, dtype) -> pd.api.extensions.ExtensionArray | np.ndarray:
    """Cells of `dtype` from the column's features (N, k), the inverse of `features`."""
    missing = raw[:, -1] > 0 if spec["nullable"] else np.zeros(len(raw), bool)
    value = raw[:, :-1] if spec["nullable"] else raw
    if spec["type"] == "categorical":
        if not spec["categories"]:
            missing[:] = True
        names = np.array([*spec["categories"], None], dtype=object)
        cells = names[np.where(missing, -1, value.argmax(1) if value.shape[1] else 0)]
        return pd.array(cells, dtype=dtype) if dtype.kind != "O" or hasattr(dtype, "na_value") else cells
    if spec["type"] == "boolean":
        cells = value[:, 0] > 0
    else:
        cells = from_numbers(spec, spec["quantile"].from_normal(value[:, 0]))
    if missing.any():
        return pd.Series(cells).mask(missing).astype(dtype).array
    return pd.array(cells).astype(dtype)


@dataclass(frozen=True)
class RowCodec:
    """Rows as x (N, F) float64: numbers, integers and dates through a quantile transform, categories one-hot.

    Every feature is divided by its standard deviation, flags and one-hots are centred first (a number's 0 is
    its median): all have a spread of about 1, a balanced flag is +-1. A missing cell is 0, its flag up, if its column
    has one: where the rows it was fitted on miss none, a gap is 0 alone.
    feature_column: (F,) the column of each feature.
    """

    columns: list[dict]
    centre: np.ndarray
    scale: np.ndarray
    feature_column: np.ndarray

    @classmethod
    def fit(cls, records: Records) -> RowCodec:
        """On the given rows; categories and decimals of the schema come first. ValueError without rows."""
        if not len(records):
            raise ValueError("a row codec must be fitted on at least one row, got none")
        columns = [fit_column(column, records.x[column["name"]]) for column in records.schema["columns"]]
        parts = [features(spec, records.x[spec["name"]], records.meta["id"]) for spec in columns]
        centre, scale = [], []
        for spec, part in zip(columns, parts):
            for k, values in enumerate(part.T):
                values = values[~np.isnan(values)]
                flag = "quantile" not in spec or k > 0
                spread = float(values.std()) if len(values) else 0.0
                centre.append(float(values.mean()) if flag and len(values) else 0.0)
                scale.append(max(spread, LEAST) if spread > 0 else 1.0)
        owner = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
        return cls(columns, np.array(centre), np.array(scale), owner)

    def encode(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """x (N, F) float64, mask (N, F) bool; InputError for infinity."""
        parts = [features(spec, records.x[spec["name"]], records.meta["id"]) for spec in self.columns]
        raw = np.column_stack(parts) if parts else np.zeros((len(records), 0))
        x = np.nan_to_num((raw - self.centre) / self.scale, nan=0.0)
        return x, np.asarray(records.mask, bool).reshape(len(records), len(self.columns))[:, self.feature_column]

    def decode(self, x: np.ndarray, hosts: Records, mask: np.ndarray) -> pd.DataFrame:
        """The hosts with their masked cells taken from x (N, F): numbers rounded, likeliest category, sign.

        mask: (N, columns) or (N, F), a cell counting as masked if any of its features is. Unmasked cells, and
        those whose x is the host's own, are the host's. ValueError for NaN or infinity in the mask.
        """
        x, hole = np.asarray(x), np.asarray(mask, bool)
        starts = np.searchsorted(self.feature_column, np.arange(len(self.columns)))
        if hole.shape[1] != len(self.columns):
            hole = np.logical_or.reduceat(hole, starts, axis=1)
        moved = np.logical_or.reduceat(x != self.encode(hosts)[0].astype(x.dtype), starts, axis=1)
        raw, frame = x.astype(np.float64) * self.scale + self.centre, hosts.x.copy()
        for j, spec in enumerate(self.columns):
            rows, part = np.flatnonzero(hole[:, j] & moved[:, j]), self.feature_column == j
            if not len(rows):
                continue
            if not np.isfinite(raw[np.ix_(rows, part)]).all():
                raise ValueError(f"values of column '{spec['name']}' must be finite, got NaN or infinity")
            cells = frame[spec["name"]].copy()
            cells.iloc[rows] = cells_of(spec, raw[np.ix_(rows, part)], cells.dtype)
            frame[spec["name"]] = cells
        return frame

    def state(self) -> dict:
        columns = [{k: v.state() if k == "quantile" else v for k, v in spec.items()} for spec in self.columns]
        return {"columns": columns, "centre": self.centre.tolist(), "scale": self.scale.tolist(),
                "feature_column": self.feature_column.tolist()}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict) -> RowCodec:
        columns = [{k: Quantile.from_state(v) if k == "quantile" else v for k, v in spec.items()}
                   for spec in state["columns"]]  # fmt: skip
        centre, scale = np.array(state["centre"], np.float64), np.array(state["scale"], np.float64)
        return cls(columns, centre, scale, np.array(state["feature_column"], dtype=int))
