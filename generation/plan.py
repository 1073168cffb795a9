"""What to generate: one row a record, drawn from its own seed - kind, parent, host, size, severity and place.

A record's parent and host come from the same cross-fitting fold, so that the judges of that fold have seen neither.
Arms with more weight in `steer` are drawn more often; a share of the draws ignores it (exploration).
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import pandas as pd

from data.records import Records

SPANS = {"small": (0.6, 0.85), "like": (0.85, 1.2), "large": (1.2, 1.6)}
# over the parent's: of an image's mask, of a window's span; a row is whole
SIZES = {"image": SPANS, "series": SPANS, "row": {"any": (1.0, 1.0)}}
SEVERITIES = {"faint": (0.6, 0.85), "like": (0.85, 1.15), "strong": (1.15, 1.5)}  # over the kind's matched cfg_scale
# where in the host; of rows, which have no place, how much they are noised (inpaint.row_chunk)
PLACES = {"image": ("inner", "outer"), "series": ("early", "middle", "late"), "row": ("slight", "strong")}
HOSTS = ("plain", "usual", "busy")  # thirds of the normals by how much goes on in them
EXPLORE = 0.3


def arms(kinds: list[str], modality: str) -> dict[str, list[str]]:
    """The choices that are steered, by factor: every kind|size|severity, every place, every host bin."""
    shapes = [f"{kind}|{size}|{severity}" for kind in kinds for size in SIZES[modality] for severity in SEVERITIES]
    hosts = HOSTS if modality != "row" else ("any",)  # a row's host is its parent
    return {"shape": shapes, "place": [f"place:{p}" for p in PLACES[modality]], "host": [f"host:{h}" for h in hosts]}


def chances(names: list[str], steer: dict[str, float] | None) -> np.ndarray:
    """Probabilities of some arms: uniform, or EXPLORE of it and the rest by `steer` {arm: weight >= 0}."""
    uniform = np.full(len(names), 1 / len(names))
    weight = np.array([max(0.0, float((steer or {}).get(name, 0.0))) for name in names])
    return uniform if weight.sum() == 0 else EXPLORE * uniform + (1 - EXPLORE) * weight / weight.sum()


def record_seed(seed: int, round_: int, index: int) -> int:
    """The seed of record `index` of a round; 53 bits, so that it survives JSON."""
    return int(np.random.SeedSequence([seed, round_, index]).generate_state(1, np.uint64)[0] >> np.uint64(11))


def pick(rng: np.random.Generator, values: np.ndarray, size: int | None = None) -> np.ndarray:
    """`rng.choice(values, size)`, the same draws at a fraction of its cost."""
    return values[rng.integers(len(values), size=size)]


def activity(records: Records) -> np.ndarray:
    """(N,) how much goes on in a record: the std of an image's levels, of a window's steps; 0 for rows."""
    if records.modality == "row":
        return np.zeros(len(records))
    if records.modality == "image":
        return np.array([float(x.std()) for x in records.x])
    step = [np.abs(np.diff(x, axis=0)) for x in records.x]
    scale = np.mean([s.mean(0) for s in step], axis=0) + 1e-12
    return np.array([float((s / scale).mean()) for s in step])


def host_bins(records: Records) -> np.ndarray:
    """(N,) the HOSTS bin of every normal, "any" for rows."""
    if records.modality == "row":
        return np.full(len(records), "any")
    rank = np.argsort(np.argsort(activity(records), kind="stable"), kind="stable")
    return np.array(HOSTS)[np.minimum(rank * len(HOSTS) // max(1, len(records)), len(HOSTS) - 1)]


def plan(
    fit: Records,
    support: Records,
    folds: dict[str, int],
    *,
    count: int,
    seed: int,
    round_: int,
    steer: dict[str, float] | None = None,
) -> pd.DataFrame:
    """`count` rows: seed, kind, size, severity_bin, place, host_bin (names), size_factor, severity_factor, parent, host
    (positions in `support` and `fit`), fold and mates (positions in `support` of the parent's kind in its fold).
    Row i does not change with `count`."""
    kinds = sorted(set(support.meta["kind"]))
    choices, sizes = arms(kinds, fit.modality), SIZES[fit.modality]
    below = {factor: chances(names, steer).cumsum() for factor, names in choices.items()}
    below = {factor: (total / total[-1]).tolist() for factor, total in below.items()}
    kind_of, bin_of = support.meta["kind"].to_numpy(), host_bins(fit)
    host_fold = np.array([folds[i] for i in fit.meta["id"]])
    parent_fold = np.array([folds[i] for i in support.meta["id"]])
    parents = {kind: np.flatnonzero(kind_of == kind) for kind in kinds}
    mates = {i: np.flatnonzero((kind_of == kind_of[i]) & (parent_fold == parent_fold[i])) for i in range(len(support))}
    hosts = {fold: np.flatnonzero(host_fold == fold) for fold in set(parent_fold)}
    near = {(fold, name): own[bin_of[own] == name] for fold, own in hosts.items() for name in set(bin_of)}
    rows = []
    for i in range(count):
        own = record_seed(seed, round_, i)
        rng = np.random.default_rng(own)
        drawn = {f: choices[f][bisect_right(c, rng.random())] for f, c in below.items()}
        kind, size, severity = drawn["shape"].rsplit("|", 2)
        place, host_bin = drawn["place"].split(":")[1], drawn["host"].split(":")[1]
        parent = int(pick(rng, parents[kind]))
        fold = parent_fold[parent]
        pool = near.get((fold, host_bin), ())
        pool = pool if len(pool) else hosts[fold]
        rows.append({
            "seed": own, "kind": kind, "size": size, "severity_bin": severity, "place": place, "host_bin": host_bin,
            "parent": parent, "host": int(pick(rng, pool)), "size_factor": float(rng.uniform(*sizes[size])),
            "severity_factor": float(rng.uniform(*SEVERITIES[severity])), "fold": int(fold),
            "mates": mates[parent],
        })  # fmt: skip
    return pd.DataFrame(rows)
