"""What a detector is worth on held-out records: the metrics of each modality from score maps, pooled exactly once."""

from __future__ import annotations

import numpy as np

from data.records import Records
from detection import metrics
from detection.judge import peaks

GAIN = {"image": "pixel_ap", "series": "vus_pr", "row": "ap"}  # the metric of the headline
VUS_WINDOW = 16  # largest buffer of the range-AUC, timestamps


def timeline(records: Records, maps: list[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per entity (labels (T,), scores (T,)) in time order; a timestamp covered twice counts once (the first window)."""
    out = {}
    for entity, part in records.meta.groupby("group", sort=True):
        labels, scores, end = [], [], -1
        for i in part.sort_values("start").index:
            start = int(records.meta.at[i, "start"])
            skip = max(0, end - start)
            labels.append(records.mask[i].any(1)[skip:])
            scores.append(np.asarray(maps[i], dtype=float)[skip:])
            end = max(end, start + len(records.x[i]))
        out[str(entity)] = (np.concatenate(labels), np.concatenate(scores))
    return out


def pooled(records: Records, maps) -> tuple[np.ndarray, np.ndarray]:
    """(labels, scores) of every element: pixels, timestamps or rows."""
    if records.modality == "row":
        return records.meta["label"].to_numpy(bool), np.asarray(maps, dtype=float)
    if records.modality == "image":
        return np.concatenate([m.ravel() for m in records.mask]), np.concatenate([np.ravel(m) for m in maps])
    lines = timeline(records, maps).values()
    return tuple(np.concatenate(part) for part in zip(*lines))


def measure(records: Records, maps) -> dict[str, float]:
    """Every metric of the records' modality. maps: what a detector's `score_map` gave for them. VUS-PR is the mean over
    recordings that hold both labels, of one joined recording where none does."""
    labels, scores = pooled(records, maps)
    if records.modality == "image":
        whole, peak = records.meta["label"].to_numpy(bool), peaks(records, maps, None)
        return {
            "image_auroc": metrics.image_auroc(whole, peak), "image_ap": metrics.image_ap(whole, peak),
            "pixel_auroc": metrics.pixel_auroc(labels, scores), "pixel_ap": metrics.pixel_ap(labels, scores),
        }  # fmt: skip
    out = {"ap": metrics.ap(labels, scores), "auroc": metrics.auroc(labels, scores)}
    if records.modality == "series":
        lines = [line for line in timeline(records, maps).values() if line[0].any() and not line[0].all()]
        lines = lines or [(labels, scores)]  # every recording is wholly normal or wholly anomalous
        out["vus_pr"] = float(np.mean([metrics.vus_pr(lab, sco, window=VUS_WINDOW) for lab, sco in lines]))
    return out


def fused(maps: list, references: list, modality: str):
    """Several detectors' maps as one, by rank among the elements of each one's own normals' maps."""
    from detection.fuse import rank_fuse

    flat = [
        np.sort(np.concatenate([np.ravel(m) for m in ref]) if modality != "row" else np.asarray(ref))
        for ref in references
    ]
    flat = [ref[np.linspace(0, len(ref) - 1, min(len(ref), 50_000)).round().astype(int)] for ref in flat]

    def of(parts):
        return rank_fuse([np.ravel(part) for part in parts], flat).reshape(np.shape(parts[0]))

    return of(maps) if modality == "row" else [of(parts) for parts in zip(*maps)]


def curve(labels: np.ndarray, scores: np.ndarray, points: int = 101) -> list[tuple[float, float]]:
    """(recall, precision) at `points` equally spaced recalls, the best precision at or beyond each; 1 at recall 0."""
    hits, precision = metrics.hits_precision(labels, scores)
    recall, best = hits / hits[0], np.maximum.accumulate(precision)  # recall falls
    levels = np.linspace(0, 1, points)
    return [(r, float(best[np.searchsorted(-recall, -r, "right") - 1]) if r else 1.0) for r in levels]
