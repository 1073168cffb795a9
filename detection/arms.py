"""The arms of an evaluation: what the same detector is trained on, from real anomalies alone to the filtered mix."""

from __future__ import annotations

import numpy as np

from data.records import Records, concat
from generation.augment import augment
from generation.classical import classical

ARMS = ("real", "standard", "classical", "generated", "dropped", "filtered", "mixed")
DETECTOR = {"image": "segmentation", "series": "forest", "row": "forest"}  # the same one in every arm
EXTRA = {  # trained on the real records alone and reported beside the arms
    "image": ("memory",), "series": ("pca", "knn"), "row": ("knn", "iforest", "lightgbm"),
}  # fmt: skip


def seeds_of(seed: int, salt: int, count: int) -> list[int]:
    """`count` record seeds of one arm."""
    return [int(s) for s in np.random.default_rng([seed, salt]).integers(2**40, size=count)]


def as_normals(records: Records) -> Records | None:
    """The adapter-off twins of generated records as normals: the same paste with nothing anomalous in it, so that a
    detector cannot learn the paste; None for rows, whose twins are anomalies too."""
    if records.control is None or records.modality == "row" or not len(records):
        return None
    meta = records.meta.assign(id=records.meta["id"] + "-control", label=0, kind="normal")
    mask = [np.zeros_like(m) for m in records.mask]
    return Records(records.modality, meta, records.control, mask, records.schema, records.time)


def training_set(arm: str, fit: Records, support: Records, generated: Records, kept: Records, *, seed: int) -> Records:
    """Records that the detector of `arm` is trained on: real normals, the real support, and what the arm adds.

    The arms add equally many records, as many as were kept (half of the generated where nothing was), except
    `generated`, which adds all. `mixed` is half classical, half filtered. Detectors see at least `real_share` real
    anomalies among the anomalous whatever is added.
    """
    count = len(kept) or max(1, len(generated) // 2)
    parts = [fit, support]
    rng = np.random.default_rng([seed, 17])
    if arm == "standard":
        parts.append(augment(repeated(support, count), seeds_of(seed, 1, count)))
    if arm in ("classical", "mixed"):
        share = count if arm == "classical" or not len(kept) else count - count // 2
        host = np.random.default_rng([seed, 2]).permutation(len(fit))
        made = seeds_of(seed, 3, share)
        parts.append(classical(fit.modality, fit.take(np.resize(host, share)), support, made))
    added = None
    if arm == "generated":
        added = generated
    elif arm == "dropped":
        added = generated.take(np.sort(rng.permutation(len(generated))[: len(kept)]))
    elif arm == "filtered":
        added = kept
    elif arm == "mixed":
        added = kept.take(np.sort(rng.permutation(len(kept))[: count // 2])) if len(kept) else kept
    if added is not None:
        parts += [part for part in (added, as_normals(added)) if part is not None]
    return concat([bare(part) for part in parts if len(part)])


def repeated(records: Records, count: int) -> Records:
    """`count` records, each in turn."""
    return records.take(np.resize(np.arange(len(records)), count))


def bare(records: Records) -> Records:
    """Records without controls and with META's columns alone, so that all parts of a training set agree."""
    from data.records import META

    return Records(records.modality, records.meta[list(META)], records.x, records.mask, records.schema, records.time)
