"""docs/data.md: its examples are options that the readers have, and no option of a reader is left out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from data.sources import SOURCES, csv, deeppcb, folder, mvtec, npz, recording

TEXT = (Path(__file__).parent.parent / "docs/data.md").read_text()
READERS = {"mvtec": mvtec.read_tree, "folder": folder.read_index, "deeppcb": deeppcb.read_tiles,
           "csv, rows": csv.read_rows, "csv, series": recording.read_series, "npz, rows": npz.read_rows,
           "npz, series": npz.read_series}  # fmt: skip


def options(reader) -> set[str]:
    return {name for name, p in inspect.signature(reader).parameters.items() if p.kind is p.KEYWORD_ONLY}


def section(title: str) -> str:
    return re.split(r"^## ", TEXT.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def test_every_reader_has_a_section():
    assert {title.split(",")[0] for title in READERS} == set(SOURCES) - {"demo"}
    assert set(re.findall(r"^\| `(\w+)` \| (?:image|row|all)", TEXT, flags=re.M)) == set(SOURCES)


@pytest.mark.parametrize("title", READERS)
def test_a_section_names_every_option_and_its_example_no_other(title):
    text, known = section(title), options(READERS[title])
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, flags=re.S)[1])["source"]
    assert example.pop("reader") == title.split(",")[0] and example.pop("path")
    assert set(example) <= known
    assert {name for name in known - {"strict"} if f"`{name}`" not in text} == set()
