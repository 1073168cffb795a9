"""A record store as the parquet shards of one split: typed features, scores joined, the same bytes every time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import InputError
from data.files import read_table
from data.records import DATED, META, iter_tables
from data.records.arrow import feature

FIRST = ("id", "label", "kind", "split", "synthetic")  # what a reader looks for; the payload follows, then provenance
LABELS = ["normal", "anomaly"]
SCORES = ("supervised", "unsupervised", "likelihood", "fused", "control", "copy_distance", "rank")
JUDGED = {  # column: (of the ledger, arrow type)
    "verdict": ("reason", pa.string()), "band": ("band", pa.string()), "area": ("area", pa.float64()),
    "mask_iou": ("mask_iou", pa.float64()), **{f"score_{name}": (name, pa.float64()) for name in SCORES},
}  # fmt: skip
GROUP = {"image": 100, "series": 1000, "row": 10_000}  # records a row group: what a viewer reads at once


@dataclass
class Split:
    """One split as it was written: its files, features, and counts by (kind, label, synthetic)."""

    name: str
    files: list[str] = field(default_factory=list)
    features: dict = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    generators: Counter = field(default_factory=Counter)  # of synthetic records
    ids: set[str] = field(default_factory=set)
    parents: set[str] = field(default_factory=set)  # and hosts of synthetic records
    modality: str = ""
    columns: list[str] = field(default_factory=list)  # of a table, or channels of a series

    def __len__(self) -> int:
        return sum(self.counts.values())


def write_split(name: str, store: Path, folder: Path, ledger: pd.DataFrame) -> Split:
    """Writes data/<name>-00000-of-0000N.parquet below `folder`, one shard for each of the store's.

    ledger: verdicts and scores, indexed by record id. Twins ("control") and columns that only a run needs stay here.
    """
    split = Split(name)
    dates = [_dated(table) for table in iter_tables(store)]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(iter_tables(store)):
        file = f"data/{name}-{number:05d}-of-{len(dates):05d}.parquet"
        out = hub_table(table, ledger, dated=any(dates), where=str(store))
        note = json.loads(table.schema.metadata[b"oddsmith"])
        split.modality, split.features = note["modality"], features(out)
        split.columns = _columns(note["modality"], note["schema"])
        pq.write_table(
            out.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": split.features}})}),
            folder / file, compression="zstd", row_group_size=GROUP[split.modality], write_page_index=True,
            use_content_defined_chunking=True)  # fmt: skip
        split.files.append(file)
        _count(split, out)
    return split


def read_ledgers(files: list[Path]) -> pd.DataFrame:
    """Verdicts and scores of every judged record, indexed by id; no rows where there are no files."""
    parts = [read_table(file) for file in files]
    if not parts:
        return pd.DataFrame(index=pd.Index([], dtype=object, name="id"))
    whole = pd.concat(parts, ignore_index=True)
    return whole.drop_duplicates("id", keep="last").set_index("id")


def hub_table(table: pa.Table, ledger: pd.DataFrame, *, dated: bool, where: str) -> pa.Table:
    """The columns of a Hub shard, in order: label and kind, payload and mask, provenance, verdict and scores."""
    note = json.loads(table.schema.metadata[b"oddsmith"])
    modality, schema = note["modality"], note["schema"]
    cells = _columns("row", schema) if modality == "row" else []
    taken = [name for name in cells if name in JUDGED]
    if taken:
        raise InputError(f"{where}: a column must not be named like a verdict's, got '{taken[0]}'; rename it")
    payload = {"image": ["image"], "series": ["series", "time"], "row": cells}[modality]
    payload = [name for name in payload if name in table.column_names]
    rest = [name for name in META if name not in FIRST]
    columns = {name: table[name] for name in (*FIRST, *payload, "mask", *rest)}
    columns["label"] = columns["label"].cast(pa.int64())
    if dated:
        columns["time"] = columns["time"].cast(pa.list_(pa.timestamp("ns")))
    found = ledger.reindex(table["id"].to_pylist())
    for name, (source, kind) in JUDGED.items():
        values = found[source] if source in found else pd.Series([None] * len(found), dtype=object)
        columns[name] = pa.array(values.to_numpy(object), from_pandas=True).cast(kind)
    return pa.table(columns)


def features(table: pa.Table) -> dict:
    """Hugging Face's features of a Hub table: images decoded, labels named."""
    found = {name: feature(table[name].type) for name in table.column_names}
    return found | {"label": {"_type": "ClassLabel", "names": LABELS}}


def _columns(modality: str, schema: dict) -> list[str]:
    if modality == "row":
        return [column["name"] for column in schema["columns"]]
    return list(schema["channels"]) if modality == "series" else []


def _dated(table: pa.Table) -> bool:
    """Whether a table's times are dates."""
    if "time" not in table.column_names or not len(table):
        return False
    times = table["time"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return bool(len(times)) and int(np.abs(times).max()) >= DATED


def _count(split: Split, table: pa.Table) -> None:
    split.counts.update(zip(*(table[name].to_pylist() for name in ("kind", "label", "synthetic"))))
    split.ids.update(table["id"].to_pylist())
    made = table.filter(table["synthetic"])
    split.generators.update(made.filter(pc.not_equal(made["label"], 0))["generator"].to_pylist())
    for host, parents in zip(made["host"].to_pylist(), made["parents"].to_pylist()):
        split.parents.update({*parents, host} - {""})
