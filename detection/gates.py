"""What the hard gates look at: per generated record, whether it changed what it should and only that, stands out like
the real anomalies, obeys the table, is of its kind, and is no copy. Nothing here depends on the batch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.records import Records
from detection.novelty import Copies, copy_distance, edit_vectors
from generation.contrast import contrast
from generation.limits import AMOUNTS, Allowed, allowed, amounts


class Gates:
    """The measures against one support. hosts: every record that a host may be (fit and support), found by id."""

    def __init__(self, hosts: Records, support: Records, codec):
        self.hosts, self.codec = hosts, codec
        self.position = {name: i for i, name in enumerate(hosts.meta["id"])}
        self.copies = Copies(support, codec)
        self.kinds = support.meta["kind"].to_numpy(str)
        stands = contrast(support, codec)
        self.range = {
            k: (stands[self.kinds == k].min(), stands[self.kinds == k].max()) for k in sorted(set(self.kinds))
        }
        self.allowed = allowed(hosts) if hosts.modality == "row" else {}

    def measure(self, records: Records) -> pd.DataFrame:
        """One row a record: outside (elements changed outside the edit), contrast_low and contrast_high (contrast over
        the least and most of its kind's real ones, NaN for rows), violations, posterior (of the intended kind, 0..1),
        edit_distance (to the nearest of its support) and copy_distance (the same, or less where an anomaly of the
        support lies in it as it is)."""
        known = self.copies.vectors
        kind, vectors = records.meta["kind"].to_numpy(str), edit_vectors(records, self.codec)
        stands = contrast(records, self.codec)
        low, high = (np.array([self.range.get(k, (np.nan, np.nan))[end] for k in kind], float) for end in (0, 1))
        return pd.DataFrame({
            "outside": self.outside(records),
            "contrast_low": stands / np.maximum(low, 1e-9),
            "contrast_high": stands / np.maximum(high, 1e-9),
            "violations": violations(records, self.allowed),
            "posterior": posterior(vectors, kind, known, self.kinds),
            "edit_distance": copy_distance(vectors, known, self.kinds),
            "copy_distance": self.copies.nearest(records, vectors)[0],
        })  # fmt: skip

    def outside(self, records: Records) -> np.ndarray:
        """(N,) elements that differ from the host where nothing was edited; -1 where the host is unknown."""
        out = np.array([self.position.get(name, -1) for name in records.meta["host"]], int)
        known = np.flatnonzero(out >= 0)
        at, out[known] = out[known], 0
        if records.modality == "row":
            edit = records.meta["changed"] if "changed" in records.meta else pd.Series(list(records.mask))
            kept = ~np.stack(edit.iloc[known].tolist()).astype(bool) if len(known) else np.zeros((0, 0), bool)
            for j in range(kept.shape[1]):
                out[known] += kept[:, j] & differ(records.x.iloc[known, j], self.hosts.x.iloc[at, j])
            return out
        for i, host in zip(known, at):
            differs = records.x[i] != self.hosts.x[host]
            mask = np.asarray(records.mask[i], bool)
            differs = differs.any(-1) if differs.ndim > mask.ndim else differs
            out[i] = int((differs & ~mask).sum())
        return out


def differ(one: pd.Series, other: pd.Series) -> np.ndarray:
    """(N,) whether two columns' cells differ, a missing one being like a missing one."""
    here, there = one.notna().to_numpy(bool), other.notna().to_numpy(bool)
    out, both = here != there, here & there
    out[both] = one.to_numpy(object)[both] != other.to_numpy(object)[both]
    return out


def violations(records: Records, columns: dict[str, Allowed]) -> np.ndarray:
    """(N,) cells that no real row allows, see `allowed`; 0 for other than rows, whose values are clipped and finite by
    construction."""
    out = np.zeros(len(records), int)
    for column in records.schema["columns"] if records.modality == "row" else ():
        cells, may = records.x[column["name"]], columns[column["name"]]
        if column["type"] in AMOUNTS:
            value = amounts(cells, column["type"])
            fits = (value >= may.low) & (value <= may.high)
        else:
            fits = cells.astype(str).isin(may.names).to_numpy(bool)
        out += np.where(cells.isna(), not may.gaps, ~fits)
    return out


def posterior(vectors: np.ndarray, kind: np.ndarray, real: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """(N,) chance of each record's own kind: Gaussian kernels on the real anomalies, each kind with the same prior.

    The bandwidth is the median distance of a real one to the nearest that differs; 1 where there is a single kind.
    """
    from scipy.spatial.distance import cdist
    from scipy.special import logsumexp

    names = sorted(set(kinds))
    if len(names) < 2 or not len(vectors):
        return np.ones(len(vectors))
    different = np.unique(real, axis=0)
    between = cdist(different, different)
    np.fill_diagonal(between, np.inf)
    width = max(float(np.median(between.min(1))), 1e-9) if len(different) > 1 else 1e-9
    score = -0.5 * (cdist(vectors, real) / width) ** 2
    logs = np.stack([logsumexp(score[:, kinds == k], axis=1) - np.log((kinds == k).sum()) for k in names], axis=1)
    chance = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
    place = {k: i for i, k in enumerate(names)}
    return np.array([chance[i, place[k]] if k in place else 0.0 for i, k in enumerate(kind)])
