"""The filter: scores in, one verdict a record out - keep or not, with the first reason and the band it fell in.

Hard gates come first, then the bands of the out-of-fold judges: invisible (looks normal where labelled), informative,
trivial (any judge sees it: capped by a quota); then a criterion ranks what is left, and quotas keep every kind alive
and none alone. A person's decision overrides all of it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

KEPT, BY_HAND, REFUSED = "kept", "accepted by hand", "rejected by hand"
HARD = ("unchanged", "outside", "seam", "contrast", "copy", "duplicate", "constraint", "kind")
SOFT = ("invisible", "trivial", "outranked", "quota")
REASONS = (*HARD, *SOFT, REFUSED, KEPT, BY_HAND)
FAR = 2.0  # edit distances beyond are no rarer: twice as far off as real anomalies are from each other


def rarity(scores: pd.DataFrame) -> np.ndarray:
    """(N,) 0..1, distance to the nearest real anomaly over real to real, up to FAR."""
    return np.clip(scores["edit_distance"].to_numpy(float), 0, FAR) / FAR


def near(scores: pd.DataFrame, real: pd.DataFrame, role: str = "fused") -> np.ndarray:
    """(N,) minus how far the judges' score, or a single judge's, lies from the median real anomaly's."""
    one, other = (table[role].fillna(table["fused"]).to_numpy(float) for table in (scores, real))
    return -np.abs(one - np.nanmedian(other))


def ranks(*values: np.ndarray) -> np.ndarray:
    """(N,) the mean of the ranks by each, scaled to (0, 1]."""
    from scipy.stats import rankdata

    return np.mean([rankdata(v) / len(v) for v in values], axis=0) if len(values[0]) else values[0]


def eap(scores: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """(N,) rarity times visibility (arXiv:2405.13699)."""
    return rarity(scores) * np.clip(scores["fused"].to_numpy(float), 0, 1)


def alike(scores: pd.DataFrame, real: pd.DataFrame) -> np.ndarray:
    """(N,) `near` by the likelihood ratio: as much likelier to be an anomaly as real ones are, and no more."""
    return near(scores, real, "likelihood")


# what ranks the records that passed gates and bands, higher is better: f(scores, real) -> (N,)
CRITERIA = {
    "eap": eap,
    "near": near,
    "alike": alike,
    "balanced": lambda s, r: ranks(eap(s, r), alike(s, r)),  # rare and visible, yet as anomalous as real ones
    "plain": lambda s, r: s["fused"].to_numpy(float),  # the most visible first
    "hard": lambda s, r: -s["supervised"].to_numpy(float),  # what the detector sees least, of what is visible
    "likelihood": lambda s, r: s["likelihood"].fillna(s["fused"]).to_numpy(float),
    "typical": lambda s, r: -s["edit_distance"].to_numpy(float),  # the closest to a real one
}


def band_limits(real: np.ndarray, *, floor: float, ceiling: float, low: float, high: float) -> tuple[float, float]:
    """(invisible below, trivial above) on the judges' percentile scale, from the real anomalies' out-of-fold scores.

    The lower limit is the `low` quantile of real scores kept within [floor, ceiling], percentiles of calib normals:
    a record must look at least as odd as the faintest real anomalies, but no anomaly is asked to look odder than nearly
    every normal. The upper limit is the `high` quantile of real scores.
    """
    real = real[np.isfinite(real)]
    if not len(real):
        return ceiling, np.inf
    return float(np.clip(np.quantile(real, low), floor, ceiling)), float(np.quantile(real, high))


def verdicts(
    meta: pd.DataFrame,
    scores: pd.DataFrame,
    real: pd.DataFrame,
    *,
    min_overlap: float,
    seam: float,
    contrast: list[float],
    copy: float,
    posterior: float,
    floor: float,
    ceiling: float,
    low: float,
    high: float,
    trivial_share: float,
    criterion: str,
    keep_share: float,
    kind_most: float,
    kind_least: int,
    decisions: dict[str, str] | None = None,
) -> pd.DataFrame:
    """One row a record: id, keep, reason, band, rank (of the criterion), and the limits it was held against.

    meta: `id`, `kind`, `mask_iou`, `seed`; scores (same order): what judge and gates measured; real: the support's
    out-of-fold scores. Thresholds as in params.yaml, section filter. A seam is an adapter-off twin that looks odd where
    it was pasted: beyond the percentile `seam` and what counts as visible. decisions: {id: "accept" | "reject"}.
    """
    below, above = band_limits(real["fused"].to_numpy(float), floor=floor, ceiling=ceiling, low=low, high=high)
    fused, kind = scores["fused"].to_numpy(float), meta["kind"].to_numpy()
    failed = {
        "unchanged": meta["mask_iou"].to_numpy(float) < min_overlap,
        "outside": scores["outside"].to_numpy(float) > 0,
        "seam": np.nan_to_num(scores["control"].to_numpy(float), nan=-np.inf) > max(seam, below),
        "contrast": (scores["contrast_low"].to_numpy(float) < contrast[0])
        | (scores["contrast_high"].to_numpy(float) > contrast[1]),
        "copy": scores["copy_distance"].to_numpy(float) < copy,
        "duplicate": scores["duplicate_of"].to_numpy() != "",
        "constraint": scores["violations"].to_numpy(float) > 0,
        "kind": scores["posterior"].to_numpy(float) < posterior,
        "invisible": ~(fused >= below),
    }
    reason = np.full(len(meta), KEPT, dtype=object)
    for name, wrong in reversed(failed.items()):
        reason[wrong] = name
    band = np.where(fused < below, "invisible", np.where(fused > above, "trivial", "informative"))
    rank = np.nan_to_num(CRITERIA[criterion](scores, real).astype(float), nan=-np.inf)
    reason = cap_trivial(reason, band, kind, meta["seed"].to_numpy(), trivial_share)
    reason = best_of(reason, kind, rank, keep_share)
    reason = quotas(reason, kind, rank, most=kind_most, least=kind_least)
    for i, name in enumerate(meta["id"]):
        if (decisions or {}).get(str(name)):
            reason[i] = BY_HAND if decisions[str(name)] == "accept" else REFUSED
    return pd.DataFrame({
        "id": list(meta["id"]), "keep": np.isin(reason, (KEPT, BY_HAND)), "reason": reason, "band": band, "rank": rank,
        "invisible_below": below, "trivial_above": above,
    })  # fmt: skip


def cap_trivial(reason: np.ndarray, band: np.ndarray, kind: np.ndarray, seed: np.ndarray, share: float) -> np.ndarray:
    """`reason` with trivial records beyond `share` of a kind's survivors marked so; seeds decide which stay."""
    reason = reason.copy()
    for name in np.unique(kind):
        alive = (kind == name) & (reason == KEPT)
        trivial = np.flatnonzero(alive & (band == "trivial"))
        informative = int(alive.sum()) - len(trivial)
        # share s of those: t / (t + informative) <= s; with nothing informative the quota is of the trivial alone
        room = int(share * informative / (1 - share) + 1e-9) if informative else int(np.ceil(share * len(trivial)))
        order = trivial[np.argsort(seed[trivial], kind="stable")]
        reason[order[room:]] = "trivial"
    return reason


def best_of(reason: np.ndarray, kind: np.ndarray, rank: np.ndarray, share: float) -> np.ndarray:
    """`reason` with all but the best-ranked `share` of each kind's survivors "outranked"; one of a kind stays."""
    reason = reason.copy()
    for name in np.unique(kind):
        alive = np.flatnonzero((kind == name) & (reason == KEPT))
        order = alive[np.argsort(-rank[alive], kind="stable")]
        reason[order[max(1, int(np.ceil(share * len(alive)))) :]] = "outranked"
    return reason


def quotas(reason: np.ndarray, kind: np.ndarray, rank: np.ndarray, *, most: float, least: int) -> np.ndarray:
    """`reason` with no kind above the share `most` of the kept and, as far as records passed the hard gates, none below
    `least` records: the best-ranked of those refused for a soft reason come back. A kind that alone is left has no
    quota, and none takes more than half of a kind: where little of the others is good, what is good of this one stays.
    """
    reason = reason.copy()
    for name in np.unique(kind):
        own = kind == name
        soft = np.flatnonzero(own & np.isin(reason, SOFT))
        lack = least - int((own & (reason == KEPT)).sum())
        if lack > 0:
            reason[soft[np.argsort(-rank[soft], kind="stable")][:lack]] = KEPT
    names, count = np.unique(kind[reason == KEPT], return_counts=True)
    kept, most = -1, max(most, 1 / max(1, len(names)))  # equal shares at least
    while most < 1 and kept != (kept := int((reason == KEPT).sum())):  # fewer of one kind leave less room for another
        for name, half in zip(names, (count + 1) // 2):
            alive = np.flatnonzero((kind == name) & (reason == KEPT))
            others = int((reason == KEPT).sum()) - len(alive)
            room = max(least, half, int(most * others / (1 - most) + 1e-9))
            reason[alive[np.argsort(-rank[alive], kind="stable")][room:]] = "quota"
    return reason
