"""YOLO segmentation: images/<part>/, labels/<part>/<stem>.txt of normalised outlines, and data.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data.exporters.cells import plain_rows, provenance
from data.exporters.files import part_of, put
from data.exporters.names import Names, stem
from data.exporters.shapes import Region, polygon, regions
from data.exporters.survey import Survey
from data.records import Records

PARTS = ("train", "val", "test")


def write(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """A line for every connected region: class, then x y of its outline's corners over width and height.

    Parts are train, val (split calib) and test; a normal's file is empty. Masks and provenance: provenance.csv.
    """
    stems, classes, found = Names(), {kind: i for i, kind in enumerate(survey.kinds)}, set()
    with provenance(folder, survey.columns, ("image",)) as note:
        for chunk in chunks:
            for meta, x, mask in zip(plain_rows(chunk.meta), chunk.x, chunk.mask):
                part, name = part_of(meta["split"]), stems.new(stem(meta["id"]))
                found.add(part)
                note(meta, put(folder, f"images/{part}/{name}.png", x))
                path = folder / "labels" / part / f"{name}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x") as handle:
                    for region in regions(mask) if meta["label"] else ():
                        handle.write(line(classes[meta["kind"]], region, mask.shape))
    (folder / "data.yaml").write_text(data_yaml(survey.kinds, found), encoding="utf-8")


def line(number: int, region: Region, size: tuple[int, int]) -> str:
    """One instance; nine decimals tell the pixels of any image apart."""
    corners = polygon(region) / (size[1], size[0])
    return " ".join([str(number), *(f"{value:.9f}".rstrip("0").rstrip(".") for value in corners.ravel())]) + "\n"


def data_yaml(kinds: list[str], found: set[str]) -> str:
    """Paths below the file's own folder, and the names of the classes."""
    import yaml

    first = next((part for part in PARTS if part in found), "train")
    paths = {"train": "train" if "train" in found else first}
    paths |= {"val": "val" if "val" in found else paths["train"]}
    paths |= {"test": "test"} if "test" in found else {}
    told = [f"# the stores hold no {part} records: {part} repeats {paths[part]}"
            for part in ("train", "val") if paths[part] != part]  # fmt: skip
    names = {"names": dict(enumerate(kinds))}
    lines = [f"{part}: images/{place}" for part, place in paths.items()]
    return "\n".join([*told, *lines, yaml.safe_dump(names, allow_unicode=True, sort_keys=False)])
