"""One writer per public format: a stream of records in, files that other tools read out."""

from __future__ import annotations

from data.exporters import coco, csv, jsonl, labelstudio, trees, yolo

EXPORTERS = {
    "mvtec": {"image": trees.write_mvtec},
    "anomalib-folder": {"image": trees.write_anomalib},
    "coco": {"image": coco.write},
    "yolo-seg": {"image": yolo.write},
    "labelstudio": {"image": labelstudio.write},
    "csv": {"row": csv.write_rows, "series": csv.write_series},
    "jsonl": {"image": jsonl.write_images, "row": jsonl.write_rows, "series": jsonl.write_series},
}
