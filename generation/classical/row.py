"""Classical anomalous rows: real ones jittered, or interpolated, where every column is about normal.

Jitter of .3 in quantile space is the arm to beat on ADBench; SMOTE (arXiv:1106.1813) is the customary one.
"""

from __future__ import annotations

import numpy as np

from data.records import Records, concat
from generation.classical.provenance import check_sets, provenance
from generation.limits import within

STD = 0.3  # of the jitter, in standard normal units
FLIP = 0.05  # chance of a categorical or boolean cell to take another support anomaly's value
NEIGHBOURS = 5  # of SMOTE
FLOOR = 0.1  # jitter where SMOTE has nobody to interpolate with


class Space:
    """The support anomalies in quantile space, and which features carry numbers.

    real: these and the normals. x (K, F). number (F,): value features of numeric, integer and date columns.
    present (K, D): cells not missing.
    """

    def __init__(self, hosts: Records, support: Records) -> None:
        from data.records.codecs import CODECS

        self.real = concat([hosts, support])
        self.codec = CODECS["row"].fit(self.real)
        self.x = self.codec.encode(support)[0]
        self.column = np.asarray(self.codec.feature_column)
        self.numeric = np.array(["quantile" in spec for spec in self.codec.columns])
        first = np.r_[True, self.column[1:] != self.column[:-1]] if len(self.column) else np.zeros(0, bool)
        self.number = first & self.numeric[self.column]
        self.present = np.column_stack([support.x[spec["name"]].notna() for spec in self.codec.columns])
        self.kind = support.meta["kind"].to_numpy()

    def same_kind(self, parent: int) -> np.ndarray:
        """Other support anomalies of the parent's kind, of any kind where there is none, maybe nobody."""
        others = np.flatnonzero(np.arange(len(self.kind)) != parent)
        same = others[self.kind[others] == self.kind[parent]]
        return same if len(same) else others

    def shift(self, parent: int, x: np.ndarray, noise: np.ndarray, severity: float) -> np.ndarray:
        """x (F,) with noise (F,) on its numbers, and these moved away from the median by `severity`."""
        movable = self.number & self.present[parent][self.column]
        return np.where(movable, severity * x + noise, x)


def jitter_one(rng: np.random.Generator, space: Space, parent: int, severity: float):
    """(x (F,), edited columns (D,), parents): one anomaly with Gaussian noise, and seldom a category of another."""
    x = space.shift(parent, space.x[parent], STD * rng.standard_normal(len(space.column)), severity)
    edited = space.numeric & space.present[parent]
    others = space.same_kind(parent)
    flip = ~space.numeric & space.present[parent] & (rng.random(len(space.numeric)) < FLIP)
    if not edited.any() and not flip.any():  # nothing but categories: one of them must move, or it is a copy
        flip = one_different(rng, space, parent, others)
    for j in np.flatnonzero(flip):
        own = space.column == j
        donors = [o for o in others if space.present[o, j] and not np.array_equal(space.x[o, own], x[own])]
        if donors:
            x[own] = space.x[int(rng.choice(donors))][own]
            edited[j] = True
    return x, edited, [parent]


def one_different(rng: np.random.Generator, space: Space, parent: int, others: np.ndarray) -> np.ndarray:
    """One random column (D,) in which some other anomaly has another value; none where all are alike."""
    out = np.zeros(len(space.numeric), bool)
    differs = [
        j for j in np.flatnonzero(space.present[parent])
        if any(space.present[o, j] and (space.x[o] != space.x[parent])[space.column == j].any() for o in others)
    ]  # fmt: skip
    if differs:
        out[int(rng.choice(differs))] = True
    return out


def smote_one(rng: np.random.Generator, space: Space, parent: int, severity: float):
    """(x (F,), edited columns (D,), parents): a point between an anomaly and one of its nearest neighbours.

    A category comes from the neighbour with the share it has; a cell that either of them misses stays the parent's.
    """
    others = space.same_kind(parent)
    if not len(others):
        x = space.shift(parent, space.x[parent], FLOOR * rng.standard_normal(len(space.column)), severity)
        return x, space.numeric & space.present[parent], [parent]
    distance = ((space.x[others] - space.x[parent]) ** 2).sum(1)
    near = others[np.argsort(distance, kind="stable")[:NEIGHBOURS]]
    other, share = int(rng.choice(near)), float(rng.uniform())
    both = space.present[parent] & space.present[other]
    take = both & (space.numeric | (rng.random(len(both)) < share))
    weight = np.where(space.numeric, share, 1.0)[space.column] * take[space.column]
    x = space.x[parent] + weight * (space.x[other] - space.x[parent])
    return space.shift(parent, x, np.zeros(len(x)), severity), take | (both & space.numeric), [parent, other]


MAKE = {"jitter": jitter_one, "smote": smote_one}


def make(name: str, hosts: Records, support: Records, seeds: list[int], severity: float) -> Records:
    """Records of one of the two generators; their host is the first parent, so labels and untouched cells are real."""
    usable = check_sets(hosts, support, need_mask=False)
    space = Space(hosts, support)
    x, edited, parents = [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        row, columns, who = MAKE[name](rng, space, usable[int(rng.integers(len(usable)))], severity)
        x.append(row)
        edited.append(columns)
        parents.append(who)
    first = np.array([who[0] for who in parents], dtype=int)
    chosen = support.take(first)
    count = len(space.codec.columns)
    edited = np.array(edited, bool).reshape(len(first), count)
    cells = within(space.codec.decode(np.array(x), chosen, edited), space.real) if seeds else chosen.x
    label = np.asarray(chosen.mask, bool).reshape(len(first), count)
    label = np.where(label.any(1, keepdims=True), label, True)
    meta = provenance(
        name, support, support, seeds, host=list(first), parents=parents, severity=[severity] * len(first),
        mask_source=[f"label:{support.meta['id'].iloc[p]}" for p in first],
        changed=[list(map(bool, row)) for row in differs(cells, chosen.x)],
    )  # fmt: skip
    return Records("row", meta, cells, label, support.schema)


def differs(cells, hosts) -> np.ndarray:
    """Which cells of two frames differ, (N, D); two missing cells do not."""
    out = np.zeros(cells.shape, bool)
    for j, name in enumerate(cells.columns):
        a, b = cells[name].reset_index(drop=True), hosts[name].reset_index(drop=True)
        gone = a.isna().to_numpy() & b.isna().to_numpy()
        out[:, j] = ~gone & ~(a == b).fillna(False).to_numpy(dtype=bool)
    return out


def jitter(hosts: Records, support: Records, seeds: list[int], *, severity: float = 1.0) -> Records:
    """One support anomaly a seed, its numbers jittered by STD in quantile space, its categories seldom exchanged.

    Missing cells stay missing. severity moves the numbers away from the median. meta `changed`: cells that differ from
    the host, which is the anomaly itself; the mask is its label, all columns where it marks none.
    """
    return make("jitter", hosts, support, seeds, severity)


def smote(hosts: Records, support: Records, seeds: list[int], *, severity: float = 1.0) -> Records:
    """One row a seed between two support anomalies of a kind in quantile space; otherwise as `jitter`."""
    return make("smote", hosts, support, seeds, severity)
