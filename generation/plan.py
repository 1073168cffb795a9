"""What to generate: one row a record, drawn from its own seed - kind, parent, host, size and severity bin.

A record's parent and host come from the same cross-fitting fold, so that the judges of that fold have seen neither.
Bins with more weight in `steer` are drawn more often; a share of the draws ignores it (exploration).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.records import Records

SIZES = {"small": (0.6, 0.85), "like": (0.85, 1.2), "large": (1.2, 1.6)}  # mask scale over the parent's
SEVERITIES = {"faint": (0.6, 0.85), "like": (0.85, 1.15), "strong": (1.15, 1.5)}  # over the kind's matched cfg_scale
EXPLORE = 0.3


def bins(kinds: list[str]) -> list[tuple[str, str, str]]:
    """Every (kind, size, severity)."""
    return [(kind, size, severity) for kind in kinds for size in SIZES for severity in SEVERITIES]


def bin_weights(kinds: list[str], steer: dict[str, float] | None) -> np.ndarray:
    """Probabilities over `bins(kinds)`: uniform, or mixed with `steer` {"kind|size|severity": weight >= 0}."""
    keys = ["|".join(b) for b in bins(kinds)]
    uniform = np.full(len(keys), 1 / len(keys))
    if not steer:
        return uniform
    weight = np.array([max(0.0, float(steer.get(key, 0.0))) for key in keys])
    return uniform if weight.sum() == 0 else EXPLORE * uniform + (1 - EXPLORE) * weight / weight.sum()


def record_seed(seed: int, round_: int, index: int) -> int:
    """The seed of record `index` of a round; 53 bits, so that it survives JSON."""
    return int(np.random.SeedSequence([seed, round_, index]).generate_state(1, np.uint64)[0] >> np.uint64(11))


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
    """`count` rows: seed, kind, size, severity (bin names), size_factor, severity_factor, parent and host (positions in
    `support` and `fit`). Row i does not change with `count`."""
    kinds = sorted(set(support.meta["kind"]))
    choices, weight = bins(kinds), bin_weights(kinds, steer)
    kind_of = support.meta["kind"].to_numpy()
    host_fold = np.array([folds[i] for i in fit.meta["id"]])
    parent_fold = np.array([folds[i] for i in support.meta["id"]])
    rows = []
    for i in range(count):
        own = record_seed(seed, round_, i)
        rng = np.random.default_rng(own)
        kind, size, severity = choices[int(rng.choice(len(choices), p=weight))]
        parent = int(rng.choice(np.flatnonzero(kind_of == kind)))
        hosts = np.flatnonzero(host_fold == parent_fold[parent])
        rows.append({
            "seed": own, "kind": kind, "size": size, "severity_bin": severity, "parent": parent,
            "host": int(rng.choice(hosts)), "size_factor": float(rng.uniform(*SIZES[size])),
            "severity_factor": float(rng.uniform(*SEVERITIES[severity])), "fold": int(parent_fold[parent]),
        })  # fmt: skip
    return pd.DataFrame(rows)
