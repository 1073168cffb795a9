"""The filter: scores in, one verdict a record out - keep or not, with the first reason and the band it fell in.

Hard gates come first (nothing changed, a seam, a copy, a duplicate), then the bands of the out-of-fold judges:
invisible (looks normal where labelled), informative, trivial (any judge sees it: capped by a quota).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

KEPT = "kept"
REASONS = ("unchanged", "seam", "copy", "duplicate", "invisible", "trivial", KEPT)


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
    copy: float,
    floor: float,
    ceiling: float,
    low: float,
    high: float,
    trivial_share: float,
) -> pd.DataFrame:
    """One row a record: id, keep, reason, band, and the limits it was held against.

    meta: `id`, `kind`, `mask_iou`, `seed`; scores (same order): `fused`, `control`, `copy_distance`, `duplicate_of`;
    real: the support's out-of-fold `fused`. Thresholds as in params.yaml, section filter. A seam is an adapter-off twin
    that looks odd where it was pasted: beyond the percentile `seam` and what counts as visible.
    """
    below, above = band_limits(real["fused"].to_numpy(float), floor=floor, ceiling=ceiling, low=low, high=high)
    fused = scores["fused"].to_numpy(float)
    gates = {
        "unchanged": meta["mask_iou"].to_numpy(float) < min_overlap,
        "seam": np.nan_to_num(scores["control"].to_numpy(float), nan=-np.inf) > max(seam, below),
        "copy": scores["copy_distance"].to_numpy(float) < copy,
        "duplicate": scores["duplicate_of"].to_numpy() != "",
        "invisible": ~(fused >= below),
    }
    reason = np.full(len(meta), KEPT, dtype=object)
    for name, failed in reversed(gates.items()):
        reason[failed] = name
    band = np.where(fused < below, "invisible", np.where(fused > above, "trivial", "informative"))
    reason = cap_trivial(reason, band, meta["kind"].to_numpy(), meta["seed"].to_numpy(), trivial_share)
    return pd.DataFrame({
        "id": list(meta["id"]), "keep": reason == KEPT, "reason": reason, "band": band,
        "invisible_below": below, "trivial_above": above,
    })  # fmt: skip


def cap_trivial(reason: np.ndarray, band: np.ndarray, kind: np.ndarray, seed: np.ndarray, share: float) -> np.ndarray:
    """`reason` with trivial records beyond `share` of a kind's survivors marked so; seeds decide which stay."""
    reason = reason.copy()
    for name in np.unique(kind):
        alive = (kind == name) & (reason == KEPT)
        trivial = np.flatnonzero(alive & (band == "trivial"))
        informative = int(alive.sum()) - len(trivial)
        # share s of the kept: t / (t + informative) <= s; with nothing informative the quota is of the trivial alone
        room = int(share * informative / (1 - share)) if informative else int(np.ceil(share * len(trivial)))
        order = trivial[np.argsort(seed[trivial], kind="stable")]
        reason[order[room:]] = "trivial"
    return reason


def steer(meta: pd.DataFrame, table: pd.DataFrame, fused: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Weights {"kind|size|severity": w} for the next round: bins whose records pass, and pass where judges are weak.

    w = (kept + 1) / (drawn + 2) * (weak + 1) / (kept + 2): Laplace's estimates of the chance that a record is kept, and
    that a kept one scores below the median real anomaly, where a detector still has something to learn.
    """
    median = float(np.median(real[np.isfinite(real)])) if np.isfinite(real).any() else np.inf
    keys = meta["kind"].astype(str) + "|" + meta["size_bin"].astype(str) + "|" + meta["severity_bin"].astype(str)
    keep = table["keep"].to_numpy(bool)
    weights = {}
    for key in sorted(set(keys)):
        own = (keys == key).to_numpy()
        kept = int((own & keep).sum())
        weak = int((own & keep & (fused < median)).sum())
        weights[key] = (kept + 1) / (int(own.sum()) + 2) * (weak + 1) / (kept + 2)
    return weights
