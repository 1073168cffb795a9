"""Tables: rows with typed cells and a table of their masks, or series in long form; see cells.escaped for text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.exporters.cells import cell, plain_rows, provenance, table, times
from data.exporters.survey import Survey
from data.records import Records

OF_ROWS = ("id", "label", "kind", "group", "split", "synthetic")  # no cell may be named like them (records.check_names)
OF_STEPS = ("id", "time", "label", "kind")


def write_rows(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """rows.csv, mask.csv of 0 and 1 (1 = anomalous) in the same columns, and provenance.csv, all by id."""
    columns = [column["name"] for column in survey.schema["columns"]]
    with (table(folder / "rows.csv", [*OF_ROWS, *columns]) as rows,
          table(folder / "mask.csv", ["id", *columns]) as masks,
          provenance(folder, survey.columns) as note):  # fmt: skip
        for chunk in chunks:
            ids = [cell(id) for id in chunk.meta["id"]]
            shown = [[cell(value) for value in frame[name].array]
                     for frame, names in ((chunk.meta, OF_ROWS), (chunk.x, columns)) for name in names]  # fmt: skip
            rows.writerows(zip(*shown))
            masks.writerows([id, *line] for id, line in zip(ids, np.asarray(chunk.mask).astype(int).tolist()))
            for meta in plain_rows(chunk.meta):
                note(meta)


def write_series(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """series.csv: a line a time step with its record's id, the channels and a mask column for each; provenance.csv.

    time: ISO where it is ns since the epoch, else the number as it is. label: 1 where any channel is anomalous,
    kind: the record's kind there, else empty.
    """
    channels = survey.schema["channels"]
    header = unique([*OF_STEPS, *channels, *(f"mask:{name}" for name in channels)])
    with table(folder / "series.csv", header) as steps, provenance(folder, survey.columns) as note:
        for chunk in chunks:
            of_all = zip(plain_rows(chunk.meta), chunk.x, chunk.mask, times(chunk, survey.dated))
            for meta, x, mask, time in of_all:
                id, odd = cell(meta["id"]), mask.any(axis=1)
                kind = [cell(meta["kind"]) if step else "" for step in odd]
                values = [["" if value != value else value for value in line] for line in x.tolist()]
                lines = zip(time, odd.astype(int), kind, values, mask.astype(int).tolist())
                steps.writerows([id, *front, *line, *marks] for *front, line, marks in lines)
                note(meta)


def unique(names: list[str]) -> list[str]:
    """The names; one that came before gets "channel:" in front."""
    found: list[str] = []
    for name in names:
        while name in found:
            name = f"channel:{name}"
        found.append(name)
    return found
