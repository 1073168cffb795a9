"""Values as cells of a csv table and as JSON: typed, exact, and never a formula."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from data.records import Records

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # how a spreadsheet's formula may begin


def escaped(text: str) -> str:
    """Text that no spreadsheet runs: a ' before a formula's first character.

    A ' is also put before text of ' and such a character, so that two texts never become one; to undo it, drop one.
    """
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def plain(value: object) -> object:
    """The value in JSON's types: None where missing, ISO dates, the shortest float, infinity as text."""
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value
    if isinstance(value, float | np.floating):
        return None if value != value else float(str(value)) if math.isfinite(value) else str(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if pd.isna(value):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def cell(value: object) -> str:
    """The value as the text of a csv cell: "" where missing, only text is escaped."""
    if isinstance(value, float | np.floating):
        return "" if value != value else str(value)
    value = plain(value)
    if isinstance(value, str):
        return escaped(value)
    return "" if value is None else str(value) if type(value) is int else json.dumps(value, ensure_ascii=False)


def plain_rows(frame: pd.DataFrame) -> Iterator[dict]:
    """{column: `plain` value} of every row."""
    columns = [[plain(value) for value in frame[name].array] for name in frame]
    return (dict(zip(frame, row)) for row in zip(*columns))


@contextmanager
def table(path: Path, header: Iterable[str]) -> Iterator:
    """A csv writer on a new file that already holds its header: UTF-8, comma, CRLF."""
    with path.open("x", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)  # CRLF also makes it quote cells that hold a lone carriage return
        writer.writerow([escaped(name) for name in header])
        yield writer


@contextmanager
def provenance(folder: Path, columns: list[str], also: tuple[str, ...] = ()) -> Iterator:
    """A function that appends a record's meta (and what `also` names, in front) to provenance.csv."""
    with table(folder / "provenance.csv", [*also, *columns]) as writer:
        yield lambda meta, *front: writer.writerow(map(cell, [*front, *(meta.get(name) for name in columns)]))


def times(chunk: Records, dated: bool) -> Iterator[list]:
    """The time of every series: ISO, to the nanosecond where need be, or where not `dated` its step numbers."""
    for i, x in enumerate(chunk.x):
        start = int(chunk.meta["start"].iloc[i])
        time = np.arange(start, start + len(x)) if chunk.time is None else np.asarray(chunk.time[i], np.int64)
        if dated:
            texts = np.datetime_as_string(time.astype("datetime64[ns]"), unit="ns").tolist()
            yield [text.rstrip("0").removesuffix(".") for text in texts]
        else:
            yield time.tolist()


def dump(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
