"""Label Studio: tasks.json with brush or polygon results, the images, and the labelling interface in config.xml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from data.exporters.cells import dump, plain_rows
from data.exporters.files import put
from data.exporters.names import Names, stem
from data.exporters.shapes import Region, alone, polygon, regions, run_lengths
from data.exporters.survey import Survey
from data.records import Records
from data.sources.common import show

LOCAL = "/data/local-files/?d="  # how Label Studio names a file below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT
SIZES = (3, 4, 8, 16)  # bits of a run's length, of which each run names one
TAGS = {"rle": "BrushLabels", "polygon": "PolygonLabels"}


def write(folder: Path, chunks: Iterable[Records], survey: Survey, *, shape: str = "rle") -> None:
    """A task a record, a result for every connected region; provenance stands in the task's `data`."""
    stems, labels, between = Names(), label_names(survey.kinds), "[\n"
    (folder / "config.xml").write_text(config(labels.values(), TAGS[shape]), encoding="utf-8")
    with (folder / "tasks.json").open("x", encoding="utf-8") as tasks:
        for chunk in chunks:
            for meta, x, mask in zip(plain_rows(chunk.meta), chunk.x, chunk.mask):
                image = put(folder, f"images/{stems.new(stem(meta['id']))}.png", x)
                found = regions(mask) if meta["label"] else ()
                results = [result(i, region, mask.shape, labels[meta["kind"]], shape) for i, region in enumerate(found)]
                task = {"data": {"image": LOCAL + quote(image), **meta}, "annotations": [{"result": results}]}
                tasks.write(between + dump(task))
                between = ",\n"
        tasks.write("\n]\n" if between == ",\n" else "[]\n")


def label_names(kinds: list[str]) -> dict[str, str]:
    """Label of every kind: its name, control characters spelled out as XML has none, made unique where need be."""
    labels: dict[str, str] = {}
    for kind in kinds:
        label = show(kind) or "anomaly"
        while label in labels.values():
            label += "'"
        labels[kind] = label
    return labels


def config(labels: Iterable[str], tag: str) -> str:
    """The labelling interface: the image and a label a kind."""
    lines = [f"    <Label value={quoteattr(label)}/>" for label in labels]
    return "\n".join(["<View>", '  <Image name="image" value="$image"/>', f'  <{tag} name="label" toName="image">',
                      *lines, f"  </{tag}>", "</View>", ""])  # fmt: skip


def result(number: int, region: Region, size: tuple[int, int], label: str, shape: str) -> dict:
    """A region as Label Studio holds it: run lengths of the whole image, or an outline in percent."""
    if shape == "polygon":
        value = {"points": (100 * polygon(region) / (size[1], size[0])).tolist(), "closed": True}
    else:
        value = {"format": "rle", "rle": brush(alone(region, size))}
    tag = TAGS[shape].lower()
    return {"id": f"region{number}", "type": tag, "from_name": "label", "to_name": "image", "image_rotation": 0,
            "original_width": size[1], "original_height": size[0], "value": value | {tag: [label]}}  # fmt: skip


def brush(mask: np.ndarray) -> list[int]:
    """Bytes of the mask as RGBA pixels of 0 or 255 in the packed run lengths that Label Studio's brush reads.

    Header: 32 bits the number of values, 5 the bits of a value less 1, 4 times 4 the bits of a length less 1. A run:
    1, 2 bits which of these sizes, its length less 1, its value.
    """
    bits = [f"{4 * mask.size:032b}", "00111", *(f"{size - 1:04b}" for size in SIZES)]
    for i, pixels in enumerate(run_lengths(mask.ravel())):
        value, left = "11111111" if i % 2 else "00000000", 4 * pixels
        while left:
            length = min(left, 2 ** SIZES[-1])
            which = next(k for k, size in enumerate(SIZES) if length <= 2**size)
            bits.append(f"1{which:02b}{length - 1:0{SIZES[which]}b}{value}")
            left -= length
    return np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")).tolist()
