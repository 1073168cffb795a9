"""The arms of an evaluation: what the same detector is trained on, from real anomalies alone to the filtered mix."""

from __future__ import annotations

import numpy as np

from data.records import Records, bare, concat
from generation.augment import augment
from generation.classical import classical

ARMS = ("real", "standard", "classical", "generated", "dropped", "filtered", "mixed")
SHUFFLED = "shuffled"  # a control: the kept records with their labels' places torn off
DETECTOR = {"image": "segmentation", "series": "forest", "row": "forest"}  # the same one in every arm
EXTRA = {  # trained on the real records alone and reported beside the arms
    "image": ("memory",), "series": ("pca", "knn"), "row": ("knn", "iforest", "lightgbm"),
}  # fmt: skip


def seeds_of(seed: int, salt: int, count: int) -> list[int]:
    """`count` record seeds of one arm."""
    return [int(s) for s in np.random.default_rng([seed, salt]).integers(2**40, size=count)]


def as_normals(records: Records) -> Records | None:
    """The adapter-off twins of generated images as normals: the same paste with nothing anomalous in it, so that a
    detector cannot learn the paste. None for rows, which have none, and for series: one denoised span is so like the
    other that a detector taught to tell them apart loses real incidents."""
    if records.control is None or records.modality != "image" or not len(records):
        return None
    meta = records.meta.assign(id=records.meta["id"] + "-control", label=0, kind="normal")
    mask = [np.zeros_like(m) for m in records.mask]
    return Records(records.modality, meta, records.control, mask, records.schema, records.time)


def additions(
    arm: str, fit: Records, support: Records, generated: Records, kept: Records, *, seed: int
) -> list[Records]:
    """What an arm adds to the real records: equally many in every arm, as many as were kept (half of the generated
    where nothing was), except `generated`, which adds all, and `real`, nothing. `mixed` is half classical, half
    filtered. A generation in which nothing changed is no anomaly, and in no arm."""
    shows = generated.take(np.flatnonzero([np.any(mask) for mask in generated.mask]))
    count = len(kept) or max(1, len(shows) // 2)
    rng = np.random.default_rng([seed, 17])

    def pasted(number: int) -> Records:
        return classical(fit.modality, fit, support, seeds_of(seed, 3, number))

    if arm == "real":
        return []
    if arm == "standard":
        return [augment(support, seeds_of(seed, 1, count), normals=fit)]
    if arm == "classical":
        return [pasted(count)]
    if arm == "generated":
        return [shows]
    if arm == "dropped":
        return [shows.take(np.sort(rng.permutation(len(shows))[: len(kept)]))]
    if arm == "filtered":
        return [kept]
    if arm == "mixed":
        half = kept.take(np.sort(rng.permutation(len(kept))[: count // 2])) if len(kept) else kept
        return [pasted(count - len(half)), half]
    if arm == SHUFFLED:
        return [shuffled(kept, rng)]
    raise ValueError(f"arm must be one of {', '.join((*ARMS, SHUFFLED))}, got {arm!r}")


def training_set(arm: str, fit: Records, support: Records, generated: Records, kept: Records, *, seed: int) -> Records:
    """Records that the detector of `arm` is trained on: real normals, the real support, what the arm adds, and the
    twins of what it adds as normals. Detectors see at least `real_share` real anomalies among the anomalous."""
    added = additions(arm, fit, support, generated, kept, seed=seed)
    twins = [twin for part in added if (twin := as_normals(part)) is not None]
    return concat([bare(part) for part in (fit, support, *added, *twins) if len(part)])


def shuffled(records: Records, rng: np.random.Generator) -> Records:
    """Records whose masks are each another one's; rows, which are labelled whole, get every column from another row.

    What a detector still gains from them it does not owe to where the labels say the anomaly is.
    """
    order = rng.permutation(len(records))
    if records.modality == "row":
        columns = {name: records.x[name].iloc[rng.permutation(len(records))].array for name in records.x}
        x = type(records.x)(columns, index=records.x.index)
        return Records("row", records.meta, x, records.mask, records.schema, None, None)
    masks = [fitted(np.asarray(records.mask[j], bool), np.asarray(records.mask[i]).shape) for i, j in enumerate(order)]
    return Records(records.modality, records.meta, records.x, masks, records.schema, records.time, records.control)


def fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask cut or padded at its far edges to another record's shape."""
    out = np.zeros(shape, bool)
    part = tuple(slice(0, min(a, b)) for a, b in zip(mask.shape, shape))
    out[part] = mask[part]
    return out
