"""One reader per public layout: raw files in, labelled records and a quarantine out, before any splitting."""

from __future__ import annotations

from pathlib import Path

from data.records import Records
from data.sources import csv, deeppcb, folder, mvtec, npz


def demo(path: Path | str | None = None, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """The embedded demo set of a modality."""
    from data.demo import read  # it draws on packages that no other reader needs

    return read(path, modality=modality, **options)


SOURCES = {"mvtec": mvtec.read, "folder": folder.read, "deeppcb": deeppcb.read, "csv": csv.read, "npz": npz.read,
           "demo": demo}  # fmt: skip
