"""A csv file as text cells: encoding, separator and shape are checked here, types later."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError, SettingsError
from data.sources.common import MOST_BYTES, show

SEPARATORS = (",", ";", "\t", "|")
MISSING = ("", "?", "NA", "N/A", "<NA>", "NaN", "nan", "NULL", "null")  # cells that stand for no value
GZIP = b"\x1f\x8b"
ZIPS = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", b"PAR1")


def read_text(path: Path, *, separator: str | None = None) -> pd.DataFrame:
    """The cells as stripped text, missing ones as "", by the header's names. Gzip is unpacked by content.

    InputError: unreadable, not UTF-8, no header, duplicate or empty names, a line with too many or too few
    cells.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv as arrow

    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if separator is not None and len(separator) != 1:
        raise SettingsError(f"source csv: separator must be one character or tab, got {show(separator)!r}; mend it")
    data = unpacked(path)
    text = decoded(path, data)
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
    missing = pa.array(MISSING)
    columns = {}
    for name in header:
        cells = pc.utf8_trim_whitespace(table[name])
        cells = pc.if_else(pc.is_in(cells, missing), "", cells)
        columns[name] = cells.to_numpy(zero_copy_only=False)
    return pd.DataFrame(columns, dtype=object)


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
    text = text.lstrip("\r\n")
    return text if "\n" in text else text.replace("\r", "\n")  # lines as old spreadsheets end them


def read_header(path: Path, text: str, separator: str | None) -> tuple[list[str], str]:
    """(names, separator); without one given, the separator that makes most columns of the header."""
    first = text.split("\n", 1)[0].rstrip("\r")
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
