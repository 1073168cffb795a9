"""Trees of image folders: MVTec AD's, and the one that anomalib's Folder datamodule reads.

Anomalies lie by kind, each with its mask; all records are listed in provenance.csv, which the reader `folder` takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data.exporters.cells import plain_rows, provenance
from data.exporters.files import part_of, put
from data.exporters.names import Names, clean, stem
from data.exporters.survey import Survey
from data.records import Records


@dataclass(frozen=True)
class Layout:
    """Folders of normals (for training, for test), of anomalies and of masks, and how a mask's stem ends."""

    normal: str
    normal_test: str
    anomaly: str
    mask: str
    ending: str


MVTEC = Layout("train/good", "test/good", "test", "ground_truth", "_mask")
ANOMALIB = Layout("normal", "normal_test", "abnormal", "mask", "")  # image and mask must sort alike


def write_mvtec(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """train/good, test/good (normals of the split test), test/<kind>, ground_truth/<kind>/<stem>_mask.png."""
    write_tree(folder, chunks, survey, MVTEC)


def write_anomalib(folder: Path, chunks: Iterable[Records], survey: Survey) -> None:
    """normal_dir normal, normal_test_dir normal_test, abnormal_dir abnormal, mask_dir mask; the last two by kind."""
    write_tree(folder, chunks, survey, ANOMALIB)


def write_tree(folder: Path, chunks: Iterable[Records], survey: Survey, layout: Layout) -> None:
    """Every record as <folder>/<stem>.png, an anomaly's mask beside it in the mask's folder, and provenance.csv."""
    kinds, stems = Names(["good", "normal"]), Names()
    folders = {kind: kinds.new(kind) for kind in sorted(survey.kinds, key=lambda kind: clean(kind) != kind)}
    with provenance(folder, survey.columns, ("image", "mask")) as note:
        for chunk in chunks:
            for meta, x, mask in zip(plain_rows(chunk.meta), chunk.x, chunk.mask):
                name, marked = stems.new(stem(meta["id"])), ""
                if meta["label"]:
                    place = folders[meta["kind"]]
                    image = f"{layout.anomaly}/{place}/{name}.png"
                    marked = put(folder, f"{layout.mask}/{place}/{name}{layout.ending}.png", mask)
                else:
                    test = part_of(meta["split"]) == "test"
                    image = f"{layout.normal_test if test else layout.normal}/{name}.png"
                note(meta, put(folder, image, x), marked)
