"""Cross-fitted judges: real-only detectors, one set a fold, and what they say of a record.

A judge of fold k is fitted on the real records of every other fold and on no generated one, so a record whose host and
parent lie in fold k is judged by detectors that saw neither, nor any sibling generation. Roles: one unsupervised and
one supervised detector a modality and, where a denoiser was fitted without the fold too, its likelihood ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from data.records import Records, concat
from detection.detectors import DETECTORS
from detection.fuse import percentile

JUDGES = {
    "image": {"unsupervised": "memory", "supervised": "segmentation"},
    "series": {"unsupervised": "knn", "supervised": "forest"},
    "row": {"unsupervised": "knn", "supervised": "forest"},
}
LIKELIHOOD = "likelihood"  # the third role
TOGETHER = 2**20  # elements of maps smoothed at once
ROLES = ("supervised", "unsupervised", LIKELIHOOD)


def outside(records: Records, folds: dict[str, int], fold: int) -> Records:
    """The records of every other fold."""
    return records.take(np.array([folds[i] != fold for i in records.meta["id"]], bool))


@dataclass
class Judge:
    """The detectors of one fold by role, with the scores they give the calib normals: the reference of percentiles.

    seen: ids of the records that they were fitted on.
    """

    fold: int
    detectors: dict[str, object]
    reference: dict[str, np.ndarray]
    seen: list[str] = field(default_factory=list)

    @classmethod
    def fit(
        cls,
        fold: int,
        fit: Records,
        support: Records,
        calib: Records,
        folds: dict[str, int],
        *,
        seed: int,
        options: dict[str, dict] | None = None,
        ratio: object | None = None,
    ) -> Judge:
        """Detectors fitted on the real records outside `fold`. ratio: a LikelihoodRatio whose denoiser was, too."""
        names = JUDGES[fit.modality]
        real = concat([outside(part, folds, fold) for part in (fit, support)])
        detectors = {
            role: DETECTORS[fit.modality][name](**(options or {}).get(name, {})).fit(real, seed=seed)
            for role, name in names.items()
        }
        detectors |= {LIKELIHOOD: ratio} if ratio is not None else {}
        judge = cls(fold, detectors, {}, sorted(real.meta["id"]))
        judge.reference = {role: judge.raw(role, calib) for role in detectors}
        return judge

    def raw(self, role: str, records: Records) -> np.ndarray:
        """(N,) highest score a record gets anywhere."""
        return peaks(records, self.detectors[role].score_map(records), None)

    def percentiles(self, records: Records, *, inside: bool) -> dict[str, np.ndarray]:
        """Per role the percentile (0..1) among calib normals.

        inside: look only where the record's mask is (does the anomaly show where the label says?).
        """
        out = {}
        for role, detector in self.detectors.items():
            look = getattr(detector, "score_near", detector.score_map) if inside else detector.score_map
            value = peaks(records, look(records), records.mask if inside else None)
            out[role] = percentile(value, self.reference[role])
        return out


def peaks(records: Records, maps, masks) -> np.ndarray:
    """(N,) the largest lightly smoothed value of each map, within the mask grown by two elements where one is given."""
    if records.modality == "row":
        return np.asarray(maps, dtype=float)
    from scipy.ndimage import binary_dilation, generate_binary_structure, uniform_filter

    out = np.empty(len(records))
    shapes: dict[tuple, list[int]] = {}
    for i, m in enumerate(maps):
        shapes.setdefault(np.shape(m), []).append(i)
    for shape, index in shapes.items():
        near, count = generate_binary_structure(len(shape), 1)[None], max(1, TOGETHER // max(1, np.prod(shape)))
        for low in range(0, len(index), count):
            some = index[low : low + count]
            smooth = uniform_filter(np.stack([maps[i] for i in some]).astype(float), (1, *[3] * len(shape)))
            if masks is not None:
                where = np.stack([masks[i] if records.modality == "image" else masks[i].any(1) for i in some])
                smooth[~binary_dilation(where, near, iterations=2)] = -np.inf
            out[some] = smooth.reshape(len(some), -1).max(1, initial=-np.inf)
    return out


def judge_records(judges: list[Judge], records: Records, fold: np.ndarray) -> pd.DataFrame:
    """Scores of records by the judge of each one's own fold; `fold` (N,).

    Columns: supervised, unsupervised, likelihood (NaN where no judge has it) and the mean of those there are, `fused`
    (percentiles inside the mask); for records that carry a control, `control` (the same mean over the control's
    place): what a judge sees of the paste itself. The likelihood ratio has no say in a control, which is its base's.
    """
    table = pd.DataFrame(index=range(len(records)), columns=[*ROLES, "control"], dtype=float)
    for judge in judges:
        index = np.flatnonzero(fold == judge.fold)
        if not len(index):
            continue
        part = records.take(index)
        for role, value in judge.percentiles(part, inside=True).items():
            table.loc[index, role] = value
        if part.control is not None and records.modality != "row":
            twin = Records(part.modality, part.meta, part.control, part.mask, part.schema, part.time)
            plain = Judge(judge.fold, {r: d for r, d in judge.detectors.items() if r != LIKELIHOOD}, judge.reference)
            table.loc[index, "control"] = np.mean(list(plain.percentiles(twin, inside=True).values()), axis=0)
    table["fused"] = table[list(ROLES)].mean(axis=1)
    return table


def real_scores(judges: list[Judge], support: Records, folds: dict[str, int]) -> pd.DataFrame:
    """The support's own out-of-fold scores: what a real anomaly looks like to a judge that never saw it."""
    table = judge_records(judges, support, np.array([folds[i] for i in support.meta["id"]]))
    table.insert(0, "id", list(support.meta["id"]))
    table.insert(1, "kind", list(support.meta["kind"]))
    return table


def cross_fit(
    fit: Records,
    support: Records,
    calib: Records,
    folds: dict[str, int],
    *,
    seed: int,
    options: dict[str, dict] | None = None,
    ratios: dict[int, object] | None = None,
) -> Iterator[Judge]:
    """One judge a fold; ratios: {fold: LikelihoodRatio}."""
    for fold in sorted({folds[i] for i in support.meta["id"]}):
        yield Judge.fit(
            fold, fit, support, calib, folds, seed=seed, options=options, ratio=(ratios or {}).get(fold)
        )
