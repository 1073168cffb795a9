"""What is in record stores, read without their images and values: all a writer must know before the first record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.errors import InputError
from data.records import DATED, read_shard, shards
from data.sources.common import show


@dataclass(frozen=True)
class Survey:
    """Of all stores together; kinds: those of anomalies, sorted; columns: of meta, in order of appearance."""

    modality: str
    schema: dict
    records: int
    anomalies: int
    synthetic: int
    twins: int  # of the synthetic ones, those that are normals
    kinds: list[str]
    columns: list[str]
    dated: bool  # the time of series is ns since the epoch

    @classmethod
    def of(cls, stores: list[Path]) -> Survey:
        """InputError where a store is torn or missing, stores do not fit together, or an id comes twice."""
        first, seen, columns, dated, counts, kinds = None, {}, {}, False, np.zeros(4, int), set()
        for store in stores:
            for shard in shards(store):
                table, note = read_shard(shard, ["id", "label", "kind", "synthetic"])
                first = first or (store, note)
                check_alike(*first, store, note)
                check_unique(table["id"].to_pylist(), store, seen)
                odd = table["label"].to_numpy() != 0
                made = table["synthetic"].to_numpy()
                counts += len(table), odd.sum(), made.sum(), (made & ~odd).sum()
                kinds |= {kind for kind, anomalous in zip(table["kind"].to_pylist(), odd) if anomalous}
                columns |= dict.fromkeys(note["meta"])
                dated = dated or (note["modality"] == "series" and has_dates(shard))
        note = first[1]
        return cls(note["modality"], note["schema"], *counts.tolist(), sorted(kinds), list(columns), dated)


def check_alike(store: Path, note: dict, other: Path, told: dict) -> None:
    """InputError where two stores hold different things."""
    if (told["modality"], names(told)) != (note["modality"], names(note)):
        raise InputError(
            f"{other}: stores must hold the same modality and columns as {store}, got {told['modality']} and "
            f"{note['modality']}, {len(names(told))} and {len(names(note))} columns; export them one by one"
        )


def names(note: dict) -> list:
    """Channels of series, (name, type) of the columns of rows."""
    schema = note["schema"]
    return schema.get("channels") or [(column["name"], column["type"]) for column in schema.get("columns", [])]


def check_unique(ids: list[str], store: Path, seen: dict[str, Path]) -> None:
    """InputError where an id was seen before; remembers them."""
    for id in ids:
        if id in seen:
            raise InputError(f"{store}: ids must be unique, got '{show(id)}' in {seen[id]} too; leave one store out")
        seen[id] = store


def has_dates(shard: Path) -> bool:
    """Whether a time lies so far from 0 that it is no step number; from the file's own bounds of the column."""
    metadata = pq.read_metadata(shard)
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(group.num_columns)):
            if column.path_in_schema.split(".")[0] == "time" and column.statistics and column.statistics.has_min_max:
                return max(abs(column.statistics.min), abs(column.statistics.max)) >= DATED
    return False
