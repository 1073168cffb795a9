"""Feedback of a round to the next: where to draw more, how varied what was kept is, and whether to go on."""

from __future__ import annotations

import numpy as np
import pandas as pd

BINS = 8  # of the histogram of mask areas


def arms_of(meta: pd.DataFrame) -> dict[str, pd.Series]:
    """The steered choices that each record was drawn by, by factor, as the plan names them."""
    shape = meta["kind"].astype(str) + "|" + meta["size_bin"].astype(str) + "|" + meta["severity_bin"].astype(str)
    place, host = (f"{name}:" + meta[column].astype(str) for name, column in (("place", "place"), ("host", "host_bin")))
    return {"shape": shape, "place": place, "host": host}


def tally(
    meta: pd.DataFrame, keep: np.ndarray, fused: np.ndarray, real: np.ndarray,
    before: dict[str, list[int]] | None = None,
) -> dict[str, list[int]]:  # fmt: skip
    """{arm: [drawn, kept, weak]} of this round on top of the rounds `before`, which begin with 0 of every arm: one that
    is not there is never weighed. Weak ones are kept and score below the median real anomaly, where a detector still
    has something to learn."""
    median = float(np.median(real[np.isfinite(real)])) if np.isfinite(real).any() else np.inf
    weak = keep & (fused < median)
    counts = {arm: list(found) for arm, found in (before or {}).items()}
    for names in arms_of(meta).values():
        for arm in sorted(set(names)):
            own = (names == arm).to_numpy()
            new = [int(own.sum()), int((own & keep).sum()), int((own & weak).sum())]
            counts[arm] = [a + b for a, b in zip(counts.get(arm, [0, 0, 0]), new)]
    return counts


def weights(counts: dict[str, list[int]]) -> dict[str, float]:
    """{arm: w}, w = (kept + 1) / (drawn + 2) * (weak + 1) / (kept + 2): Laplace's estimates of the chance that a record
    of this arm is kept, and that a kept one is weak; of an arm that was never drawn 1/2 each. The plan draws by them
    above its exploration floor."""
    return {arm: (kept + 1) / (drawn + 2) * (weak + 1) / (kept + 2) for arm, (drawn, kept, weak) in counts.items()}


def effective(counts: np.ndarray) -> float:
    """The number of equally frequent arms with the same entropy, exp(H); 0 without any record."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def diversity(meta: pd.DataFrame, keep: np.ndarray, vectors: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """How varied the kept are: kinds, shapes (effective numbers), areas (effective bins of the log area), spread (mean
    distance between kept edits over that between real ones; at most 200 of each) and coverage (share of real anomalies
    that are the nearest one of some kept record). vectors (N, D), real (K, D): edit vectors."""
    from scipy.spatial.distance import cdist, pdist

    kept, chosen = meta[keep], vectors[keep]
    some = chosen[np.linspace(0, len(chosen) - 1, min(200, len(chosen))).astype(int)] if len(chosen) else chosen
    between = float(pdist(real).mean()) if len(real) > 1 else 0.0
    area = np.log(np.maximum(kept["area"].to_numpy(float), 1e-6))
    histogram = np.histogram(area, bins=BINS, range=(area.min(), area.max() + 1e-9))[0] if len(area) else np.zeros(1)
    return {
        "kept": float(keep.mean()) if len(keep) else 0.0,
        "kinds": effective(kept["kind"].value_counts().to_numpy(float)),
        "shapes": effective(arms_of(kept)["shape"].value_counts().to_numpy(float)),
        "areas": effective(histogram.astype(float)),
        "spread": float(pdist(some).mean()) / between if len(some) > 1 and between > 0 else 0.0,
        "coverage": len(set(cdist(chosen, real).argmin(1))) / len(real) if len(chosen) and len(real) else 0.0,
    }


def stop(now: dict, before: dict | None, *, collapse: float, settled: float) -> str:
    """Why the loop should not go on, or "". now, before: {"diversity", "weights"} of a round and the one before it.

    Collapse: nothing is kept, or kinds, shapes, spread or coverage fell below `collapse` of the round before. Settled:
    the chances of no arm moved by more than `settled` of the total (half the L1 distance).
    """
    if now["diversity"]["kept"] == 0:
        return "collapse: no record was kept"
    if before is None:
        return ""
    for name in ("kinds", "shapes", "spread", "coverage"):
        was, is_ = before["diversity"][name], now["diversity"][name]
        if is_ < collapse * was:
            return f"collapse: {name} fell from {was:.2f} to {is_:.2f}"
    moved = shift(before["weights"], now["weights"])
    return f"settled: the steering moved by {moved:.3f}" if moved < settled else ""


def shift(one: dict[str, float], other: dict[str, float]) -> float:
    """Half the L1 distance (0..1) between two sets of weights, each scaled to sum 1."""
    names = sorted({*one, *other})
    a, b = (np.array([w.get(n, 0.0) for n in names]) for w in (one, other))
    return float(np.abs(a / max(a.sum(), 1e-12) - b / max(b.sum(), 1e-12)).sum() / 2)
