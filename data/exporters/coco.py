"""COCO instances: images/<part>/ and annotations/instances_<part>.json, a category a kind."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data.exporters.cells import dump, plain_rows
from data.exporters.files import part_of, put
from data.exporters.names import Names, stem
from data.exporters.shapes import Region, alone, polygon, regions, run_lengths
from data.exporters.survey import Survey
from data.records import Records


def write(folder: Path, chunks: Iterable[Records], survey: Survey, *, shape: str = "rle") -> None:
    """An annotation for every connected region: exact run lengths ("rle") or its outline ("polygon").

    Parts are train, val (split calib) and test. An image also carries `synthetic` and its `provenance`.
    """
    stems, categories = Names(), {kind: i for i, kind in enumerate(survey.kinds, 1)}
    image_id = annotation_id = 0
    with ExitStack() as stack:
        parts: dict[str, tuple[Lines, Lines]] = {}
        for chunk in chunks:
            for meta, x, mask in zip(plain_rows(chunk.meta), chunk.x, chunk.mask):
                part, image_id = part_of(meta["split"]), image_id + 1
                if part not in parts:
                    parts[part] = stack.enter_context(instances(folder, part, categories))
                images, annotations = parts[part]
                name = f"{part}/{stems.new(stem(meta['id']))}.png"
                put(folder, f"images/{name}", x)
                height, width = mask.shape
                images.add({"id": image_id, "file_name": name, "width": width, "height": height,
                            "synthetic": meta["synthetic"], "provenance": meta})  # fmt: skip
                for region in regions(mask) if meta["label"] else ():
                    annotation_id += 1
                    annotations.add({"id": annotation_id, "image_id": image_id, "iscrowd": 0,
                                     "category_id": categories[meta["kind"]],
                                     **annotation(region, mask.shape, shape)})  # fmt: skip


def annotation(region: Region, size: tuple[int, int], shape: str) -> dict:
    """bbox (x, y, width, height), area in pixels, and segmentation of a region in an image of `size`."""
    top, left, part = region
    height, width = part.shape
    if shape == "polygon":
        segmentation = [polygon(region).ravel().tolist()]
    else:
        segmentation = {"size": list(size), "counts": run_lengths(alone(region, size).ravel(order="F"))}
    return {"bbox": [left, top, width, height], "area": int(part.sum()), "segmentation": segmentation}


class Lines:
    """Items of a JSON list, one a line, written as they come."""

    def __init__(self, handle) -> None:
        self.handle, self.between = handle, "\n"

    def add(self, item: dict) -> None:
        self.handle.write(self.between + dump(item))
        self.between = ",\n"


@contextmanager
def instances(folder: Path, part: str, categories: dict[str, int]) -> Iterator[tuple[Lines, Lines]]:
    """(images, annotations) of a part's file; the annotations wait in a file beside it till the images are done."""
    path = folder / "annotations" / f"instances_{part}.json"
    path.parent.mkdir(exist_ok=True)
    waiting = path.with_suffix(".part")
    named = [{"id": i, "name": kind, "supercategory": "anomaly"} for kind, i in categories.items()]
    head = {"info": {"description": f"Oddsmith, {part}"}, "licenses": [], "categories": named}
    with path.open("x", encoding="utf-8") as file, waiting.open("x+", encoding="utf-8") as later:
        file.write(dump(head)[:-1] + ', "images": [')
        yield Lines(file), Lines(later)
        file.write('\n], "annotations": [')
        later.seek(0)
        shutil.copyfileobj(later, file)
        file.write("\n]}\n")
    waiting.unlink()
