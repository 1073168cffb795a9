"""Leaks that a split can have: copies, look-alike copies, groups or stretches of time on both sides of the test.

`join` mends what is ours to draw before the split, `leave_out` what is left of it after, `checks` tells the rest.
The audit runs `checks` again on what was written, with the test's fingerprints in place of the test.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from data.errors import LeakError
from data.fingerprint import fingerprint, turned
from data.records import Records

BITS = 8  # perceptual hashes that differ in no more bits double the distance that counts as a copy
MARGIN = 1.2  # what is mended reaches further than what is refused, so that no pair lies just between
SHARE = 0.2  # a copy is nearer than this share of what is usual: parts in a fixture look alike without being copies
USUAL = 500  # records that tell what is usual
RECUR = 0.05  # of the windows for training that may be like some in the test, and are left out
CHUNK = 1024  # records compared at once
LISTED = 100  # pairs a check keeps
SHOWN = 3  # pairs an error names
COPY, SIDE = "copy", "side"  # meta columns between `join` and `leave_out`
TRAIN = ("fit", "support", "calib")
HELP = "see docs/audit.md"

Pair = tuple[str, str, float]  # id, id, distance


def check(
    name: str, pairs: Iterable[tuple], *, figure: float | None = None, limit: float = 0, detail: str = "",
    passed: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One line of audit.json: {"name", "passed", "figure", "limit", "pairs", "detail"}.

    pairs: what must not be; the default `figure` is their count, and `passed` that there is none.
    """
    pairs = [[str(a), str(b)] for a, b, *_ in pairs]
    told = f"{len(pairs)} pairs, the first {LISTED} listed; {detail}" if len(pairs) > LISTED else detail
    figure = len(pairs) if figure is None else figure
    return {"name": name, "passed": bool(not pairs if passed is None else passed),
            "figure": float(figure) if np.isfinite(figure) else None, "limit": float(limit),
            "pairs": pairs[:LISTED], "detail": told}  # fmt: skip


def refuse(where: str, checks: list[dict], help: str = HELP) -> None:
    """LeakError with the first pairs of every failed check and their count, in one line; nothing where all passed."""
    failed = [c for c in checks if not c["passed"]]
    if failed:
        told = "; ".join(f"{c['name']}: {c['detail']}{shown(c['pairs'])}" for c in failed)
        rule = f"what is trained on must not know the test, {len(failed)} of {len(checks)} checks failed"
        raise LeakError(f"{where}: {rule}: {told}; {help}")


def shown(pairs: list) -> str:
    """' (a = b, c = d and 3 more)', '' of no pairs."""
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return f" ({', '.join(f'{a} = {b}' for a, b in pairs[:SHOWN])}{more})" if pairs else ""


# what can be mended


def join(records: Records, near: float = 0.0) -> tuple[Records, dict, list[Pair]]:
    """(records whose copies share a group, {"identical", "conflicts", "near", "nearest"}, images of both labels).

    Copies that the source itself puts on both sides stay apart, and so do those of two groups that hold other records
    too (customers, lots, boards), which they would tie together; the meta columns COPY, what is alike, and SIDE are
    for `leave_out`. Windows stay as they are. identical: records with the content of an earlier one; near: pairs of
    look-alikes; conflicts: contents with both labels, of rows only counted.
    """
    told: dict[str, Any] = {"identical": 0, "conflicts": 0}
    if records.modality == "series" or not len(records):
        return records, told, []
    meta, marks = records.meta, fingerprint(records)
    first = dict(zip(marks["sha256"][::-1], meta["id"][::-1]))
    pairs = [(first[sha], name) for name, sha in zip(meta["id"], marks["sha256"]) if first[sha] != name]
    against = contradictions(meta, marks)
    told |= {"identical": len(pairs), "conflicts": len(against)}
    if records.modality == "image":
        alike, told["nearest"] = alike_images(marks, marks, near, MARGIN)
        told["near"] = len(alike)
        pairs += [(a, b) for a, b, _ in alike]
    groups, ids = grouped(meta, list(marks["sha256"]), pairs), list(meta["id"])
    joined = records.with_meta(group=groups, **{COPY: linked(ids, ids, pairs), SIDE: fixed(meta)})
    return joined, told, against if records.modality == "image" else []


def contradictions(meta: pd.DataFrame, marks: pd.DataFrame) -> list[Pair]:
    """(id of the first normal, id of the first anomaly, 0) of every content that has both labels."""
    content, label = marks["sha256"].to_numpy(object), meta["label"].to_numpy()
    normal, odd = ({sha: name for sha, name in zip(content[label == k][::-1], meta["id"][label == k][::-1])}
                   for k in (0, 1))  # fmt: skip
    return [(name, odd[sha], 0.0) for sha, name in normal.items() if sha in odd]


def grouped(meta: pd.DataFrame, contents: list[str], pairs: list[tuple[str, str]]) -> list[str]:
    """(N,) groups in which the ids of a pair share one, save where the source parts them or both groups hold more.

    A group of one content says no more than that, and is made anew.
    """
    several = pd.Series(contents).groupby(meta["group"].to_numpy()).nunique() > 1
    wide = set(several.index[several])
    own = [group if group in wide else name for name, group in zip(meta["id"], meta["group"])]
    side = dict(zip(meta["id"], fixed(meta)))
    free = [(a, b) for a, b in pairs if {side[a], side[b]} != {"train", "test"}]
    return linked(list(meta["id"]), own, free, wide)


def linked(
    ids: list[str], names: list[str], pairs: list[tuple[str, str]], apart: set[str] | None = None
) -> list[str]:
    """(N,) names after those of every pair of ids became one; two names of `apart` never do."""
    name_of, apart = dict(zip(ids, names)), apart or set()
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while (above := root.setdefault(name, name)) != name:
            root[name] = root[above]
            name = root[name]
        return name

    for a, b in pairs:  # a name of `apart` stays a root
        one, other = sorted((find(name_of[a]), find(name_of[b])), key=lambda name: (name not in apart, name))
        if other not in apart:
            root[other] = one
    return [find(name) for name in names]


def fixed(meta: pd.DataFrame) -> np.ndarray:
    """(N,) the side of the test that the source itself gives a record: "train", "test", "" where it is drawn here."""
    given = meta["given"].to_numpy(object) if "given" in meta else np.full(len(meta), "", object)
    out = np.full(len(meta), "", object)
    for label in (0, 1):
        rows = (meta["label"] == label).to_numpy()
        if {"train", "test"} <= set(given[rows]):
            out[rows] = given[rows]
    return out


def leave_out(parts: dict[str, Records]) -> dict[str, Records]:
    """The parts of a joined split without the records for training that are copies of some in the test.

    Images that the source itself puts on both sides stay, to be refused: the test may have been copied into training.
    """
    test, out = parts["test"], {}
    held = set(test.meta[COPY])
    given = set(test.meta[COPY][test.meta[SIDE] == "test"]) if test.modality == "image" else set()
    for name, part in parts.items():
        copy, side = part.meta[COPY], part.meta[SIDE]
        stays = ~copy.isin(held) | ((side == "train") & copy.isin(given))
        out[name] = part if name == "test" else part.take(stays.to_numpy(bool))
    return out


def without_copies(parts: dict[str, Records], near: float) -> tuple[dict[str, Records], list[str]]:
    """(parts of windows, ids left out): without the windows for training that are copies of some in the test.

    What recurs on a machine now and then, a flag that goes up, is no leak, and training does not miss it. More than
    RECUR of the windows for training stay, to be refused: a stretch of the test may have been copied there.
    """
    marks = {name: fingerprint(part) for name, part in parts.items()}
    train, test = pd.concat([marks[name] for name in TRAIN], ignore_index=True), marks["test"]
    held = set(test["sha256"])
    same = np.array([sha in held for sha in train["sha256"]], bool) & moving(train)
    alike, _ = alike_windows(train, test, near, MARGIN)
    left = sorted({*train["id"][same], *(name for name, *_ in alike)})
    if not left or len(left) > RECUR * len(train):
        return parts, []
    return {name: part if name == "test" else part.take(~part.meta["id"].isin(left).to_numpy(bool))
            for name, part in parts.items()}, left  # fmt: skip


# what is left


def checks(parts: dict[str, pd.DataFrame], modality: str, *, near: float) -> list[dict]:
    """What must hold of fingerprints {"fit", "support", "calib", "test"}, one dict of audit.json a check.

    near: distance under which images or windows count as copies, 0..1; 0 compares contents alone.
    """
    train, test = pd.concat([parts[name] for name in TRAIN], ignore_index=True), parts["test"]
    found = [check("identical", identical(train, test, modality), detail="no content is in training and in the test")]
    if modality == "row":
        return [*found, check("groups", two_sided(parts), detail="no group is in two of training, calib and test")]
    normals = pd.concat([parts["fit"], parts["calib"]], ignore_index=True)
    found.append(check("labels", identical(normals, parts["support"], modality),
                       detail="no content is a normal and an anomaly"))  # fmt: skip
    alike, nearest = (alike_images if modality == "image" else alike_windows)(train, test, near)
    told = f"no copy, re-encoded, resized or brighter, in training and test; the nearest are {nearest:.3f} apart"
    found.append(check("look-alikes", alike, figure=nearest, limit=near, detail=told))
    if modality == "image":
        return [*found, check("groups", two_sided(parts), detail="no group is in two of training, calib and test")]
    return [*found, time_blocks(train, test)]


def identical(a: pd.DataFrame, b: pd.DataFrame, modality: str) -> list[Pair]:
    """(id of a, id of b, 0) of equal contents, one for every record of b.

    Windows in which nothing moves, or of a recording that repeats itself anyway, do not count.
    """
    a = a[moving(a)] if modality == "series" else a
    first = dict(zip(a["sha256"][::-1], a["id"][::-1]))
    return [(first[sha], name, 0.0) for name, sha in zip(b["id"], b["sha256"]) if sha in first]


def moving(marks: pd.DataFrame) -> np.ndarray:
    """(N,) whether something moves in a window, and its recording does not repeat itself anyway."""
    usual = usual_of(marks)
    return np.array([bool(v.any()) and usual[r] > 0 for v, r in zip(marks["vector"], marks["recording"])], bool)


def two_sided(parts: dict[str, pd.DataFrame]) -> list[Pair]:
    """(id, id, 0) of the first records of a group in two of: training, calib, test."""
    sides = {"train": pd.concat([parts["fit"], parts["support"]]), "calib": parts["calib"], "test": parts["test"]}
    first = {side: dict(zip(part["group"][::-1], part["id"][::-1])) for side, part in sides.items()}
    return [(first[one][group], first[other][group], 0.0)
            for one, other in (("train", "calib"), ("train", "test"), ("calib", "test"))
            for group in sorted(set(first[one]) & set(first[other]))]  # fmt: skip


def stacked(marks: pd.DataFrame) -> np.ndarray:
    """(N, D) the vectors of fingerprints."""
    return np.stack(list(marks["vector"])).astype(np.float32) if len(marks) else np.zeros((0, 1), np.float32)


def alike_images(a: pd.DataFrame, b: pd.DataFrame, near: float, margin: float = 1.0) -> tuple[list[Pair], float]:
    """(pairs that are copies, smallest distance of any): 1 - correlation of thumbnails, the least over eight turns.

    A copy is within `near` (twice that where the perceptual hashes agree), and within SHARE of what is usual among
    these images, both times `margin`. a may be b itself. About N x M / 6 million seconds on one core.
    """
    one, same = stacked(a), a is b
    turns = turned(stacked(b)) if len(b) else []
    if not turns or not len(one) or (same and len(one) < 2):
        return [], 1.0
    limit = margin * min(near, SHARE * usual_distance(one, turns[0]))
    hash_a, hash_b = (marks["phash"].to_numpy(np.uint64) for marks in (a, b))
    pairs, nearest = [], 1.0
    for low in range(0, len(one), CHUNK):
        rows = one[low : low + CHUNK]
        skip = low if same else 0  # of b: what was compared before
        distance = 1 - np.max([rows @ other[skip:].T for other in turns], axis=0)  # (n, M - skip)
        if same:
            distance[np.tril_indices(len(rows), 0, distance.shape[1])] = 2.0
        nearest = min(nearest, float(distance.min()))
        bits = np.bitwise_count(hash_a[low : low + CHUNK, None] ^ hash_b[None, skip:])
        copy = (distance <= limit) | ((bits <= BITS) & (distance <= 2 * limit))
        pairs += [(low + i, skip + j, float(distance[i, j])) for i, j in np.argwhere(copy)] if limit > 0 else []
    return named(a, b, pairs), max(nearest, 0.0)


def usual_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The median distance of vectors that are not each other's copies: of a spread-out sample of both."""
    one, other = (v[np.unique(np.linspace(0, len(v) - 1, USUAL).astype(int))] for v in (one, other))
    return float(np.median(1 - one @ other.T))


def alike_windows(
    a: pd.DataFrame, b: pd.DataFrame, near: float, margin: float = 1.0
) -> tuple[list[Pair], float]:
    """(pairs that are copies, smallest distance of any): 1 - correlation of windows, every channel alike.

    A copy is within `near`, and within SHARE of how far the windows of its recording in `a` are from each other, both
    times `margin`: a machine that repeats itself is no leak.
    """
    one, other = stacked(a), stacked(b)
    if not len(one) or not len(other) or one.shape[1] != other.shape[1]:
        return [], 1.0
    usual = usual_of(a)
    limit = margin * np.array([min(near, SHARE * usual[name]) for name in a["recording"]])
    pairs, nearest = [], 1.0
    for low in range(0, len(one), CHUNK):
        distance = np.maximum(1 - one[low : low + CHUNK] @ other.T, 0)
        nearest = min(nearest, float(distance.min()))
        bound = limit[low : low + CHUNK, None]
        pairs += [(low + i, j, float(distance[i, j])) for i, j in np.argwhere((distance <= bound) & (bound > 0))]
    return named(a, b, pairs), nearest


def usual_of(marks: pd.DataFrame) -> dict[str, float]:
    """{recording: median distance of its windows to their nearest ones at another time}, 1 for a single window."""
    out = {}
    for name, own in marks.groupby("recording"):
        own = own.iloc[np.unique(np.linspace(0, len(own) - 1, USUAL).astype(int))]
        vectors, start, end = stacked(own), own["start"].to_numpy(), own["end"].to_numpy()
        apart = (start[:, None] >= end[None]) | (start[None] >= end[:, None])
        distance = np.where(apart, 1 - vectors @ vectors.T, 1.0)
        moving = vectors.any(1)
        usual = float(np.median(distance[moving].min(1))) if moving.any() else 1.0
        out[name] = usual if usual > 1e-5 else 0.0  # float32 of a repetition
    return out


def time_blocks(train: pd.DataFrame, test: pd.DataFrame) -> dict:
    """Windows of a recording on both sides of the test must have a window's length between them, and windows of one
    entity must not overlap. figure: the least gap in window lengths."""
    pairs, least = [], np.inf
    for entity, own in test.groupby("group"):
        other = train[train["group"] == entity]
        if not len(other):
            continue
        gap = np.maximum(own["start"].to_numpy()[:, None] - other["end"].to_numpy(),
                         other["start"].to_numpy() - own["end"].to_numpy()[:, None])  # fmt: skip
        same = own["recording"].to_numpy(object)[:, None] == other["recording"].to_numpy(object)
        length = (own["end"] - own["start"]).to_numpy()[:, None]
        least = min([least, *(gap / length)[same]])
        pairs += [(other["id"].iloc[j], own["id"].iloc[i], 0.0)
                  for i, j in np.argwhere(gap < np.where(same, length, 0))]  # fmt: skip
    return check("time blocks", pairs, figure=least, limit=1, detail="an embargo of a window before the test")


def named(a: pd.DataFrame, b: pd.DataFrame, pairs: list[tuple[int, int, float]]) -> list[Pair]:
    """The pairs by id, the nearest first."""
    one, other = a["id"].to_numpy(object), b["id"].to_numpy(object)
    return [(one[i], other[j], d) for i, j, d in sorted(pairs, key=lambda pair: pair[2])]
