"""JSON lines, one a record with all its provenance: what Hugging Face `datasets` loads without a script."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.exporters.cells import dump, plain, plain_rows, times
from data.exporters.files import put
from data.exporters.names import Names, stem
from data.exporters.survey import Survey
from data.records import Records


def write_images(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """images/, masks/ and metadata.jsonl, which `load_dataset("imagefolder")` reads as columns image and mask."""
    stems = Names()
    with (folder / "metadata.jsonl").open("x", encoding="utf-8") as lines:
        for chunk in chunks:
            for meta, x, mask in zip(plain_rows(chunk.meta), chunk.x, chunk.mask):
                name = f"{stems.new(stem(meta['id']))}.png"
                image, marked = put(folder, f"images/{name}", x), put(folder, f"masks/{name}", mask)
                lines.write(dump({"file_name": image, "mask_file_name": marked, **meta}) + "\n")


def write_rows(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """rows.jsonl: the meta, `cells` by column, and `mask`: the names of the anomalous cells."""
    columns = [column["name"] for column in survey.schema["columns"]]
    with (folder / "rows.jsonl").open("x", encoding="utf-8") as lines:
        for chunk in chunks:
            for meta, cells, mask in zip(plain_rows(chunk.meta), plain_rows(chunk.x[columns]), chunk.mask):
                marked = [name for name, odd in zip(columns, mask) if odd]
                lines.write(dump({**meta, "cells": cells, "mask": marked}) + "\n")


def write_series(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """series.jsonl: the meta, `time`, and lists by channel: `series`, and `mask` of 0 and 1."""
    channels = survey.schema["channels"]
    with (folder / "series.jsonl").open("x", encoding="utf-8") as lines:
        for chunk in chunks:
            of_all = zip(plain_rows(chunk.meta), chunk.x, chunk.mask, times(chunk, survey.dated))
            for meta, x, mask, time in of_all:
                series = {name: plain(values) for name, values in zip(channels, np.asarray(x).T)}
                marks = {name: values.astype(int).tolist() for name, values in zip(channels, mask.T)}
                lines.write(dump({**meta, "time": time, "series": series, "mask": marks}) + "\n")
