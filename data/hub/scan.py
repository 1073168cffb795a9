"""What must not leave this machine: secrets, paths of its disk, what cameras and editors write into pictures."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import InputError

SECRETS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40})",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a Google key": r"\bAIza[\w-]{35}",
    "a Slack token": r"\bxox[abeprs]-[A-Za-z0-9-]{10,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{32,}",
    "a web token": r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}",
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@]+@",
}
PATHS = {
    "a path of a disk": r"(?<![\w.:/])/(?:home|Users|root|mnt|media|tmp|private|Volumes)/[^\s\"'<>]+",
    "a path of a Windows disk": r"\b[A-Za-z]:\\+[^\s\"'<>]+",
    "a file address": r"\bfile://",
}
ANY_PATH = r"^(?:/|\\\\|[A-Za-z]:[\\/])"  # in columns that say where a record is from
ORIGINS = ("id", "group", "source", "host", "parents", "generator", "mask_source")
PNG = b"\x89PNG\r\n\x1a\n"
CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sRGB", b"gAMA", b"cHRM", b"sBIT", b"pHYs", b"bKGD"}
SHOWN = 20  # characters of a path; of a secret none


def scan(folder: Path, own: Mapping[str, str]) -> int:
    """How many files were looked through; InputError with file and place of the first thing that must not leave.

    own: {what it is: text} that must not be found as such, e.g. the token or the folder of this run.
    """
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    found = [f"{file.relative_to(folder).as_posix()}: {hit}" for file in files for hit in hits(file, own)]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise InputError(f"{found[0]}; take it out of the raw data, or the setting it comes from{more}")
    return len(files)


def hits(file: Path, own: Mapping[str, str]) -> Iterator[str]:
    """`place: rule, got value` of everything in a file that must not leave."""
    patterns = compiled(own)
    if file.suffix == ".parquet":
        yield from table_hits(file, patterns)
    elif file.suffix == ".safetensors":
        with file.open("rb") as handle:
            head = handle.read(struct.unpack("<Q", handle.read(8))[0])
        yield from (f"header: {hit}" for hit in text_hits(head.decode("utf-8", "replace"), patterns))
    else:
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
            yield from (f"line {number}: {hit}" for hit in text_hits(line, patterns))


def compiled(own: Mapping[str, str]) -> dict[str, re.Pattern]:
    """{what: pattern}, the texts of this run first."""
    texts = {what: re.escape(text) for what, text in own.items() if len(text) > 3}
    return {what: re.compile(pattern) for what, pattern in {**texts, **SECRETS, **PATHS}.items()}


def text_hits(text: str, patterns: dict[str, re.Pattern]) -> Iterator[str]:
    for what, pattern in patterns.items():
        if hit := pattern.search(text):
            got = f", got {hit[0][:SHOWN]!r}" if what in PATHS else ""  # a secret must not be shown
            yield f"must not hold {what}{got}"


def table_hits(file: Path, patterns: dict[str, re.Pattern]) -> Iterator[str]:
    """Hits in the footer, in every column of text and in the pictures of a parquet file."""
    shard = pq.ParquetFile(file)
    footer = {**(shard.metadata.metadata or {}), b"names": " ".join(shard.schema_arrow.names).encode()}
    for key, value in footer.items():
        if key != b"ARROW:schema":
            yield from (f"footer: {hit}" for hit in text_hits(value.decode("utf-8", "replace"), patterns))
    start = 0
    for batch in shard.iter_batches(batch_size=1024):
        for name, column in zip(batch.schema.names, batch.columns):
            for row, hit in column_hits(name, column, patterns):
                yield f"row {start + row}, column '{name}': {hit}"
        start += len(batch)


def column_hits(name: str, column: pa.Array, patterns: dict[str, re.Pattern]) -> Iterator[tuple[int, str]]:
    """(row, rule) of a column's hits; nested columns are looked into."""
    rows = np.arange(len(column))
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        rows = rows[pc.list_parent_indices(column).to_numpy()]
        column = column.flatten()
    if pa.types.is_struct(column.type):
        for part in column.type:
            for at, hit in column_hits(name, column.field(part.name), patterns):
                yield int(rows[at]), hit
    elif pa.types.is_binary(column.type):
        for at, data in zip(rows, column):
            if data.is_valid and (chunk := foreign_chunk(data.as_py())):
                yield int(at), f"a picture must be PNG without notes (EXIF, text), got {chunk}"
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        if name in ORIGINS:
            patterns = {**patterns, "an absolute path": re.compile(ANY_PATH, re.MULTILINE)}
        values = [value for value in pc.unique(column).to_pylist() if value]
        if next(text_hits("\n".join(values), patterns), None) is None:  # all at once: most columns hold nothing
            return
        for value in values:
            for hit in text_hits(value, patterns):
                yield int(rows[pc.index(column, value).as_py()]), hit


def foreign_chunk(data: bytes) -> str:
    """Name of the first chunk of a PNG that holds more than the picture; "" where there is none."""
    if not data.startswith(PNG):
        return "another format"
    at = len(PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind not in CHUNKS:
            return f"a {kind.decode('latin-1')} chunk"
        if kind == b"IEND":
            return "" if at + 12 == len(data) else "bytes after its end"
        at += 12 + size
    return "a torn PNG"
