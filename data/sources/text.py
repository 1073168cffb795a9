"""A csv file as text cells: encoding, separator and shape are checked here, types later."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError, SettingsError
from data.sources.common import MOST_BYTES, show

SEPARATORS = (",", ";", "\t", "|")
MISSING = re.compile("|\\?|NA|na|(?i:n/a|<na>|[+-]?nan|null)")  # cells that stand for no value; Na is sodium
GZIP = b"\x1f\x8b"
ZIPS = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", b"PAR1")


def read_text(path: Path, *, separator: str | None = None, raw: Collection[str] = ()) -> pd.DataFrame:
    """The cells as stripped text, missing ones as "", by the header's names; the index is the line that a row begins
    on. Gzip is unpacked by content.

    raw: columns whose missing cells stay as written. InputError: unreadable, not UTF-8, no header, duplicate or empty
    names, a line with too many or too few cells, a quote that is not closed in its cell.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow

    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if separator is not None and len(separator) != 1:
        raise SettingsError(f"source csv: separator must be one character or tab, got {show(separator)!r}; mend it")
    data = unpacked(path)
    whole = decoded(path, data)
    text = whole.lstrip("\r\n")
    header, separator = read_header(path, text, separator)
    try:
        table = arrow.read_csv(
            io.BytesIO(text.encode()),
            read_options=arrow.ReadOptions(column_names=header, skip_rows_after_names=1, use_threads=False,
                                           block_size=max(2**20, min(len(data), 2**30))),
            parse_options=arrow.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(column_types=dict.fromkeys(header, pa.string()),
                                                 strings_can_be_null=False))  # fmt: skip
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{show(path)}: every line must have {len(header)} cells, got {show(error, 120)}; "
            "mend it or set separator"
        ) from error
    columns, broken = {}, {}
    for name in header:
        cells = table[name]
        at = np.flatnonzero(pc.match_substring(cells, "\n").to_numpy())
        broken |= {(int(row), name): cells[int(row)].as_py() for row in at}
        cells = pc.utf8_trim_whitespace(cells)
        if name not in raw:
            cells = pc.if_else(pc.match_substring_regex(cells, f"^({MISSING.pattern})$"), "", cells)
        columns[name] = cells.to_numpy(zero_copy_only=False)
    more = np.zeros(len(table), int)  # lines that a row has beyond its first
    for (row, _), cell in broken.items():
        more[row] += cell.count("\n")
    lines, before = begins(text, more), whole[: len(whole) - len(text)].count("\n")
    check_quotes(path, text, header, separator, broken, lines, more, before)
    return pd.DataFrame(columns, index=lines + before, dtype=object)


def begins(text: str, more: np.ndarray) -> np.ndarray:
    """(N,) line that each row below the header begins on, blank ones counted; more: (N,) lines beyond its first."""
    blank = [not line.strip("\r") for line in text.split("\n")]
    found, at = np.zeros(len(more), int), 1
    for row, lines in enumerate(more.tolist()):
        while at < len(blank) and blank[at]:
            at += 1
        found[row] = at + 1
        at += 1 + lines
    return found


def check_quotes(
    path: Path, text: str, header: list[str], separator: str, broken: dict[tuple[int, str], str], lines: np.ndarray,
    more: np.ndarray, before: int,
) -> None:  # fmt: skip
    """Raises InputError for a stray quote: its cell takes in the rows up to the next quote, or to the end.

    broken: the cells that hold line ends, by row and column. A stray one's closing quote is missing, or followed by
    text; or, where by chance it is neither, its lines are whole rows. lines, more: of each row, the line that it begins
    on and how many it has beyond; before: blank lines left out above.
    """
    at, ends = 0, np.cumsum([0, *(len(line) + 1 for line in text.split("\n"))] if broken else [0])
    for (row, name), cell in sorted(broken.items(), key=lambda item: (item[0][0], header.index(item[0][1]))):
        written, at = cell.replace('"', '""'), max(at, int(ends[lines[row] - 1]))
        stop = int(ends[lines[row] + more[row]])
        found = [i for end in (written, written.rstrip(" ")) if (i := text.find(f'"{end}"', at, stop)) >= 0]
        first, *inner, last = (line.count(separator) + 1 for line in cell.split("\n"))
        rows = len(header) > 2 and inner and {first + last - 1, *inner} == {len(header)}
        if rows or not found:
            raise InputError(
                f"{show(path)} row {lines[row] + before}, column '{show(name)}': a quote must be closed in its cell, "
                f"got '\"{show(cell, 40)}'; double it or remove it, or put the cell on one line"
            )
        at = found[0] + len(cell)


def unpacked(path: Path) -> bytes:
    """The bytes of a file, gunzipped where they are gzip; InputError for other archives and for bombs."""
    try:
        data = path.read_bytes()
        if data.startswith(GZIP):
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(
            f"{show(path)}: the file must be readable, got {show(what, 80)}; check the path"
        ) from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{show(path)}: a file must unpack to at most {MOST_BYTES >> 30} GiB; split it")
    if data.startswith(ZIPS):
        raise InputError(f"{show(path)}: a table must be csv or csv.gz, got another archive; unpack it")
    if not data.strip():
        raise InputError(
            f"{show(path)}: a table must have a header and rows, got an empty file; export it again"
        )
    return data


def decoded(path: Path, data: bytes) -> str:
    """The text without its byte order mark."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{show(path)} line {row}: text must be UTF-8, got byte 0x{data[error.start]:02x}; "
            "save it as UTF-8"
        ) from error
    if "\0" in text:
        row = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{show(path)} line {row}: text must not hold NUL bytes; export it again")
    return text if "\n" in text else text.replace("\r", "\n")  # lines as old spreadsheets end them


def read_header(path: Path, text: str, separator: str | None) -> tuple[list[str], str]:
    """(names, separator); without one given, the separator that makes most columns of the header."""
    first = text.split("\n", 1)[0].rstrip("\r")
    if "\r" in first:
        raise InputError(
            f"{show(path)}: all lines must end alike, the header ends in a lone carriage return; save it anew"
        )
    split = {mark: next(csv.reader([first], delimiter=mark), []) for mark in (separator, *SEPARATORS) if mark}
    mark = separator or max(SEPARATORS, key=lambda mark: len(split[mark]))
    names = [name.strip() for name in split[mark]]
    better = max(SEPARATORS, key=lambda mark: len(split[mark]))
    if separator and len(names) == 1 and len(split[better]) > 1:
        raise InputError(
            f"{show(path)}: separator must part the header, got {separator!r}; set separator to {better!r}"
        )
    for column, name in enumerate(names, 1):
        if not name:
            raise InputError(
                f"{show(path)}: every column must have a name, column {column} has none; name it"
            )
        if names.count(name) > 1:
            raise InputError(
                f"{show(path)}: column names must be unique, got '{show(name)}' "
                f"{names.count(name)} times; rename them"
            )
    numbers = pd.to_numeric(pd.Series(names), errors="coerce").notna().to_numpy()
    if np.all(numbers):
        raise InputError(
            f"{show(path)}: the first line must hold column names, got numbers: {show(first, 60)}; "
            "add a header"
        )
    return names, mark
