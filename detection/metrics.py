"""How well scores rank anomalies above normals: AUROC, average precision, VUS-PR, and intervals over repetitions.

labels are true where anomalous, scores are higher where worse; both flat or of any one shape. All areas are exact: ties
count as sklearn counts them, and VUS-PR follows TSB-AD.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

THRESHOLDS = 250  # of the range-AUC, as in TSB-AD


def _parts(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """(scores of anomalies, scores of normals), both ascending; ValueError where one is empty or a score is NaN."""
    labels, scores = np.asarray(labels, bool).ravel(), np.asarray(scores).ravel()
    if labels.shape != scores.shape:
        raise ValueError(f"labels and scores must be equally many, got {labels.size} and {scores.size}")
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers, got NaN")
    positive, negative = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(positive) or not len(negative):
        raise ValueError(f"labels must hold anomalies and normals, got {len(positive)} and {len(negative)}")
    return positive, negative


def auroc(labels, scores) -> float:
    """The chance that an anomaly scores above a normal, a tie counting half (Mann-Whitney)."""
    positive, negative = _parts(labels, scores)
    below = np.searchsorted(negative, positive, "left").astype(np.float64).sum()
    upto = np.searchsorted(negative, positive, "right").astype(np.float64).sum()
    return float((below + upto) / 2 / len(positive) / len(negative))


def ap(labels, scores) -> float:
    """Average precision: sum over thresholds of (R_n - R_(n-1)) P_n."""
    hits, precision = hits_precision(labels, scores)
    return float((-np.diff(hits, append=0) * precision).sum() / hits[0])


def hits_precision(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """((T,) anomalies found, falling from all of them, (T,) precision) at the anomalies' scores, ascending: recall
    moves at these alone."""
    positive, negative = _parts(labels, scores)
    threshold, first = np.unique(positive, return_index=True)
    hits = len(positive) - first
    return hits, hits / (hits + len(negative) - np.searchsorted(negative, threshold, "left"))


def image_auroc(labels, scores) -> float:
    """AUROC over whole images."""
    return auroc(labels, scores)


def image_ap(labels, scores) -> float:
    """Average precision over whole images."""
    return ap(labels, scores)


def pixel_auroc(masks, maps) -> float:
    """AUROC over pixels pooled over all images; scores count in float32. masks, maps: arrays, or lists of images."""
    return auroc(_flat(masks, bool), _flat(maps, np.float32))


def pixel_ap(masks, maps) -> float:
    """Average precision over pixels pooled over all images; as `pixel_auroc`."""
    return ap(_flat(masks, bool), _flat(maps, np.float32))


def _flat(values, dtype) -> np.ndarray:
    if isinstance(values, list | tuple):
        return np.concatenate([np.asarray(v, dtype).ravel() for v in values])
    return np.asarray(values, dtype).ravel()


def segments(labels: np.ndarray) -> np.ndarray:
    """(S, 2) first and last position of every run of true labels."""
    edges = np.diff(np.r_[0, np.asarray(labels, np.int8), 0])
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1], axis=1)


def soft_labels(labels: np.ndarray, width: int) -> np.ndarray:
    """Labels that fade out: sqrt(1 - d / width) at distance d <= width // 2 from a segment, added up, 1 at most
    (sec. 4.1, arXiv:2502.13318)."""
    out, half = np.asarray(labels, np.float64).copy(), width // 2
    for first, last in segments(labels):
        after = np.arange(last + 1, min(last + half + 1, len(out)))
        before = np.arange(max(first - half, 0), first)
        out[after] += np.sqrt(1 - (after - last) / max(width, 1))
        out[before] += np.sqrt(1 - (first - before) / max(width, 1))
    return np.minimum(out, 1)


def events(labels: np.ndarray, width: int) -> np.ndarray:
    """(E, 2) first and last position of the segments widened by width // 2 on both sides, merged where they share a
    position."""
    half, out = width // 2, []
    for first, last in segments(labels):
        first, last = max(first - half, 0), min(last + half, len(labels) - 1)
        if out and first <= out[-1][1]:
            out[-1][1] = last
        else:
            out.append([first, last])
    return np.array(out).reshape(-1, 2)


def range_pr(labels, scores, *, width: int, thresholds: int = THRESHOLDS) -> float:
    """Area under the range-aware precision-recall curve with label buffers of `width` // 2 on both sides.

    With soft labels y, alarms a (score at or above a threshold) and P true labels, per threshold:
      TP = sum a y,  P' = P + (sum of a y outside the segments) / 2,  precision = TP / sum a,
      recall = min(TP / P', 1) x share of events alarmed,  area = sum_k (recall_k - recall_(k-1)) precision_k
    (sec. 4, arXiv:2502.13318). Thresholds are the scores at `thresholds` equally spaced ranks, highest first.
    """
    labels, scores = np.asarray(labels, bool).ravel(), np.asarray(scores, np.float64).ravel()
    _parts(labels, scores)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    threshold = ranked[np.linspace(0, len(ranked) - 1, thresholds).astype(int)]
    alarms = np.searchsorted(-ranked, -threshold, "right")  # at or above each threshold, ties included
    soft = soft_labels(labels, width)
    hits = np.cumsum(soft[order])[alarms - 1]
    credit = np.cumsum(np.where(labels, 0, soft)[order])[alarms - 1]
    peaks = np.sort([scores[first : last + 1].max() for first, last in events(labels, width)])
    found = (len(peaks) - np.searchsorted(peaks, threshold, "left")) / len(peaks)
    recall = np.minimum(hits / (labels.sum() + credit / 2), 1) * found
    return float((np.diff(recall, prepend=0) * hits / alarms).sum())


def vus_pr(labels, scores, *, window: int, thresholds: int = THRESHOLDS) -> float:
    """Volume under the range-aware PR surface: the mean of `range_pr` over widths 0, 1, ..., window.

    As TSB-AD defines it (arXiv:2502.13318; Liu and Paparrizos, NeurIPS 2024), where `window` is twice the series'
    period: a buffer reaches window // 2 to either side at most. labels, scores: (T,) in time order.
    """
    return float(np.mean([range_pr(labels, scores, width=w, thresholds=thresholds) for w in range(window + 1)]))


def interval(values: Sequence[float], confidence: float = 0.95) -> dict:
    """{"mean", "low", "high", "values"}: Student's interval of the mean over repetitions.

    One value has no spread: its low and high are None. ValueError without values or for one that is not finite.
    """
    values = [float(v) for v in values]
    if not values or not np.isfinite(values).all():
        raise ValueError(f"values must be finite, at least one, got {values}")
    mean, low, high = float(np.mean(values)), None, None
    if len(values) > 1:
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "values": values}


def holds_at(values: Sequence[float]) -> float:
    """0..1, the greatest confidence at which Student's interval of the mean lies above 0; 0 where the mean does not.

    One value has no interval: 0. ValueError as in `interval`.
    """
    found = interval(values)
    if found["low"] is None or found["mean"] <= 0:
        return 0.0
    error = np.std(found["values"], ddof=1) / len(values) ** 0.5
    if error == 0:
        return 1.0
    from scipy.stats import t

    return float(2 * t.cdf(found["mean"] / error, len(values) - 1) - 1)


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> dict:
    """The interval of the gains a - b, pair by pair (same seed, same support)."""
    if len(a) != len(b):
        raise ValueError(f"pairs must be equally many, got {len(a)} and {len(b)}")
    return interval([float(x) - float(y) for x, y in zip(a, b)], confidence)
