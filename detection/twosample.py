"""How alike two samples of vectors are: plain functions of arrays, real (R, D) first and generated (G, D) second.

Every function looks at the sets alone: rows in another order give the same number (trees: up to their random cuts).
"""

from __future__ import annotations

import numpy as np

NEAREST = 3  # neighbours of precision and recall (arXiv:1904.06991)
COVERED = 5  # neighbours of coverage and of the recall by support (arXiv:2002.09797, arXiv:2102.08921)
LEVELS = 50  # steps of the integral over supports
DEGREE = 3  # of the polynomial kernel (arXiv:1801.01401)


def frechet(real: np.ndarray, generated: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the squared Frechet distance of Gaussians (eq. 6, arXiv:1706.08500).

    The root's trace is the nuclear norm of A B^T for centred A, B with S = A^T A: exact for few rows too.
    """
    a, b = (x - x.mean(0) for x in (np.asarray(real, np.float64), np.asarray(generated, np.float64)))
    a, b = a / max(len(a) - 1, 1) ** 0.5, b / max(len(b) - 1, 1) ** 0.5
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    shift = ((np.mean(real, 0, np.float64) - np.mean(generated, 0, np.float64)) ** 2).sum()
    return float(max(shift + (a**2).sum() + (b**2).sum() - 2 * root, 0.0))


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """The unbiased squared MMD with k(x, y) = (x y / D + 1)^3 (KID, arXiv:1801.01401); below 0 by chance."""
    a, b = np.asarray(real, np.float64), np.asarray(generated, np.float64)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** DEGREE

    def inside(x):
        k = kernel(x, x)
        return (k.sum() - np.trace(k)) / (len(x) * (len(x) - 1))

    return float(inside(a) + inside(b) - 2 * kernel(a, b).mean())


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(len(a), len(b)) Euclidean distances, float64."""
    from scipy.spatial.distance import cdist

    return cdist(np.asarray(a, np.float64), np.asarray(b, np.float64))


def neighbour(within: np.ndarray, k: int) -> np.ndarray:
    """(N,) distance to the k-th nearest other point (or the farthest there is), from distances (N, N) of a set."""
    return np.sort(within, axis=1)[:, min(k, len(within) - 1)]  # the first is a point's distance to itself


def precision(real: np.ndarray, between: np.ndarray, k: int = NEAREST) -> float:
    """Share of generated points inside the ball of a real one up to its k-th real neighbour (eq. 2, arXiv:1904.06991).

    real: (R, R) distances of real points; between: (R, G) of real to generated. Recall: the same with sides exchanged.
    """
    return float((between <= neighbour(real, k)[:, None]).any(0).mean())


def coverage(real: np.ndarray, between: np.ndarray, k: int = COVERED) -> float:
    """Share of real points with a generated one in their ball (arXiv:2002.09797); arguments as `precision`."""
    return float((between.min(1) <= neighbour(real, k)).mean())


def deviation(curve: np.ndarray) -> float:
    """1 - 2 * integral of |curve(a) - a| over a in [0, 1], from values at LEVELS + 1 equal steps (integrated
    as in arXiv:2102.08921)."""
    return float(1 - 2 * np.trapezoid(np.abs(curve - np.linspace(0, 1, LEVELS + 1)), dx=1 / LEVELS))


def alpha_precision(real: np.ndarray, generated: np.ndarray) -> float:
    """How well shares of generated points follow the real supports: 1 as real, 0 all outside or all at the centre.

    The a-support is the ball round the real mean that holds the share a of real points (arXiv:2102.08921). How far a
    real point lies is told from the mean of the others: from its own too, the few would seem closer together.
    """
    centre = np.mean(real, 0, np.float64)
    own, made = (np.linalg.norm(x - centre, axis=1) for x in (real, generated))
    own = own * len(real) / max(1, len(real) - 1)
    radius = np.quantile(own, np.linspace(0, 1, LEVELS + 1))
    share = (made[None] <= radius[:, None]).mean(1)
    share[0] = 0.0  # the support of share 0 is empty
    return deviation(share)


def beta_recall(real: np.ndarray, generated: np.ndarray, k: int = COVERED) -> float:
    """How well shares of real points are met by the generated supports: 1 as generated, 0 never or too soon.

    The generated point nearest to a real one must lie within its k-th real neighbour, and within the ball round the
    generated mean that holds the share b of those nearest points (arXiv:2102.08921).
    """
    between = distances(real, generated)
    met = between.min(1) <= neighbour(distances(real, real), k)
    far = np.linalg.norm(generated - np.mean(generated, 0, np.float64), axis=1)[between.argmin(1)]
    share = (met & (far[None] <= np.quantile(far, np.linspace(0, 1, LEVELS + 1))[:, None])).mean(1)
    share[0] = 0.0  # the support of share 0 is empty
    return deviation(share)


def closest(real: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
    """(median, 5 % quantile) over generated points of the distance to the closest real one, over the median distance of
    real points to theirs: 1 as far as real ones are from each other, 0 a copy."""
    from detection.novelty import copy_distance

    ratio = copy_distance(np.asarray(generated), np.asarray(real))
    return float(np.median(ratio)), float(np.quantile(ratio, 0.05))


def cluster_diversity(real: np.ndarray, generated: np.ndarray, *, squared: bool = False) -> float | None:
    """Mean pairwise distance inside clusters, each generated point in that of its nearest real one, averaged over the
    clusters of two and more (IC-LPIPS, arXiv:2104.06820); None where there is no such cluster.

    squared: of squared distances, as perceptual ones are.
    """
    owner = distances(generated, real).argmin(1)
    power, means = 2 if squared else 1, []
    for cluster in np.unique(owner):
        own = np.asarray(generated)[owner == cluster]
        if len(own) > 1:
            means.append((distances(own, own) ** power).sum() / (len(own) * (len(own) - 1)))
    return float(np.mean(means)) if means else None


def tree_c2st(
    real: np.ndarray, generated: np.ndarray, group: np.ndarray, *, folds: int = 5, trees: int = 50, seed: int = 0
) -> float | None:
    """How well balanced extremely randomised trees tell generated from real: AUROC of out-of-fold votes, 0.5 not at all
    (a classifier two-sample test, arXiv:1610.06545; trees see what linear ones miss).

    group: (R + G,) what each point was made of; all that was made of one lies in one fold, or its repeats alone would
    tell. None where a side has a single group.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    from detection.metrics import auroc

    x = np.concatenate([real, generated]).astype(np.float32)
    label = np.r_[np.zeros(len(real), int), np.ones(len(generated), int)]
    folds = min(folds, *(len(np.unique(group[label == side])) for side in (0, 1)))
    if folds < 2:
        return None
    parts, vote = StratifiedGroupKFold(folds, shuffle=True, random_state=seed), np.full(len(x), 0.5)
    for seen, unseen in parts.split(x, label, group):
        if len(np.unique(label[seen])) < 2:  # one side lies in this fold: no vote
            continue
        forest = ExtraTreesClassifier(trees, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=1)
        vote[unseen] = forest.fit(x[seen], label[seen]).predict_proba(x[unseen])[:, 1]
    return auroc(label, vote)
