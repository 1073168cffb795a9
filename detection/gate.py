"""The do-no-harm gate: is the best training set that uses generations shown to beat the best that does not?

Candidates are compared on real anomalies that none of their parts had seen (a fold held out of the whole loop). What an
anomaly contributes to average precision, at the share of anomalies that the data has, is its value under a candidate
(of images and windows the mean over its elements: a short one counts as much as a long one). Gains are paired by
anomaly; those of one group or incident count once. The candidate on each side is chosen on the other folds' anomalies
and measured on the fold held out (nested cross-validation).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from data.records import Records
from detection.metrics import holds_at, interval

SIMPLE = ("real", "standard", "classical")
UNSUPERVISED = ("memory", "pca", "knn", "iforest")  # see no anomaly: the arm real alone


@dataclass(frozen=True)
class Candidate:
    """A training set (arm), the detector trained on it, the least share of real ones among what it sees, and whether
    it is fused with the likelihood ratio of the denoiser."""

    arm: str
    detector: str
    weight: float
    fuse: bool

    @property
    def generated(self) -> bool:
        return self.arm not in SIMPLE

    def told(self) -> dict:
        return asdict(self)


def candidates(arms: list[str], detectors: list[str], weights: list[float], *, fuse: bool) -> Iterator[Candidate]:
    """Every sensible combination, simple ones first, so that a tie goes to the simpler."""
    for arm in sorted(arms, key=lambda a: (a not in SIMPLE, arms.index(a))):
        for name in detectors:
            if name in UNSUPERVISED and arm != "real":
                continue
            for weight in weights if arm != "real" else weights[:1]:
                for both in (False, True) if fuse else (False,):
                    yield Candidate(arm, name, weight, both)


def precision_at(
    positive: np.ndarray, negative: np.ndarray, weight: float = 1.0, weights: np.ndarray | float = 1.0
) -> np.ndarray:
    """(P,) precision where the threshold is each positive's score, ties counted as alarms; its mean is the average
    precision of all (metrics.ap). weight: how much each positive counts; weights (N,): each negative."""
    order, ranked = np.argsort(negative), np.sort(positive)
    below = np.r_[0.0, np.cumsum(np.broadcast_to(weights, len(negative))[order], dtype=float)]
    hits = weight * (len(ranked) - np.searchsorted(ranked, positive, "left"))
    return hits / (hits + below[-1] - below[np.searchsorted(negative[order], positive, "left")])


def values(records: Records, maps, share: float | None = None) -> tuple[list[str], np.ndarray]:
    """(ids, (A,) value of each anomalous record): the mean precision at its own anomalous elements among those of all
    records given. maps: what a detector's score_map gave for the records.

    share, in (0, 1): how many records are to be anomalous; the anomalous ones given then count for as many. Precision
    falls with that share, and what helps far down the ranking shows only where there are many to be found.
    """
    odd = records.meta["label"].to_numpy(bool)
    weight = 1.0 if share is None or not odd.any() else share / (1 - share) * (~odd).sum() / odd.sum()
    if records.modality == "row":
        scores = np.asarray(maps, float)
        return list(records.meta["id"][odd]), precision_at(scores[odd], scores[~odd], weight)
    where = [np.asarray(m, bool) if records.modality == "image" else np.asarray(m, bool).any(1) for m in records.mask]
    inside = [np.asarray(m, float)[w] for m, w in zip(maps, where)]
    negative = np.concatenate([np.asarray(m, float)[~w] for m, w in zip(maps, where)])
    weights = np.concatenate([np.full((~w).sum(), weight if o else 1.0) for w, o in zip(where, odd)])
    found = precision_at(np.concatenate(inside), negative, weight, weights)
    ends = np.cumsum([len(part) for part in inside])
    marked = [i for i, part in enumerate(inside) if len(part)]
    means = [found[ends[i] - len(inside[i]) : ends[i]].mean() for i in marked]
    return [records.meta["id"].iloc[i] for i in marked], np.array(means)


def decide(
    choices: list[Candidate], table: np.ndarray, ids: list[str], block: list[str], *, confidence: float = 0.95
) -> dict:
    """What the gate says, as gate.json tells it; holds_at: the greatest confidence at which it would have accepted.

    table: (C, A) values; ids: (A,) the anomaly, or the group or incident that it is of; block: (A,) the fold (of a
    support) that it was held out with. What has one id counts once, with its mean gain. With fewer than two of them, or
    without a candidate that uses generations, nothing is accepted; one that uses none there must be.
    """
    ids, block = np.asarray(ids), np.asarray(block)
    sides = {side: [i for i, c in enumerate(choices) if c.generated == side] for side in (False, True)}
    usable = bool(sides[True]) and len(set(ids)) > 1

    def best(side: bool, seen: np.ndarray) -> int:
        return max(sides[side], key=lambda i: (table[i, seen].mean(), -i))

    every = np.ones(len(ids), bool)
    reference = choices[best(False, every)] if len(ids) else choices[sides[False][0]]
    said = {"confidence": confidence, "reference": reference.told(), "anomalies": len(set(ids)), "accepted": False,
            "holds_at": 0.0}  # fmt: skip
    means = table.mean(1) if len(ids) else np.full(len(choices), np.nan)
    told = [c.told() | {"mean": float(m) if np.isfinite(m) else None} for c, m in zip(choices, means)]
    if not usable:
        empty = {"mean": None, "low": None, "high": None, "values": []}
        return said | {"chosen": reference.told(), "best": None, "gain": empty, "candidates": told}
    gain = np.empty(len(ids))
    for name in np.unique(block):
        held = block == name
        seen = ~np.isin(ids, ids[held])
        seen = seen if seen.any() else every
        gain[held] = table[best(True, seen), held] - table[best(False, seen), held]
    each = [float(gain[ids == one].mean()) for one in sorted(set(ids))]
    found = interval(each, confidence)
    chosen = choices[best(True, every)]
    accepted = found["low"] is not None and found["low"] > 0
    return said | {
        "best": chosen.told(), "chosen": chosen.told() if accepted else reference.told(), "accepted": accepted,
        "holds_at": holds_at(each), "gain": found, "candidates": told,
    }  # fmt: skip


def sentence(said: dict, metric: str) -> str:
    """The decision in plain words."""
    gain, reference = said["gain"], name(said["reference"])
    if said["best"] is None:
        return f"Too few labelled anomalies to test generations: the training set is {reference}."
    bounds = f"{signed(gain['mean'])} ({signed(gain['low'])} to {signed(gain['high'])}, {said['anomalies']} anomalies)"
    pair = f"{name(said['best'])} over {reference}: {bounds} in cross-validated {metric}"
    if said["accepted"]:
        return f"Generations are used: {pair}."
    less = f"; an interval of {int(100 * said['holds_at'])} % would lie above 0" if said["holds_at"] >= 0.5 else ""
    return f"Generations are not used, as no gain is shown: {pair}{less}. The training set is {reference}."


def signed(value: float) -> str:
    """`+0.031`, with as many more decimals as keep a small difference from reading as zero."""
    digits = next((d for d in range(3, 7) if round(value, d) != 0), 3)
    return f"{value:+.{digits}f}"


def name(candidate: dict) -> str:
    """'mixed (forest, real share 0.5, fused)'."""
    fused = ", fused" if candidate["fuse"] else ""
    return f"{candidate['arm']} ({candidate['detector']}, real share {candidate['weight']:g}{fused})"
