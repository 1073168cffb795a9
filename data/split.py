"""The frozen, grouped split: fit and calib (normals), the pool of supports, the test nobody trains on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from data.errors import InputError
from data.leaks import COPY, SIDE, leave_out, without_copies
from data.records import Records
from data.records.table import as_seen

DROPPED = ("segments", "label_value", COPY, SIDE)  # meta columns of raw records that mean nothing afterwards


@dataclass(frozen=True)
class Split:
    """The records of each part and the plan: supports and folds, one a seed, by id."""

    fit: Records  # normals
    support: Records  # the pool of labelled anomalies that supports are drawn from
    calib: Records  # normals for thresholds
    test: Records  # normals and anomalies, for the evaluation alone
    plan: dict  # {"supports": [[id, ..], ..], "folds": [{id: fold}, ..], "left_out": [ids in no part]}

    def parts(self) -> dict[str, Records]:
        return {name: getattr(self, name) for name in ("fit", "support", "calib", "test")}


def split(
    records: Records, *, seeds: int, support: int, folds: int, test_share: float, calib_share: float,
    window: int | None = None, whole: bool = False, near: float = 0.0, seed: int = 0,
) -> Split:  # fmt: skip
    """The split of raw labelled records. InputError names the least that a part needs.

    seeds: how many supports to draw; support: anomalies in each; folds: of the cross-fitted judges;
    test_share: of the groups of images and rows without a split of their own, and of whole recordings;
    calib_share: of the normals for training; window: steps of a series record; whole: no recording is parted, those
    drawn are the test, else the second half of each is; near: under which windows are copies (prepare.series.near).
    """
    if not len(records):
        raise InputError(
            "records: a data set must hold records, got none; check source.path and the options of its reader"
        )
    if records.modality == "series":
        from data.windows import cut

        test = calib = None
        if whole and window:
            rng = np.random.default_rng([seed, 0])
            test = test_recordings(records, test_share, rng)
            calib = calib_recordings(records, test, window, support, folds, calib_share, rng)
        parts, block = cut(records, window=window, folds=folds, calib_share=calib_share, test=test, calib=calib)
        parts, copied = without_copies(parts, near)
    else:
        parts, block = by_group(
            records, support, folds, test_share, calib_share, np.random.default_rng([seed, 0])
        )
        parts = leave_out(parts) if COPY in records.meta else parts
    check_least(parts, support, folds, whole)
    if records.modality == "row":  # what no record for training has, no encoder may know
        seen = pd.concat([parts[name].x for name in ("fit", "support", "calib")])
        parts = {name: replace(part, schema=as_seen(part.schema, seen)) for name, part in parts.items()}
    parts = {name: labelled(part, name) for name, part in parts.items()}
    plan = {"supports": [], "folds": []}
    if records.modality == "series":  # of a recording, all that is no window is left out as well
        plan["left_out"] = copied
    else:
        used = {name for part in parts.values() for name in part.meta["id"]}
        plan["left_out"] = [name for name in records.meta["id"] if name not in used]
    for number in range(seeds):
        rng = np.random.default_rng([seed, 1, number])
        chosen = draw(parts["support"].meta, block, support, rng)
        plan["supports"].append(chosen)
        fixed = np.random.default_rng([seed, 2])
        plan["folds"].append(fold(parts["fit"].meta, chosen, block, folds, rng, fixed))
        check_folds(parts["fit"].meta, block, plan["folds"][-1], folds)
    return Split(**parts, plan=plan)


def labelled(part: Records, name: str) -> Records:
    """The part with its name in `split` and without the columns that raw records alone have."""
    part = part.with_meta(split=name)
    return Records(
        part.modality,
        part.meta.drop(columns=[c for c in DROPPED if c in part.meta]),
        part.x,
        part.mask,
        part.schema,
        part.time,
        part.control,
    )


def check_least(parts: dict[str, Records], support: int, folds: int, whole: bool) -> None:
    """Raises InputError where a part is too small for what follows."""
    halved = parts["fit"].modality == "series" and not whole
    needs = {"fit": (folds, "normals to fit on"), "calib": (1, "normals to calibrate on"),
             "support": (max(support, 1), "anomalies to draw supports from" + (
                " in the first half of labelled recordings" if halved else "")),
             "test": (2, "records to test on")}  # fmt: skip
    whole_one = ", or set prepare.series.split to recording, which parts none" if halved else ""
    for name, (least, what) in needs.items():
        if len(parts[name]) < least:
            raise InputError(
                f"split {name}: there must be at least {least} {what}, got {len(parts[name])}; label "
                f"more, or lower prepare.support or prepare.folds{whole_one}"
            )
    labels = set(parts["test"].meta["label"])
    if parts["test"].modality == "series":  # counted by the timestamp: every window may hold an incident
        labels = {int(odd) for mask in parts["test"].mask for odd in set(mask.any(1).tolist())}
    for label, what in ((0, "a normal"), (1, "an anomaly")):
        if label not in labels:
            raise InputError(
                f"split test: the test must hold {what}, got none in {len(parts['test'])} records; "
                f"label more or change prepare.test_share{whole_one}"
            )


def check_folds(fit: pd.DataFrame, block: dict[str, str], of: dict[str, int], folds: int) -> None:
    """Raises InputError where a fold is left without normals, so that nothing in it would have a host."""
    if len({of[name] for name in fit["id"]}) < folds:
        held = Counter(block[name] for name in fit["id"])
        raise InputError(
            f"split fit: each of the {folds} folds must have normals, got {len(fit)} in {len(held)} groups, "
            f"{max(held.values())} of them in one; give smaller groups or lower prepare.folds"
        )


# ---------------------------------------------------------------- images and rows


def by_group(
    records: Records,
    support: int,
    folds: int,
    test_share: float,
    calib_share: float,
    rng: np.random.Generator,
) -> tuple[dict[str, Records], dict[str, str]]:
    """(parts, group by id): no group lies on both sides of test, nor of calib and the rest."""
    meta = records.meta
    group, odd = meta["group"].to_numpy(str), (meta["label"] == 1).to_numpy()
    least = {
        "normals": (folds + 2, ~odd, "fit, calib and test"),
        "anomalies": (support + 1, odd, "support and test"),
    }
    for what, (count, rows, uses) in least.items():
        if rows.sum() < count:
            raise InputError(
                f"records: there must be at least {count} {what} for {uses}, got {int(rows.sum())}; label "
                "more, or lower prepare.support or prepare.folds"
            )
    test = test_groups(meta, group, odd, support, test_share, rng)
    in_test = np.isin(group, sorted(test))
    in_calib = np.isin(group, sorted(calib_groups(group, odd, in_test, support, folds, calib_share, rng)))
    train = ~in_test & ~in_calib
    rows = {"fit": ~odd & train, "support": odd & train, "calib": ~odd & in_calib, "test": in_test}
    return {name: records.take(chosen) for name, chosen in rows.items()}, dict(zip(meta["id"], group))


def test_recordings(records: Records, test_share: float, rng: np.random.Generator) -> set[str]:
    """The entities whose labelled recording is the test: of those with a kind about `test_share` of the incidents, of
    those without any of the steps."""
    from data.windows import segments_of

    size: dict[str, Counter[str]] = {}
    for entity, i in labelled_recordings(records).items():
        odd = len(segments_of(records, i))
        size.setdefault(records.meta["kind"].iloc[i] if odd else "", Counter())[entity] = odd or len(records.x[i])
    return set().union(*(take_share(size[kind], test_share * size[kind].total(), rng) for kind in sorted(size)))


def calib_recordings(
    records: Records, test: set[str], window: int, support: int, folds: int, calib_share: float,
    rng: np.random.Generator,
) -> set[str]:  # fmt: skip
    """The entities of one recording whose normals are calib: about `calib_share` of their normal windows, those without
    incidents first, since the anomalies of the others are in no part. None where there are too few to hold one out."""
    from data.windows import normal_tiles, segments_of

    own = records.meta["group"].value_counts()
    there = {name: i for name, i in labelled_recordings(records).items() if name not in test}
    pooled = {name: sum(-(-(b - a) // window) for a, b, _ in segments_of(records, i)) for name, i in there.items()}
    tiles = {name: len(normal_tiles(records, i, (0, len(records.x[i])), window))
             for name, i in there.items() if own[name] == 1}  # fmt: skip
    tiles = {name: count for name, count in tiles.items() if count}
    names = [sorted(tiles)[i] for i in rng.permutation(len(tiles))]
    calib, spare = set(), sum(pooled.values()) - support
    for name in sorted(names, key=lambda name: pooled[name] > 0):
        wanted = sum(tiles[other] for other in calib) < calib_share * sum(tiles.values())
        if wanted and pooled[name] <= spare and len(tiles) - len(calib) > folds + 1:
            calib.add(name)
            spare -= pooled[name]
    return calib


def labelled_recordings(records: Records) -> dict[str, int]:
    """{entity: position of its recording with incidents}: the one for the test, or its only one."""
    given = records.meta["given"] if "given" in records.meta else [""] * len(records)
    found = sorted(zip(records.meta["group"], given, range(len(records))), key=lambda row: row[1] == "test")
    return {entity: i for entity, _, i in found}


def calib_groups(
    group: np.ndarray, odd: np.ndarray, in_test: np.ndarray, support: int, folds: int, calib_share: float,
    rng: np.random.Generator,
) -> set[str]:  # fmt: skip
    """The groups of calib: those of normals alone or, where these are too few, any.

    Anomalies of a calib group are in no part: in the pool they would tie it to calib.
    """
    rest = Counter(group[~odd & ~in_test])
    mixed = Counter(group[odd & ~in_test])
    if len(rest) < folds + 1:
        raise InputError(
            f"records: there must be at least {folds + 1} groups of normals to train and calibrate on, "
            f"got {len(rest)}; label more normals or lower prepare.folds"
        )
    want = calib_share * sum(rest.values())
    pure = {name: count for name, count in rest.items() if name not in mixed}
    groups = pure if sum(pure.values()) > want and len(pure) > 1 else rest
    calib, spare = set(), sum(mixed.values()) - support
    for name in sorted(take_share(groups, want, rng), key=lambda name: (mixed[name], name)):
        if mixed[name] <= spare and len(rest) - len(calib) > folds:
            calib.add(name)
            spare -= mixed[name]
    if not calib:
        raise InputError(
            f"records: there must be a group of normals to calibrate on besides {folds} to fit on and "
            f"{support} anomalies, got {len(rest)} groups, {len(mixed)} of them with anomalies; label "
            "more normals or lower prepare.support"
        )
    return calib


def test_groups(
    meta: pd.DataFrame,
    group: np.ndarray,
    odd: np.ndarray,
    support: int,
    test_share: float,
    rng: np.random.Generator,
) -> set[str]:
    """The groups of the test: as given where both sides are, else drawn; one given to both goes to test."""
    given = meta["given"].to_numpy(str) if "given" in meta else np.full(len(meta), "")
    test: set[str] = set()
    fixed: set[str] = set()  # groups whose side is known
    for rows in (~odd, odd):
        if {"train", "test"} <= set(given[rows]):
            test |= set(group[rows & (given == "test")])
            fixed |= set(group[rows & (given != "")])
    if not {"train", "test"} <= set(given[~odd]):
        free = Counter(group[~odd & ~np.isin(group, sorted(fixed))])
        there = int(np.isin(group[~odd], sorted(test)).sum())
        test |= take_share(free, test_share * (~odd).sum() - there, rng)
        fixed |= set(group[~odd])
    kinds = meta["kind"].to_numpy(str)
    for kind in sorted(set(kinds[odd])):
        rows = odd & (kinds == kind)
        free = Counter(group[rows & ~np.isin(group, sorted(fixed))])
        there = int(np.isin(group[rows], sorted(test)).sum())
        test |= take_share(free, test_share * rows.sum() - there, rng)
        fixed |= set(group[rows])
    return enough_to_draw(group, odd, given, test, support)


def enough_to_draw(
    group: np.ndarray, odd: np.ndarray, given: np.ndarray, test: set[str], support: int
) -> set[str]:
    """The test groups less the smallest of anomalies alone that the pool needs to hold `support` records."""
    counts = Counter(group[odd])
    have = sum(count for name, count in counts.items() if name not in test)
    kept = set(group[~odd]) | (
        set(group[odd & (given == "test")]) if {"train", "test"} <= set(given[odd]) else set()
    )
    movable = sorted(
        (name for name in counts if name in test and name not in kept), key=lambda name: counts[name]
    )
    while have < support and movable and len(test & set(counts)) > 1:
        name = movable.pop(0)
        test, have = test - {name}, have + counts[name]
    if have < support or not test & set(counts):
        raise InputError(
            f"records: there must be at least {support} anomalies for supports and 1 for test in groups "
            f"apart, got {have} and {int(odd.sum()) - have} in {len(counts)} groups; label more or lower "
            "prepare.support"
        )
    return test


def take_share(groups: dict[str, int], records: float, rng: np.random.Generator) -> set[str]:
    """Groups of together about `records` records: drawn at random, at least one of several, never all."""
    names = sorted(groups)
    if records <= 0 or len(names) < 2:
        return set()
    taken, held = set(), 0
    for name in (names[i] for i in rng.permutation(len(names))):
        if len(taken) < len(names) - 1 and held + groups[name] <= round(records):
            taken.add(name)
            held += groups[name]
    return taken or {min(names, key=lambda name: groups[name])}


# ---------------------------------------------------------------- plan


def draw(pool: pd.DataFrame, block: dict[str, str], count: int, rng: np.random.Generator) -> list[str]:
    """Ids of `count` records of the pool: kinds in turn, and of a kind the group used least so far."""
    order = rng.permutation(len(pool))
    left: dict[str, list[str]] = {}
    for name, kind in zip(pool["id"].iloc[order], pool["kind"].iloc[order]):
        left.setdefault(kind, []).append(name)
    kinds = [sorted(left)[i] for i in rng.permutation(len(left))]
    used: Counter[str] = Counter()
    chosen: list[str] = []
    while len(chosen) < count:
        for kind in kinds:
            if left[kind] and len(chosen) < count:
                name = min(left[kind], key=lambda name: used[block[name]])  # the first in random order
                left[kind].remove(name)
                used[block[name]] += 1
                chosen.append(name)
    return chosen


def fold(
    fit: pd.DataFrame, support: list[str], block: dict[str, str], folds: int, rng: np.random.Generator,
    fixed: np.random.Generator | None = None,
) -> dict[str, int]:  # fmt: skip
    """The fold of every fit record and support record: equal in size, a group never in two.

    fixed: orders the groups of normals alone, so that several supports share their folds (default: rng).
    """
    normals, odd = Counter(block[name] for name in fit["id"]), Counter(block[name] for name in support)
    groups = sorted(normals | odd)
    if len(groups) < folds or (len(support) > 1 and len(odd) < 2):
        raise InputError(
            f"split fit and support: there must be at least {folds} groups, 2 of them with anomalies, "
            f"got {len(groups)} and {len(odd)}; label more or lower prepare.folds"
        )
    mixed, plain = sorted(odd), sorted(set(normals) - set(odd))
    load = np.zeros((folds, 2), int)  # anomalies, normals
    of: dict[str, int] = {}

    def place(names: list[str], order: np.ndarray, count: Counter[str], column: int) -> None:
        for name in sorted((names[i] for i in order), key=lambda name: -count[name]):
            of[name] = min(range(folds), key=lambda f: (load[f, column], f))
            load[of[name]] += (odd[name], normals[name])

    place(mixed, rng.permutation(len(mixed)), odd, 0)
    if sum(normals[name] for name in mixed) == 0:
        load[:, 1] = 0
    place(plain, (fixed or rng).permutation(len(plain)), normals, 1)
    return {name: of[block[name]] for name in [*fit["id"], *support]}


def blocks(records: Records) -> dict[str, str]:
    """{id: block} of what may not be parted by a fold: the group; of windows, those of an entity that overlap or
    touch."""
    meta = records.meta
    if records.modality != "series":
        return dict(zip(meta["id"], meta["group"]))
    out: dict[str, str] = {}
    for entity, part in meta.groupby("group", sort=True):
        end, name = -1, ""
        for i in part.sort_values("start", kind="stable").index:
            start = int(meta.at[i, "start"])
            name = name if start <= end else f"{entity} {meta.at[i, 'id']}"
            out[meta.at[i, "id"]], end = name, max(end, start + len(records.x[i]))
    return out
