"""Columns of text or numbers as typed columns and their schema; one that fits no type is refused."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from data.errors import InputError
from data.records import ROW_TYPES
from data.records.table import decimals
from data.sources.common import show

TRUTH = (
    {"t", "f"},
    {"true", "false"},
    {"yes", "no"},
    {"y", "n"},
    {"0", "1"},
)  # lower case; second of 0/1 is true
TRUE = {"t", "true", "yes", "y", "1"}
WHOLE = re.compile(r"([+-]?\d+)\.0+")
INTEGER = re.compile(r"[+-]?\d{1,18}(\.0*)?")
CODE = re.compile(
    r"[+-]?0\d+|[+-]?\d{19,}"
)  # leading zeros or too long for an integer: as of a code, see are_codes
MARKED = re.compile(  # 2,5 and 12.5 %, 1.234,50 and 1 234,50, 1,234.50 and 1'234.50; 1.2.3 and 10.0.0.1 are none
    r"([+-]?(\d+,\d+|\d+([.,]\d+)?(?= ?%))|"
    r"-?[1-9]\d{0,2}(([. \u00a0\u202f]\d{3})+(,\d+)?|([,'\u2019]\d{3})+(\.\d+)?))( ?%)?"
)
DRESSED = re.compile(  # $1,200.50, 12 mm, (3.5), 7 km/h, and minus signs of typesetting: the unit is what follows
    r"\(?[+\u2212-]? ?[$€£¥]? ?(\d{1,3}(,\d{3})+(\.\d+)?|\d+([.,]\d+)?)(?P<unit> ?([^\W\d_]|[$€£¥°%])[^\s()]*)?\)?"
)
GAP = re.compile(r"[-\u2013\u2014.]+|#.+[!?A]")  # - and #DIV/0! among numbers stand for no number
GROUPS = re.compile(r"\d{3}([. ]\d{3})+")  # 604.123.456: of all its values, a code, not an amount
LOCAL = re.compile(  # 31.12.2024, 12/31/2024 23:59, 31-12-2024, 01.02.24, 1/2/24 11:05 PM; 1.2.13 is a version
    r"(\d{1,2}([./-])\d{1,2}\2\d{4}|\d{1,2}/\d{1,2}/\d{2}|(0[1-9]|[12]\d|3[01])\.(0[1-9]|[12]\d|3[01])\.\d{2})"
    r"([ T]\d{1,2}:\d{2}(:\d{2})?( ?[AaPp][Mm])?)?"
)
PLAINLY = re.compile(r":|\d{4}|^(1[3-9]|[23]\d)|^\d+/(1[3-9]|[23]\d)/")  # no code: a time, a year, a day above 12
DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?( ?[+-]\d{2})?)?( ?(Z|[+-]\d{2}:?\d{2}))?"
)
ZONE = re.compile(r"\d{4}-?\d{2}-?\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)")
COMPACT = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # dates without marks, by length
CODED = 0.02  # of the distinct values of a column: fewer with leading zeros are amounts, oddly written
DRIFT, FEW = 0.9, 20  # a column of more than 20 values of which 90 % are numbers is meant to be numbers
MOST_CATEGORIES = 1000
UNIQUE, SOME = 0.5, 50  # above 50 values, half of them distinct: an id or free text


def typed(text: pd.DataFrame, where: str, rows: list[str] | None = None) -> tuple[pd.DataFrame, dict]:
    """(typed frame, schema) of stripped text cells, "" = missing.

    where: the file, rows: a name a row, for messages. Constant and empty columns are kept and marked
    "constant" or "empty" in the schema; "padded" is how many numbers look like codes. InputError names the first cell
    that breaks its column's type.
    """
    rows = rows or [f"row {i + 2}" for i in range(len(text))]
    frame, columns = {}, []
    for name in text:
        cells = text[name].to_numpy(object)
        frame[name], column = infer(name, cells, where, rows)
        columns.append(column)
    return pd.DataFrame(frame, index=pd.RangeIndex(len(text))), {"columns": columns}


def infer(name: str, cells: np.ndarray, where: str, rows: list[str]) -> tuple[pd.Series, dict]:
    """(typed cells, column of the schema) of one column."""
    filled = cells != ""
    values = sorted(set(cells[filled]))
    column = {"name": name, "type": "numeric", "nullable": not filled.all()}
    if not values:
        return pd.Series(np.full(len(cells), np.nan)), column | {"empty": True}
    if len(values) == 1:
        column["constant"] = True
    kind = kind_of(values)
    column["type"] = kind
    if kind in ("integer", "numeric") and (alike := like_codes(values)):
        column["padded"] = alike
    if kind == "boolean":
        truth = {value: value.lower() in TRUE for value in values}
        return pd.Series([truth.get(cell) for cell in cells], dtype="boolean"), column
    if kind == "integer":
        whole = {value: int(value.split(".")[0]) for value in values}
        return pd.Series([whole.get(cell, pd.NA) for cell in cells], dtype="Int64"), column
    at = f"{where}, column '{show(name)}'"
    if kind == "date":
        return dates(cells, at, rows), column
    if kind == "numeric":
        numbers = pd.to_numeric(pd.Series(np.where(filled, cells, "nan")), errors="coerce").to_numpy(
            np.float64
        )
        bad = filled & ~np.isfinite(numbers)
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f"{at}, {rows[row]}: numbers must be finite, got '{show(cells[row])}'; blank it or mend it"
            )
        return pd.Series(numbers), column | {"decimals": decimals(numbers)}
    check_categories(values, cells, filled, at, rows)
    return pd.Series(np.where(filled, cells, None), dtype="string"), column | {"categories": values}


def spelled(name: str) -> str:
    """A name as it stands, but a whole number without a fraction of zeros: 1.0 is what a column of 1 becomes in a file
    where a cell is missing."""
    found = WHOLE.fullmatch(name)
    return found[1] if found else name


def kind_of(values: list[str]) -> str:
    """The type of a column with these distinct texts: the first that fits all of them."""
    lower = {value.lower() for value in values}
    if any(lower <= truth for truth in TRUTH[:-1]) or lower == TRUTH[-1]:
        return "boolean"
    if are_codes(values):
        return "categorical"
    if all(INTEGER.fullmatch(value) for value in values):
        return "integer"
    if all(map(is_number, values)):
        return "numeric"
    return "date" if all(DATE.fullmatch(value) for value in values) else "categorical"


def like_codes(values: list[str]) -> int:
    """How many have leading zeros or are too long for an integer."""
    return sum(CODE.fullmatch(value) is not None for value in values)


def are_codes(values: list[str]) -> bool:
    """Whether distinct texts are codes, not amounts: 007 among a few, among equally long ones, or as no rare case."""
    padded = like_codes(values)
    few_or_even = len(values) <= FEW or len({len(value) for value in values}) == 1
    return padded > 0 and (few_or_even or padded >= CODED * len(values))


def are_measures(plain: list[str], dressed: list[re.Match]) -> bool:
    """Whether numbers with something to them are amounts of one unit: nothing is lost with it, and one has a decimal, a
    space, a sign or a bracket. House numbers (1, 1a), 4th and 1700s are not."""
    texts = [one.string for one in dressed]
    bare = {*plain, *(one[1] for one in dressed)}
    alike = len({one["unit"] for one in dressed}) == 1 and len(bare) == len(plain) + len(dressed)
    return alike and any(re.search(r"[.,( $€£¥%°\u2212]", text) for text in texts)


def is_number(text: str) -> bool:
    """Whether the text is a number, infinite ones too."""
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_categories(
    values: list[str], cells: np.ndarray, filled: np.ndarray, at: str, rows: list[str]
) -> None:
    """Raises InputError where text was meant to be numbers or dates, or is an id or free text."""
    for fits, rule in ((is_number, "a number"), (DATE.fullmatch, "an ISO date")):
        odd = {value for value in values if not fits(value)}
        rare = len(values) > FEW and len(odd) <= (1 - DRIFT) * len(values)
        gaps = 0 < len(odd) < len(values) and all(map(GAP.fullmatch, odd))
        if (rare or gaps) and not are_codes(values):
            row = next(i for i, cell in enumerate(cells) if cell in odd)
            raise InputError(
                f"{at}, {rows[row]}: the cell must be {rule} as the others are, got "
                f"'{show(cells[row])}'; mend it or blank it"
            )
    for form, sure, fits, rule in (  # sure: what at least one value shows, since codes may have the form too
        (MARKED, MARKED, is_number, "numbers must be digits and at most a decimal point"),
        (LOCAL, PLAINLY, DATE.fullmatch, "dates must be ISO, as 2024-03-01"),
    ):
        local = [v for v in values if form.fullmatch(v) and not fits(v) and not GROUPS.fullmatch(v)]
        if any(map(sure.search, local)) and all(form.fullmatch(value) or fits(value) for value in values):
            raise InputError(f"{at}: {rule}, got '{show(local[0])}'; write them so")
    found = [DRESSED.fullmatch(value) for value in values if not is_number(value)]
    if len(values) > FEW and found and all(found) and are_measures([v for v in values if is_number(v)], found):
        raise InputError(
            f"{at}: numbers must be digits and at most a decimal point, got '{show(found[0].string)}'; "
            "leave out units, brackets and separators"
        )
    if len(values) > MOST_CATEGORIES or (len(values) > SOME and len(values) > UNIQUE * filled.sum()):
        raise InputError(
            f"{at}: text must have few categories, got {len(values)} in {int(filled.sum())} rows; "
            "name it as id or list it under ignore"
        )


def has_zone(text: str) -> bool:
    """Whether an ISO date says its zone: Z, +02:00, +0200 or +02."""
    return ZONE.fullmatch(text) is not None


def compact(numbers: np.ndarray) -> bool:
    """Whether whole numbers are dates of 1900 to 2100 without their marks: 20240301, 2024030100, 202403010000."""
    cells = pd.Series(numbers).astype(str)
    form = COMPACT.get(len(cells.iloc[0]))
    if form is None or (cells.str.len() != len(cells.iloc[0])).any():
        return False
    return pd.to_datetime(cells, format=form, errors="coerce").between("1900-01-01", "2101-01-01", "left").all()


def dates(cells: np.ndarray, at: str, rows: list[str]) -> pd.Series:
    """datetime64[ns] of ISO dates, "" missing; with zones: in UTC. InputError: mixed zones, no such date."""
    filled = np.flatnonzero(cells != "")
    zoned = np.array([has_zone(cells[i]) for i in filled], bool)
    if zoned.any() and not zoned.all():
        row = filled[int((zoned != zoned[0]).argmax())]
        raise InputError(
            f"{at}, {rows[row]}: all times must have a zone or none, got '{show(cells[row])}'; "
            "write all in UTC"
        )
    text = pd.Series(np.where(cells == "", None, cells)).str.replace(",", ".", regex=False)
    parsed = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
    bad = [i for i in filled if pd.isna(parsed.iloc[i])]
    if bad:
        rule = "exist" if DATE.fullmatch(cells[bad[0]]) else "be ISO, as 2024-03-01 00:00, or a time a whole number"
        raise InputError(f"{at}, {rows[bad[0]]}: a date must {rule}, got '{show(cells[bad[0]])}'; mend it")
    parsed = parsed.dt.tz_localize(None)
    if len(filled) and not parsed.dropna().between("1678-01-01", "2262-01-01").all():
        raise InputError(
            f"{at}: dates must lie in 1678..2261, got {parsed.min()} to {parsed.max()}; mend them"
        )
    return parsed.astype(ROW_TYPES["date"][0])


def check_finite(x: np.ndarray, names: list[str], where: str) -> None:
    """Raises InputError that names an infinite cell of an (N, D) array."""
    if np.isinf(x).any():
        row, column = np.argwhere(np.isinf(x))[0]
        raise InputError(
            f"{where} row {row}, column '{names[column]}': numbers must be finite, got {x[row, column]}; "
            "mend it or make it nan"
        )


def numeric_schema(x: np.ndarray, names: list[str], where: str) -> tuple[pd.DataFrame, dict]:
    """(typed frame, schema) of an (N, D) array; InputError names an infinite cell."""
    check_finite(x, names, where)
    frame, columns = {}, []
    for name, values in zip(names, x.T.astype(np.float64)):
        there = values[~np.isnan(values)]
        column = {"name": name, "type": "numeric", "nullable": len(there) < len(values)}
        whole = len(there) > 0 and (there == np.round(there)).all() and np.abs(there).max() < 2**53
        if whole:
            column["type"] = "boolean" if set(np.unique(there)) == {0.0, 1.0} else "integer"
            values = pd.Series(values, dtype="Int64")
        else:
            column["decimals"] = decimals(values)
        column |= (
            {"empty": True} if not len(there) else {"constant": True} if (there == there[0]).all() else {}
        )
        frame[name] = pd.Series(values).astype(ROW_TYPES[column["type"]][0])
        columns.append(column)
    return pd.DataFrame(frame, index=pd.RangeIndex(len(x))), {"columns": columns}
