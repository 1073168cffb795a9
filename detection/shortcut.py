"""The shortcut check: have generated records a trace that a detector could take for the anomaly?

Images and series: what was generated is hidden, and as much is hidden of the real ones, at places that other generated
records had. What still tells the two apart is a trace: a seam, another grain, other compression, rounding. Nothing of a
row is left then, so a detector is asked: one that learned from generated rows must not find others of them far more
anomalous than real anomalies, as it does where a value, a category or a gap is theirs alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.records import Records

RING, AROUND = 8, 96  # pixels round what is hidden: seen by itself, and seen at all
FLANK = 6  # steps round it
TREES, LEAF, PARTS = 200, 3, 5  # of the classifier, and parts of the cross-validation
REDRAWS = 500  # of the groups, for the interval
LEAST = 20  # records a side: fewer say nothing
LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
GRID = 8  # pixels of a JPEG block
NORMALS = 2000  # most that a detector of rows learns from


def shortcut(made: Records, hidden: list, made_group: list, real: Records, real_group: list) -> dict:
    """{"auroc", "low", "high", "scores"} of generated against real images or series, what is hidden left out of both.

    hidden: of the generated ones, True where nothing may be looked at; group: the host, which lies in one part of the
    cross-validation with all that was made of it. scores: (N,) of the generated ones, higher is more telling. The
    interval redraws groups; with fewer than LEAST records a side there is no answer (nan).
    """
    label, group, part = parts_of(made, made_group, real, real_group)
    if part is None:
        return unanswered(made)
    features, borrowed = FEATURES[made.modality], borrow(hidden, part[: len(made)], real, part[len(made) :])
    x = np.concatenate([features(made, hidden, real), features(real, borrowed, real)])
    return answer(label, out_of_fold(x, label, part), group)


def parts_of(made: Records, made_group: list, real: Records, real_group: list) -> tuple:
    """(whether generated, group, part of the cross-validation) of generated and real ones; no parts of too few."""
    from sklearn.model_selection import GroupKFold

    label = np.r_[np.ones(len(made)), np.zeros(len(real))]
    group = pd.factorize(pd.Series([*made_group, *real_group]))[0]
    folds = min(PARTS, len(np.unique(group)))
    if min(len(made), len(real)) < LEAST or folds < 2:
        return label, group, None
    part = np.zeros(len(label), int)
    for number, (_, test) in enumerate(GroupKFold(folds, shuffle=True, random_state=0).split(label, label, group)):
        part[test] = number
    return label, group, part


def unanswered(made: Records) -> dict:
    return {"auroc": np.nan, "low": np.nan, "high": np.nan, "scores": np.full(len(made), np.nan)}


def answer(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> dict:
    value, low, high = area(label, score, group)
    return {"auroc": value, "low": low, "high": high, "scores": score[label == 1]}


def borrow(hidden: list, made_part: np.ndarray, real: Records, real_part: np.ndarray) -> list:
    """What to hide of each real record: what is hidden of a generated one of the same part of the cross-validation, so
    that places alone tell nothing; not of the one at its own position, which may be made of it."""
    rng, out = np.random.default_rng(0), [None] * len(real)
    for part in np.unique(real_part):
        rows, lenders = np.flatnonzero(real_part == part), np.flatnonzero(made_part == part)
        lenders = lenders if len(lenders) else np.arange(len(hidden))
        order = np.resize(rng.permutation(lenders), len(rows) + 1)
        for i, row in enumerate(rows):
            lender = order[i] if order[i] != row else order[i + 1]
            out[row] = fitted(np.asarray(hidden[lender], bool), shape_of(real, row))
    return out


def shape_of(records: Records, i: int) -> tuple[int, ...]:
    return np.shape(records.mask[i])


def fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at another record's size; one that vanishes there keeps its middle."""
    if mask.shape == shape:
        return mask
    places = [np.linspace(0, n - 1, m).round().astype(int) for n, m in zip(mask.shape, shape)]
    out = mask[np.ix_(*places)]
    if not out.any():
        out[tuple(n // 2 for n in shape)] = True
    return out


def out_of_fold(x: np.ndarray, label: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(N,) chance of being generated, by trees that saw no record of the same part."""
    from sklearn.ensemble import ExtraTreesClassifier

    score = np.full(len(x), 0.5)
    for number in np.unique(part):
        train, test = part != number, part == number
        if len(np.unique(label[train])) > 1:
            trees = ExtraTreesClassifier(TREES, min_samples_leaf=LEAF, class_weight="balanced", random_state=0)
            score[test] = trees.fit(x[train], label[train]).predict_proba(x[test])[:, 1]
    return score


def area(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[float, float, float]:
    """(AUROC, low, high): the 95 % interval of redrawing whole groups."""
    from detection.metrics import auroc

    rows = [np.flatnonzero(group == g) for g in np.unique(group)]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(REDRAWS):
        pick = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        if 0 < label[pick].sum() < len(pick):
            drawn.append(auroc(label[pick], score[pick]))
    return auroc(label, score), *(float(v) for v in np.quantile(drawn, [0.025, 0.975]))


# images


def image_features(records: Records, hidden: list, like: Records) -> np.ndarray:
    """(N, F) grain, steps and compression of a ring round what is hidden and of the rest, and how the two differ."""
    return np.stack([of_image(x, np.asarray(h, bool)) for x, h in zip(records.x, hidden)])


def of_image(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(F,) of one image round what is hidden; no value within a pixel of that has a say."""
    import cv2

    from data.records.image import full_scale

    part = near(hidden)
    grey = image[part].astype(np.float64) * (255 / full_scale(image.dtype))
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    shut, wide = (cv2.dilate(hidden[part].astype(np.uint8), np.ones((2 * by + 1,) * 2, np.uint8)).astype(bool)
                  for by in (2, 2 + RING))  # fmt: skip
    zones = [zone(grey, where) for where in (wide & ~shut, ~wide)]
    return np.r_[zones[0], zones[1], zones[0] - zones[1], blocking(grey, shut)]


def near(hidden: np.ndarray) -> tuple[slice, slice]:
    """The box of what is hidden with AROUND pixels beside it, beginning where a JPEG block would."""
    out = []
    for axis in (1, 0):
        at = np.flatnonzero(hidden.any(axis)) if hidden.any() else np.array([0, hidden.shape[1 - axis] - 1])
        out.append(slice(max(0, at[0] - AROUND) // GRID * GRID, at[-1] + 1 + AROUND))
    return tuple(out)


def zone(grey: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(F,) of the pixels `where`: size, tail and zeros of four residuals, lagged products of the finest, parity."""
    wide = np.pad(grey, 1, mode="reflect")
    middle = wide[1:-1, 1:-1]
    across, down = (wide[1:-1, :-2] + wide[1:-1, 2:]) / 2, (wide[:-2, 1:-1] + wide[2:, 1:-1]) / 2
    corners = (wide[:-2, :-2] + wide[:-2, 2:] + wide[2:, :-2] + wide[2:, 2:]) / 4
    checks = middle + corners - across - down  # a checkerboard's own residual
    out = []
    for r in (middle - across, middle - down, middle - corners, checks):
        own = r[where] if where.any() else np.zeros(1)
        size = np.abs(own).mean()
        out += [np.log(size + 0.1), np.sqrt((own**2).mean()) / (size + 0.1), (np.abs(own) < 0.3).mean()]
    power = (checks**2)[where].mean() + 0.01 if where.any() else 1.0
    for dy, dx in LAGS:
        both = where[dy:, dx:] & where[: len(where) - dy, : where.shape[1] - dx]
        product = checks[dy:, dx:] * checks[: len(where) - dy, : where.shape[1] - dx]
        out.append(product[both].mean() / power if both.any() else 0.0)
    return np.array([*out, (np.rint(grey[where]) % 2).mean() if where.any() else 0.5])


def blocking(grey: np.ndarray, shut: np.ndarray) -> np.ndarray:
    """(2,) log of the steps across the borders of JPEG blocks over those elsewhere, along both axes."""
    out = []
    for values, closed in ((grey, shut), (grey.T, shut.T)):
        step = np.abs(np.diff(values, axis=1))
        free = ~(closed[:, 1:] | closed[:, :-1])
        edge = free & (np.arange(1, values.shape[1]) % GRID == 0)
        means = [step[where].mean() if where.any() else 0.0 for where in (edge, free & ~edge)]
        out.append(np.log((means[0] + 0.1) / (means[1] + 0.1)))
    return np.array(out)


# series


def series_features(records: Records, hidden: list, like: Records) -> np.ndarray:
    """(N, F) level, roughness, repeats and rounding of the flanks of what is hidden and of the rest of its channels.

    like: the real windows, whose channels' spread and decimals are the measure.
    """
    from data.records.series import SeriesCodec

    codec = SeriesCodec.fit(like)
    scaled = [(x - codec.centre) / codec.scale for x in records.x]
    places = np.array([9 if p is None else p for p in codec.decimals])
    return np.stack([of_window(x, z, np.asarray(h, bool), places) for x, z, h in zip(records.x, scaled, hidden)])


def of_window(x: np.ndarray, scaled: np.ndarray, hidden: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(F,) of one window (T, C); steps next to what is hidden are left out of differences that reach into it."""
    from scipy.ndimage import binary_dilation

    flank = binary_dilation(hidden, np.ones((3, 1), bool), iterations=FLANK) & ~hidden
    rest = ~hidden & ~flank & hidden.any(0)
    zones = [span(x, scaled, where, hidden, places) for where in (flank, rest)]
    return np.r_[zones[0], zones[1], zones[0] - zones[1]]


def span(x: np.ndarray, scaled: np.ndarray, where: np.ndarray, hidden: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(F,) of the cells `where`, all channels together."""
    if not where.any():
        return np.zeros(11)
    one, two = np.diff(scaled, axis=0), np.diff(scaled, n=2, axis=0)
    free1 = where[1:] & where[:-1]
    free2 = where[2:] & where[1:-1] & where[:-2]
    own, step, bend = scaled[where], one[free1], two[free2]
    both = free1[1:] & free1[:-1]
    product, power = (one[1:] * one[:-1])[both], (one**2)[free1]
    off = np.stack([np.round(v, p) != np.round(v, 9) for v, p in zip(x.T, places)], axis=1)[where]
    return np.array([
        own.mean(), own.std(), np.abs(own).max(), np.log(mean(np.abs(step)) + 1e-3), np.log(mean(np.abs(bend)) + 1e-3),
        most(step), most(bend), mean(step == 0), mean(product) / (mean(power) + 1e-6), off.mean(),
        mean(np.abs(step) > 1),
    ])  # fmt: skip


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def most(values: np.ndarray) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


# rows


def shortcut_of_rows(made: Records, made_group: list, real: Records, real_group: list, normals: Records) -> dict:
    """As `shortcut`, of how anomalous a part's rows are to a detector that learned normals and generated rows of the
    other parts: near 0.5 where it finds real anomalies as anomalous as generated ones."""
    from data.records import bare, concat
    from detection.detectors import DETECTORS

    label, group, part = parts_of(made, made_group, real, real_group)
    if part is None:
        return unanswered(made)
    some = np.sort(np.random.default_rng(0).permutation(len(normals))[:NORMALS])
    usual, rows, score = bare(normals.take(some)), concat([bare(made), bare(real)]), np.zeros(len(label))
    for number in np.unique(part):
        learned = rows.take(np.flatnonzero((part != number) & (label == 1)))
        if not len(learned):  # one host for all
            return unanswered(made)
        detector = DETECTORS["row"]["forest"]().fit(concat([usual, learned]), seed=0)
        score[part == number] = detector.score_map(rows.take(np.flatnonzero(part == number)))
    return answer(label, score, group)


FEATURES = {"image": image_features, "series": series_features}
