"""Fusing detectors by rank: scores as percentiles among each detector's scores of normals, and these as one."""

from __future__ import annotations

import numpy as np


def percentile(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The mid-rank percentile (N,) in (0, 1) of scores among a reference (M,); never decreases in the score.

    At a reference value it is (number below + half the ties) / M, between two of them linear. Beyond the ends
    half a reference's share, 1 / 2M, closes in on 1 (or 0) as 1 / (1 + log(1 + z)), z the distance in standard
    deviations of the reference, so that scores above every normal stay apart, and lie above all of them even where
    those are equal. Values of the reference alone decide: no batch enters.
    """
    scores, reference = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    if not len(reference):
        raise ValueError("a reference must hold at least one score, got none")
    for name, values in (("scores", scores), ("reference", reference)):
        if np.isnan(values).any():
            raise ValueError(f"{name} must not be NaN, got {int(np.isnan(values).sum())}")
    value, count = np.unique(reference, return_counts=True)
    middle = (np.cumsum(count) - count / 2) / len(reference)
    size = max(1.0, abs(float(value[-1])))
    scale = spread if (spread := float(reference.std())) > 1e-12 * size else size
    beyond = 0.5 / len(reference)
    out = np.interp(scores, value, middle)
    steep = ~np.isfinite(out)  # two of the reference as near as floats go: the slope between them is no number
    out[steep] = middle[np.searchsorted(value, scores[steep], "right") - 1]
    out = np.minimum(out, middle[np.minimum(np.searchsorted(value, scores), len(value) - 1)])  # or it rounds above
    above = 1 - beyond / (1 + np.log1p(np.maximum(scores - value[-1], 0) / scale))
    below = beyond / (1 + np.log1p(np.maximum(value[0] - scores, 0) / scale))
    return np.where(scores > value[-1], above, np.where(scores < value[0], below, out))


def rank_fuse(scores: list[np.ndarray], reference: list[np.ndarray]) -> np.ndarray:
    """The mean surprise -log(1 - p) (N,), above 0, over detectors, p the percentile of a score: Fisher's method (1925).

    The mean of p, near 1 wherever it matters, would leave the ranking to the weaker detector.

    scores: (N,) per detector, all of the same records. 
    reference: (M,) per detector, its scores of calib normals.
    """
    if len(scores) != len(reference) or not scores:
        raise ValueError(f"rank_fuse needs one reference a detector, got {len(scores)} and {len(reference)}")
    if len({len(part) for part in scores}) > 1:
        raise ValueError(f"scores must be of the same records, got lengths {[len(part) for part in scores]}")
    return np.mean([-np.log1p(-percentile(part, base)) for part, base in zip(scores, reference)], axis=0)
