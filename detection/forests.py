"""Forests as plain arrays: grown by scikit-learn, stored without pickle, bit for bit the same on reload."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.errors import InputError

EULER = 0.5772156649015329
LARGEST = 3.0e38  # float32 holds no more, and the trees compare float32
BLOCK = 8192  # rows a thread takes at once
ARRAYS = {"left": np.int32, "right": np.int32, "feature": np.int32, "threshold": np.float64,
          "value": np.float64, "start": np.int64, "depth": np.int32}  # fmt: skip


@dataclass(frozen=True)
class Trees:
    """Binary trees one after another; they answer a row with the mean value of the leaves it ends in.

    left, right, feature, threshold, value: (all nodes,), children counted from their own root, -1 at leaves.
    start: (trees + 1,) first node of each tree. depth: (trees,). features: width of a row.
    """

    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray
    start: np.ndarray
    depth: np.ndarray
    features: int

    @classmethod
    def of(cls, grown: list, values: list[np.ndarray], features: int) -> Trees:
        """From scikit-learn's low-level trees and a value per node, (nodes,) each."""

        def join(name: str) -> np.ndarray:
            return np.concatenate([getattr(tree, name) for tree in grown])

        parts = {
            "left": join("children_left"), "right": join("children_right"), "feature": join("feature"),
            "threshold": join("threshold"), "value": np.concatenate(values),
            "start": np.cumsum([0, *(tree.node_count for tree in grown)]),
            "depth": np.array([tree.max_depth for tree in grown]),
        }  # fmt: skip
        return cls(**{name: parts[name].astype(dtype) for name, dtype in ARRAYS.items()}, features=features)

    def joined(self, other: Trees, offset: int) -> Trees:
        """These trees and the other's, whose feature 0 is feature `offset` of these rows."""
        parts = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ARRAYS}
        nodes = len(self.left)
        inner = parts["left"][nodes:] >= 0
        parts["feature"][nodes:][inner] += offset
        parts["start"] = np.concatenate([self.start, other.start[1:] + nodes])
        return Trees(**parts, features=self.features)

    @cached_property
    def _rebuilt(self) -> list:
        """scikit-learn's compiled trees again, for their fast descent."""
        from sklearn.tree._tree import NODE_DTYPE, Tree

        rebuilt = []
        for depth, low, high in zip(self.depth, self.start[:-1], self.start[1:]):
            nodes = np.zeros(high - low, NODE_DTYPE)
            nodes["left_child"], nodes["right_child"] = self.left[low:high], self.right[low:high]
            nodes["feature"], nodes["threshold"] = self.feature[low:high], self.threshold[low:high]
            nodes["n_node_samples"] = nodes["weighted_n_node_samples"] = 1
            tree = Tree(self.features, np.ones(1, np.intp), 1)
            tree.__setstate__({"max_depth": int(depth), "node_count": len(nodes), "nodes": nodes,
                               "values": self.value[low:high].reshape(-1, 1, 1).copy()})  # fmt: skip
            rebuilt.append(tree)
        return rebuilt

    def mean(self, x: np.ndarray, *, jobs: int = 2) -> np.ndarray:
        """The mean leaf value (N,) float64 of rows x (N, features); summed tree by tree, so no row sees
        another."""
        x = narrow(x)
        trees = self._rebuilt

        def block(rows: np.ndarray) -> np.ndarray:
            total = np.zeros(len(rows))
            for tree in trees:
                total += tree.predict(rows).ravel()
            return total / len(trees)

        parts = [x[low : low + BLOCK] for low in range(0, len(x), BLOCK)]
        if len(parts) < 2 or jobs < 2:
            return np.concatenate([block(rows) for rows in parts]) if parts else np.zeros(0)
        with ThreadPoolExecutor(jobs) as pool:
            return np.concatenate(list(pool.map(block, parts)))

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        return {name: getattr(self, name) for name in ARRAYS}, {"features": self.features}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> Trees:
        return cls(**{name: np.asarray(arrays[name], dtype) for name, dtype in ARRAYS.items()},
                   features=int(config["features"]))  # fmt: skip


def narrow(x: np.ndarray) -> np.ndarray:
    """x as the float32 that trees compare; what float32 cannot hold becomes its largest number."""
    return np.ascontiguousarray(np.clip(x, -LARGEST, LARGEST), dtype=np.float32)


def balanced_weights(
    label: np.ndarray, synthetic: np.ndarray, weight: np.ndarray | None = None, *, real_share: float = 0.5
) -> np.ndarray:
    """Weights (N,), of mean 1 where not 0: normals and anomalies weigh the same in all, and of the anomalous
    half at least `real_share` lies on real ones wherever synthetic ones are present.

    weight: (N,) >= 0, relative inside each group. InputError without a normal or an anomaly of weight.
    """
    if not 0 <= real_share <= 1:
        raise ValueError(f"real_share must be in [0, 1], got {real_share}")
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        raise ValueError(f"weights must be finite and not negative, got {weight[bad][0]}")
    odd, made = np.asarray(label) > 0, np.asarray(synthetic, bool)
    groups = {"normal": ~odd, "real": odd & ~made, "synthetic": odd & made}
    total = {name: float(weight[rows].sum()) for name, rows in groups.items()}
    anomalous = total["real"] + total["synthetic"]
    for name, sum_ in (("normal", total["normal"]), ("anomaly", anomalous)):
        if not sum_ > 0:
            raise InputError(f"records: a supervised detector needs at least one {name}, got 0; "
                             "add labelled records or use an unsupervised detector")  # fmt: skip
    real = total["real"] / anomalous
    if total["real"] > 0 and total["synthetic"] > 0:
        real = max(real, real_share)
    share = {"normal": 0.5, "real": 0.5 * real, "synthetic": 0.5 * (1 - real)}
    out, count = np.zeros(len(label)), int((weight > 0).sum())
    for name, rows in groups.items():
        if total[name] > 0:
            out[rows] = weight[rows] * (share[name] * count / total[name])
    return out


def grow_balanced(
    x: np.ndarray, label: np.ndarray, weight: np.ndarray, *, trees: int, leaf: int, seed: int, jobs: int = 2
) -> Trees:
    """Extremely randomised trees whose mean leaf value is the weighted share of anomalies (sec. 3,
    doi:10.1007/s10994-006-6226-1). The seed alone decides them, not `jobs`."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(
        trees, min_samples_leaf=leaf, max_features="sqrt", random_state=seed, n_jobs=jobs
    )
    kept = weight > 0
    forest.fit(narrow(x[kept]), np.asarray(label)[kept] > 0, sample_weight=weight[kept])
    grown = [tree.tree_ for tree in forest.estimators_]
    odd = [tree.value[:, 0, 1] / tree.value[:, 0].sum(1) for tree in grown]
    return Trees.of(grown, odd, x.shape[1])


def path_length(n: np.ndarray) -> np.ndarray:
    """c(n): the mean depth of an unsuccessful search in a binary tree of n rows (eq. 1,
    doi:10.1109/ICDM.2008.17)."""
    n = np.asarray(n, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        long = 2 * (np.log(n - 1) + EULER) - 2 * (n - 1) / n
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, long))


def grow_isolation(x: np.ndarray, *, trees: int, sample: int, seed: int) -> tuple[Trees, float]:
    """Isolation trees whose leaf value is the path length h(x), and c(rows per tree): the score is 2^(-mean h
    / c) (eq. 2, doi:10.1109/ICDM.2008.17)."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=trees, max_samples=min(sample, len(x)), random_state=seed)
    forest.fit(narrow(x))
    grown = [estimator.tree_ for estimator in forest.estimators_]
    lengths = [_depths(tree) + path_length(tree.n_node_samples) for tree in grown]
    return Trees.of(grown, lengths, x.shape[1]), float(path_length(forest.max_samples_))


def _depths(tree) -> np.ndarray:
    """The depth (nodes,) of every node, 0 at the root; a parent always comes before its children."""
    depth = np.zeros(tree.node_count)
    for node, (left, right) in enumerate(zip(tree.children_left, tree.children_right)):
        if left >= 0:
            depth[left] = depth[right] = depth[node] + 1
    return depth
