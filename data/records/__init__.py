"""Records: a columnar batch of one modality with its labels, masks and provenance, and its parquet store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.atomic import atomic_dir
from data.errors import InputError

MODALITIES = ("image", "series", "row")
DATED = 10**17  # a time farther from 0 is ns since the epoch (1973 and later, 1966 and before), no step number
SPLITS = ("fit", "support", "calib", "test", "generated")
# column: (pandas dtype, arrow type, default); None: derived in `make_meta`
META = {
    "id": ("str", pa.string(), None),
    "split": ("str", pa.string(), ""),
    "label": ("int8", pa.int8(), 0),
    "kind": ("str", pa.string(), None),
    "group": ("str", pa.string(), None),
    "source": ("str", pa.string(), ""),
    "start": ("int64", pa.int64(), 0),
    "synthetic": ("bool", pa.bool_(), False),
    "host": ("str", pa.string(), ""),
    "parents": ("object", pa.list_(pa.string()), None),
    "severity": ("float32", pa.float32(), np.nan),
    "seed": ("int64", pa.int64(), -1),
    "round": ("int32", pa.int32(), 0),
    "generator": ("str", pa.string(), ""),
    "mask_source": ("str", pa.string(), ""),
}
# type in the schema of rows: (pandas dtype, arrow type)
ROW_TYPES = {
    "numeric": ("float64", pa.float64()),
    "integer": ("Int64", pa.int64()),
    "categorical": ("string", pa.string()),
    "boolean": ("boolean", pa.bool_()),
    "date": ("datetime64[ns]", pa.timestamp("ns")),
}
PAYLOAD = ("image", "series", "time", "mask", "control")  # columns of a store, neither meta nor cells
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SHARD = {"image": 512, "series": 1024, "row": 100_000}  # records a shard: tens of megabytes each
LAST = "oddsmith.last"  # what the last shard of a store says of itself
BUFFER = 64 * 2**20  # bytes held before a row group is written


@dataclass(frozen=True)
class Records:
    """Records of one modality.

    x: image list of (H, W[, 3]) uint8/uint16; series list of (T, C) float64; row frame of typed columns.
    mask: True = anomalous; image (H, W), series (T, C), row (N, D). control: like x, or None.
    schema: image {}; series {"channels": [...]}; row {"columns": [{"name", "type", "nullable", ...}]}.
    time: series only, list of (T,) int64, ns since the epoch or, below DATED, plain step numbers.
    """

    modality: str
    meta: pd.DataFrame
    x: list[np.ndarray] | pd.DataFrame
    mask: list[np.ndarray] | np.ndarray
    schema: dict
    time: list[np.ndarray] | None = None
    control: list[np.ndarray] | pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, got {self.modality!r}")
        lacking = [name for name in META if name not in self.meta]
        if lacking:
            raise ValueError(f"meta must have META's columns, lacks {', '.join(lacking)}; use make_meta")
        for name in ("x", "mask", "time", "control"):
            part = getattr(self, name)
            if part is not None and len(part) != len(self.meta):
                raise ValueError(f"{name} must be as long as meta, got {len(part)} and {len(self.meta)}")

    def __len__(self) -> int:
        return len(self.meta)

    def take(self, index) -> Records:
        """The records at `index`, in its order: whole numbers (list or array) or one truth value a record."""
        index = np.asarray(index)
        if index.dtype == bool:
            if len(index) != len(self):
                raise ValueError(f"a truth index needs one value a record, got {len(index)} for {len(self)}")
            index = np.flatnonzero(index)
        index = index.astype(np.int64)

        def pick(part):
            if part is None:
                return None
            if isinstance(part, pd.DataFrame):
                return part.iloc[index].reset_index(drop=True)
            return [part[i] for i in index] if isinstance(part, list) else part[index]

        parts = {name: pick(getattr(self, name)) for name in ("meta", "x", "mask", "time", "control")}
        return replace(self, **parts)

    def where(self, **equal) -> Records:
        """The records whose meta columns equal the values given (or lie in a list of them)."""
        found = np.ones(len(self), bool)
        for name, value in equal.items():
            several = isinstance(value, list | tuple | set | frozenset)
            found &= self.meta[name].isin(list(value) if several else [value]).to_numpy(bool)
        return self.take(found)

    def with_meta(self, **columns) -> Records:
        """The same records with meta columns set."""
        return replace(self, meta=typed_meta(self.meta.assign(**columns)))


def make_meta(n: int, **columns) -> pd.DataFrame:
    """Meta of `n` records: the columns given, scalar or one value each, and the defaults of META.

    Defaults: id = position, kind = "normal" where label is 0 and "anomaly" elsewhere, group = id, no parents.
    """
    columns = {name: _spread(value, n, name) for name, value in columns.items()}
    meta = {name: columns.pop(name, [default] * n) for name, (_, _, default) in META.items()}
    if n and meta["id"][0] is None:
        meta["id"] = [str(i) for i in range(n)]
    if n and meta["kind"][0] is None:
        meta["kind"] = ["anomaly" if label else "normal" for label in meta["label"]]
    if n and meta["group"][0] is None:
        meta["group"] = meta["id"]
    meta["parents"] = [[] if parents is None else list(parents) for parents in meta["parents"]]
    frame = {name: pd.Series(values, dtype=META[name][0]) for name, values in meta.items()}
    frame |= {name: pd.Series(values) for name, values in columns.items()}
    return pd.DataFrame(frame, index=pd.RangeIndex(n))


def _spread(value, n: int, name: str) -> list:
    if isinstance(value, str) or np.isscalar(value) or value is None:
        return [value] * n
    value = list(value)
    if len(value) != n:
        raise ValueError(f"meta column '{name}' must have {n} values, got {len(value)}")
    return value


def typed_meta(meta: pd.DataFrame) -> pd.DataFrame:
    """The frame with a fresh index and META's columns first and in META's types."""
    meta = meta.reset_index(drop=True)
    meta = meta[[*META, *(name for name in meta if name not in META)]]
    return meta.astype({name: dtype for name, (dtype, _, _) in META.items() if dtype != "object"})


def typed_rows(frame: pd.DataFrame, schema: dict) -> pd.DataFrame:
    """The cells in the schema's columns, order and types, with a fresh index."""
    columns = {c["name"]: frame[c["name"]].astype(ROW_TYPES[c["type"]][0]) for c in schema["columns"]}
    return pd.DataFrame(columns, index=frame.index).reset_index(drop=True)


def bare(records: Records) -> Records:
    """Records without controls and with META's columns alone, so that all parts of a training set agree."""
    return Records(records.modality, records.meta[list(META)], records.x, records.mask, records.schema, records.time)


def concat(parts: list[Records]) -> Records:
    """All records one after another; time and control are kept where every part has them."""
    if not parts:
        raise ValueError("concat needs at least one part, got none")
    first = parts[0]
    for part in parts[1:]:
        if (part.modality, part.schema) != (first.modality, first.schema):
            raise ValueError(
                f"parts must share modality and schema, got {first.modality} {first.schema} and "
                f"{part.modality} {part.schema}"
            )
    full = [part for part in parts if len(part)] or parts[:1]  # an empty frame would widen the column types

    def join(name: str):
        values = [getattr(part, name) for part in full]
        if any(value is None for value in values):
            return None
        if isinstance(values[0], pd.DataFrame):
            return pd.concat(values, ignore_index=True)
        return list(chain.from_iterable(values)) if isinstance(values[0], list) else np.concatenate(values)

    return Records(
        first.modality,
        typed_meta(join("meta")),
        join("x"),
        join("mask"),
        first.schema,
        join("time"),
        join("control"),
    )


def check_names(columns: Iterable[str], path: Path | str = "rows", also: Iterable[str] = ("given",)) -> None:
    """Raises InputError where a row column has a name that the store keeps for itself (or one of `also`)."""
    taken = [name for name in columns if name in META or name in PAYLOAD or name in also]
    if taken:
        raise InputError(
            f"{path}: a column must not be named like a record's own, got '{taken[0]}'; "
            "rename it or list it under ignore"
        )


# ---------------------------------------------------------------- store


def write_store(
    path: Path | str, chunks: Records | Iterable[Records], rows_per_shard: int | None = None
) -> None:
    """Writes a folder part-00000.parquet, ... from one batch or a stream of them, in constant memory.

    The folder appears whole or not at all (a temporary sibling is renamed); an older one is replaced. Ids are
    unique, all chunks have the first one's columns: else ValueError. A full disk raises ResourceError.
    """
    chunks = iter([chunks] if isinstance(chunks, Records) else chunks)
    with atomic_dir(path, durable=False) as folder:
        _write_shards(folder, chunks, rows_per_shard)


def _write_shards(folder: Path, chunks: Iterator[Records], rows_per_shard: int | None) -> None:
    from data.records.arrow import to_table

    first = next(chunks, None)
    if first is None:
        raise ValueError("a store needs at least one chunk (it may be empty), got none")
    limit = rows_per_shard or SHARD[first.modality]
    schema, seen, writer = None, set(), None
    pending, held, inside, shard = [], 0, 0, 0  # tables to write, their bytes, rows and number of the shard

    def flush() -> None:
        nonlocal writer, pending, held
        writer = writer or pq.ParquetWriter(folder / f"part-{shard:05d}.parquet", schema, compression="zstd")
        writer.write_table(pa.concat_tables(pending).combine_chunks())
        pending, held = [], 0

    try:
        for chunk in chain([first], chunks):
            _check_ids(chunk, seen)
            table = to_table(chunk, schema)
            schema = table.schema
            while True:
                piece = table.slice(0, limit - inside)
                pending.append(piece)
                held, inside = held + piece.nbytes, inside + len(piece)
                table = table.slice(len(piece))
                if held >= BUFFER or (inside == limit and len(table)):
                    flush()
                if not len(table):
                    break
                writer.close()
                writer, inside, shard = None, 0, shard + 1
        if pending:
            flush()
        writer.add_key_value_metadata({LAST: "true"})
    finally:
        if writer is not None:
            writer.close()


def _check_ids(chunk: Records, seen: set[str]) -> None:
    ids = chunk.meta["id"]
    twice = ids[ids.duplicated() | ids.isin(seen)]
    if len(twice):
        raise ValueError(f"ids of a store must be unique, got {twice.iloc[0]!r} twice")
    seen.update(ids)


def read_store(path: Path | str) -> Records:
    """All records of a store."""
    return concat(list(iter_store(path)))


def iter_store(path: Path | str) -> Iterator[Records]:
    """The records of a store, shard by shard. InputError where the folder is missing, torn or foreign."""
    from data.records.arrow import from_table

    yield from map(from_table, iter_tables(path))


def iter_tables(path: Path | str) -> Iterator[pa.Table]:
    """The arrow table of every shard of a store, images still encoded. InputError as for `iter_store`."""
    for shard in shards(path):
        yield read_shard(shard)[0]


def shards(path: Path | str) -> list[Path]:
    """The files of a store in order. InputError where there is none or one is missing, the last ones too."""
    path = Path(path)
    found = sorted(path.glob("part-*.parquet"))
    if not found:
        raise InputError(
            f"{path}: a record store must hold part-00000.parquet, got none; run the stage before"
        )
    wanted = {f"part-{i:05d}.parquet" for i in range(int(found[-1].stem[5:]) + 1)}
    missing = sorted(wanted - {shard.name for shard in found})
    if missing:
        raise InputError(f"{path}: a store must have every shard, lacks {', '.join(missing)}; write it again")
    if LAST.encode() not in (footer(found[-1]) or {}):
        raise InputError(
            f"{path}: a store must have every shard, {found[-1].name} does not say that it is the last: one is "
            "missing, or an older version wrote it; run dvc repro"
        )
    return found


def footer(shard: Path) -> dict[bytes, bytes] | None:
    """What a shard says of itself. InputError: torn."""
    try:
        return pq.read_metadata(shard).metadata
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{shard}: a shard must be whole parquet, got {error}; write it again") from error


def read_shard(shard: Path, columns: list[str] | None = None) -> tuple[pa.Table, dict]:
    """(table, {"modality", "schema", "meta"}) of a shard, or of some columns of it. InputError: torn or foreign."""
    try:
        table = pq.read_table(shard, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{shard}: a shard must be whole parquet, got {error}; write it again") from error
    if b"oddsmith" not in (table.schema.metadata or {}):
        raise InputError(f"{shard}: a shard must carry an oddsmith schema, got none; write it again")
    return table, json.loads(table.schema.metadata[b"oddsmith"])
