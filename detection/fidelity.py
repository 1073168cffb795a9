"""How real generated anomalies look and how varied they are: fidelity measures, over all and a kind.

They rank generators of one data set; what they say of usefulness is measured, not assumed (docs/ablations.md). Images
are compared by our own frozen backbone: figures of other feature extractors are on another scale.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from data.records import Records
from detection import twosample
from detection.views import View, views

MOST = {"image": 256, "series": 1000, "row": 1000}  # records a side that are compared
# measure: whether a "lower" or "higher" value means more like the real ones; "middle": both ends are bad
MEASURES = {
    "fid": "lower", "kid": "lower", "diversity": "higher", "c2st": "lower", "dcr": "middle", "dcr_low": "middle",
    "precision": "higher", "recall": "higher", "coverage": "higher", "alpha_precision": "higher",
    "beta_recall": "higher",
}  # fmt: skip
TWO = 2  # least records a side that anything can be said of


def fidelity(
    real: Records, generated: Records, *, reference: Records | None = None, device: str = "auto",
    most: int | None = None,
) -> dict:  # fmt: skip
    """{"all": {measure: value}, "kinds": {kind: {measure: value}}}, with the records compared under "real" and
    "generated"; None where there are fewer than two on a side. Measures named crop_... look at the anomalous part.

    reference: normals that scales are taken from (default: `real`). most: records a side, drawn by content, so that
    neither order nor batches matter.
    """
    most = most or MOST[real.modality]
    real, generated = some(real, most), some(generated, most)
    reference = real if reference is None else reference
    if not len(real):
        parts = {"": (View(np.zeros((0, 1))), View(np.zeros((0, 1))))}
    else:
        ours, theirs = views(real, reference, device), views(generated, reference, device)
        parts = {name: (ours[name], theirs[name]) for name in ours}
    kinds = [records.meta["kind"].to_numpy(str) for records in (real, generated)]
    made_of, told = [sources(records) for records in (real, generated)], {}
    for kind in sorted({*kinds[0], *kinds[1]}):
        index = [np.flatnonzero(k == kind) for k in kinds]
        own = {n: (a.take(index[0]), b.take(index[1])) for n, (a, b) in parts.items()}
        told[kind] = compare(own, *(of[at] for of, at in zip(made_of, index)))
    return {"all": compare(parts, *made_of), "kinds": told}


def sources(records: Records) -> np.ndarray:
    """(N,) the host of what was generated, the record itself of what is real."""
    host = records.meta["host"].to_numpy(str)
    return np.where(host == "", records.meta["id"].to_numpy(str), host)


def some(records: Records, most: int) -> Records:
    """At most `most` of the records, in an order that their content alone decides."""
    from detection.novelty import payloads

    keys = []
    for mask, held in zip(records.mask, payloads(records)):
        keys.append(hashlib.sha1(held + np.packbits(np.asarray(mask, bool)).tobytes()).hexdigest())
    return records.take(np.argsort(np.array(keys, dtype=str), kind="stable")[:most])


def compare(parts: dict[str, tuple[View, View]], real: np.ndarray, generated: np.ndarray) -> dict:
    """Every measure of every view, None where a side has fewer than two records. real, generated: their `sources`."""
    out: dict = {"real": len(real), "generated": len(generated)}
    for prefix, (ours, theirs) in parts.items():
        enough = min(len(real), len(generated)) >= TWO
        values = measure(ours, theirs, np.r_[real, generated]) if enough else dict.fromkeys(MEASURES)
        out |= {f"{prefix}{name}": value for name, value in values.items()}
    return out


def measure(ours: View, theirs: View, group: np.ndarray) -> dict[str, float | None]:
    """MEASURES of two views of at least two records each; group: (N,) what is made of the same."""
    a, b = ours.features, theirs.features
    inside, outside, between = twosample.distances(a, a), twosample.distances(b, b), twosample.distances(a, b)
    looks = (a, b) if ours.perceptual is None else (ours.perceptual, theirs.perceptual)
    dcr, low = twosample.closest(a, b)
    return {
        "fid": twosample.frechet(a, b),
        "kid": twosample.kernel_distance(a, b),
        "diversity": twosample.cluster_diversity(*looks, squared=ours.perceptual is not None),
        "c2st": twosample.tree_c2st(a, b, pd.factorize(group)[0]),
        "dcr": dcr,
        "dcr_low": low,
        "precision": twosample.precision(inside, between),
        "recall": twosample.precision(outside, between.T),
        "coverage": twosample.coverage(inside, between),
        "alpha_precision": twosample.alpha_precision(a, b),
        "beta_recall": twosample.beta_recall(a, b),
    }
