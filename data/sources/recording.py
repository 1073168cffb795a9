"""Recordings from csv files: one record an entity, its timestamps in order, its segments marked."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError, SettingsError, closest
from data.records import Records, make_meta
from data.sources.common import Quarantine, entries, inside, show, watched
from data.sources.text import read_text
from data.sources.types import INTEGER, compact, dates, has_zone, spelled

DUPLICATES, MISSING = ("error", "mean", "last"), ("error", "impute")
OTHERS = {".txt", ".tsv", ".xls", ".xlsx", ".ods", ".parquet", ".json"}  # files that may hold a table, but are not read
YES, NO = {"1", "1.0", "true", "t", "yes", "y"}, {"0", "0.0", "false", "f", "no", "n"}
NANOSECONDS = re.compile(r"[1-8]\d{18}")  # since the epoch: 2001 to 2255
GAP = 1.5  # times the usual step: less is jitter
MOST_FILLED = 10  # times the rows of an entity: more is a wrong unit, not a gap


@dataclass
class Recording:
    """One entity: time (T,) int64, x (T, C) with NaN where missing, kind (T,) with "" where normal."""

    entity: str
    time: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    rows: list[str]  # names for messages
    dated: bool  # whether the times are ns of dates rather than numbers of steps


def read_series(
    path: Path, *, timestamp: str, values: list[str] | None = None, label: str | None = None,
    labels: str | None = None, entity: str | None = None, kind: str | None = None, duplicates: str = "error",
    missing: str = "error", separator: str | None = None, strict: bool = False,
) -> tuple[Records, list[dict]]:  # fmt: skip
    """Records of every entity; `path` is a csv file, or a folder of them, each an entity named by its path.

    values: the channels, all other columns by default. label: a column of 0 and 1, or labels: a csv file of
    start, end (both inside) and perhaps entity and kind. duplicates: "mean" or "last" also sorts; missing:
    "impute" fills empty cells and the steps of a gap by straight lines. What these change is noted in the
    quarantine.
    """
    for name, value, choice in (("duplicates", duplicates, DUPLICATES), ("missing", missing, MISSING)):
        if value not in choice:
            raise SettingsError(
                f"source csv: {name} must be one of {', '.join(choice)}, got '{show(value)}'; "
                f"{closest(str(value), choice)}"
            )
    if (label is None) == (labels is None):
        raise SettingsError(
            "source csv: one of the options label and labels must be given, got "
            f"{'neither' if label is None else 'both'}; name a column or a file"
        )
    roles = [role for role in (timestamp, label, entity, kind) if role is not None]
    for name in values or []:
        if name in roles or values.count(name) > 1:
            raise SettingsError(
                "source csv: values must name every channel once and no column that timestamp, label, entity or kind "
                f"names, got '{show(name)}'; take it out"
            )
    quarantine = Quarantine(strict)
    spans_file = None if labels is None else watched(path, labels, "labels", "set path to it")
    files = csv_files(path, spans_file, quarantine) if path.is_dir() else [(path, "")]
    if not files:
        raise InputError(f"{show(path)}: the folder must hold .csv files, found none; rename them or mend source.path")
    recordings, channels, zoned = [], values, {}
    for file, name in files:
        table = read_text(file, separator=separator)
        channels = channels or [column for column in table if column not in roles]
        odd = [] if values else [column for column in table if column not in (*roles, *channels)]
        for column in [*roles, *channels]:
            if column not in table:
                raise InputError(
                    f"{show(file)}: the file must have the column '{show(column)}'; "
                    f"{closest(column, map(show, table.columns))}"
                )
        if odd:
            raise InputError(
                f"{show(file)}: all files must have the same columns, '{show(odd[0])}' is not in "
                f"{show(files[0][0].name)}; drop or add it, or list the channels under values"
            )
        if not len(table) or not channels:
            raise InputError(
                f"{show(file)}: a recording must have rows and a channel, got {len(table)} rows and "
                f"{len(channels)} channels; export it again"
            )
        found = parse(file, name, table, timestamp, channels, label, entity, kind)
        zoned |= {r.entity: zone_of(table[timestamp].iloc[0]) for r in found}
        recordings += found
    check_together(recordings, path)
    recordings = [mend(r, channels, duplicates, missing, quarantine) for r in recordings]
    note_rates(recordings, quarantine)
    if spans_file is not None:
        mark(recordings, spans_file, zoned, entity, quarantine)
    return assemble(recordings, channels, path.name), quarantine.rows


def check_together(recordings: list[Recording], path: Path) -> None:
    """Raises InputError for an entity of several files and for dates beside step numbers."""
    twice = [entity for entity, count in Counter(r.entity for r in recordings).items() if count > 1]
    if twice:
        raise InputError(
            f"{show(path)}: an entity must lie in one file, '{show(min(twice))}' lies in several; join"
        )
    other = next((r for r in recordings if r.dated != recordings[0].dated), None)
    if other is not None:
        raise InputError(
            f"{other.rows[0]}: timestamps of all recordings must be dates or all numbers of steps, got both; write "
            "all as ISO dates"
        )


def csv_files(folder: Path, labels: Path | None, quarantine: Quarantine) -> list[tuple[Path, str]]:
    """(file, entity) of every .csv and .csv.gz under a folder; other files that may hold a table are noted."""
    found = []
    for path in entries(folder):
        if not inside(folder, path):
            raise InputError(f"{show(path)}: a link must stay inside the data, leads out; copy the file")
        if path.is_dir():
            found += [(file, f"{path.name}/{name}") for file, name in csv_files(path, labels, quarantine)]
        elif labels and path.samefile(labels):
            continue
        elif path.name.lower().endswith((".csv", ".csv.gz")):
            found.append((path, path.name.split(".csv")[0]))
        elif path.suffix.lower() in OTHERS:
            name = f"{folder.name}/{path.name}"
            quarantine.note(name, f"a recording must be a .csv file to be read, got '{path.suffix}'; export it as one")
    return found


def times(cells: np.ndarray, at: str, rows: list[str]) -> np.ndarray:
    """(T,) int64 of whole numbers as they are, of 19 digits as ns since the epoch, as of ISO dates; else InputError."""
    for row, cell in zip(rows, cells):
        if not cell:
            raise InputError(
                f"{at}, {row}: a row must have a timestamp, got an empty cell; fill it or drop the row"
            )
    if all(map(INTEGER.fullmatch, cells)):
        return np.array([int(cell.split(".")[0]) for cell in cells], np.int64)
    if all(map(NANOSECONDS.fullmatch, cells)):
        return np.array([*map(int, cells)], np.int64)
    return dates(cells, at, rows).astype("int64").to_numpy()


def parse(
    file: Path, name: str, table: pd.DataFrame, timestamp: str, channels: list[str], label: str | None,
    entity: str | None, kind: str | None,
) -> list[Recording]:  # fmt: skip
    """The recordings of one file, as they stand in it."""
    rows = [f"row {line}" for line in table.index]
    at = show(file)
    time = times(table[timestamp].to_numpy(object), f"{at}, column '{show(timestamp)}'", rows)
    dated = INTEGER.fullmatch(table[timestamp].iloc[0]) is None
    if not dated and compact(time):
        raise InputError(
            f"{at}, column '{show(timestamp)}', {rows[0]}: a timestamp must be an ISO date or a number of steps, got "
            f"'{show(table[timestamp].iloc[0])}', as a date is written without marks; write them ISO, 2024-03-01T00:00"
        )
    x = np.column_stack(
        [
            numbers(table[channel].to_numpy(object), f"{at}, column '{show(channel)}'", rows)
            for channel in channels
        ]
    )  # (T, C)
    kinds = np.full(len(table), "", object)
    if label is not None:
        odd = truths(table[label], f"{at}, column '{show(label)}'", rows)
        kinds[odd] = table[kind].where(table[kind] != "", "anomaly")[odd] if kind else "anomaly"
        if (kinds == "normal").any():
            row = rows[int((kinds == "normal").argmax())]
            raise InputError(
                f"{at}, {row}: the kind of an anomaly must not be 'normal'; mend its label or kind"
            )
    whole = name or file.name.split(".csv")[0]
    named = map(spelled, table[entity]) if entity else [whole] * len(table)
    names = np.array([*named], object)
    if entity and (names == "").any():
        raise InputError(
            f"{at}, {rows[int((names == '').argmax())]}: column '{show(entity)}' must name an entity, "
            "got an empty cell; fill it"
        )
    found = []
    for one in dict.fromkeys(names):  # entities may be interleaved
        index = np.flatnonzero(names == one)
        names_of = [f"{at} {rows[i]}" for i in index]
        found.append(Recording(one, time[index], x[index], kinds[index], names_of, dated))
    return found


def numbers(cells: np.ndarray, at: str, rows: list[str]) -> np.ndarray:
    """float64 of a channel's cells, NaN where missing; InputError for text, infinity and an empty channel."""
    filled = cells != ""
    if not filled.any():
        raise InputError(
            f"{at}: a channel must hold numbers, got empty cells alone; list the others under values"
        )
    parsed = pd.to_numeric(pd.Series(np.where(filled, cells, "nan")), errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(filled & ~np.isfinite(parsed))
    if len(bad):
        raise InputError(
            f"{at}, {rows[bad[0]]}: a channel must hold finite numbers, got '{show(cells[bad[0]])}'; "
            "mend it or list the channels under values"
        )
    return parsed


def truths(cells: pd.Series, at: str, rows: list[str]) -> np.ndarray:
    lower = cells.str.lower().to_numpy(object)
    for row, cell in zip(rows, lower):
        if cell not in YES and cell not in NO:
            raise InputError(f"{at}, {row}: a label must be 0 or 1, got '{show(cell)}'; mend it")
    return np.isin(lower.astype(str), sorted(YES))


def mend(
    r: Recording, channels: list[str], duplicates: str, missing: str, quarantine: Quarantine
) -> Recording:
    """The recording in order, each time once, without holes, as the policies say."""
    step = np.diff(r.time)
    if duplicates == "error":
        for bad, what, how in ((step < 0, "rise", "sort the rows"), (step == 0, "be unique", "remove one")):
            if bad.any():
                row = r.rows[int(bad.argmax()) + 1]
                raise InputError(
                    f"{row}: the timestamps of entity '{show(r.entity)}' must {what}; {how} or set "
                    "duplicates to mean or last"
                )
    elif (step <= 0).any():
        r = in_order(r, duplicates, quarantine)
    hole = np.isnan(r.x)
    if hole.any() and missing == "error":
        row, channel = np.argwhere(hole)[0]
        raise InputError(
            f"{r.rows[row]}, column '{show(channels[channel])}': a channel must have every value, got a "
            "missing one; fill it or set missing to impute"
        )
    return without_holes(r, channels, missing, quarantine)


def in_order(r: Recording, duplicates: str, quarantine: Quarantine) -> Recording:
    """Sorted by time; of equal times the mean, or the last row of the file, anomalous where any of them is."""
    if (np.diff(r.time) < 0).any():
        order = np.argsort(r.time, kind="stable")
        quarantine.note(
            f"entity {r.entity}",
            f"timestamps were unsorted, {int((np.diff(r.time) < 0).sum())} steps back; sorted",
        )
        r = Recording(r.entity, r.time[order], r.x[order], r.kind[order], [r.rows[i] for i in order], r.dated)
    last = np.append(np.diff(r.time) > 0, True)
    if last.all():
        return r
    group = np.concatenate([[0], np.cumsum(last)[:-1]])
    x = r.x[last]
    if duplicates == "mean":
        x = pd.DataFrame(r.x).groupby(group).mean().to_numpy()
    kind = pd.Series(r.kind).where(r.kind != "").groupby(group).last().fillna("").to_numpy(object)
    quarantine.note(f"entity {r.entity}", f"{int((~last).sum())} rows repeat a timestamp; {duplicates} kept")
    return Recording(r.entity, r.time[last], x, kind, [row for row, kept in zip(r.rows, last) if kept], r.dated)


def without_holes(r: Recording, channels: list[str], missing: str, quarantine: Quarantine) -> Recording:
    """Missing cells and the steps of gaps on straight lines between their neighbours, flat at the ends."""
    step = np.diff(r.time)
    usual = float(np.median(step)) if len(step) else 0.0
    gap = step > GAP * usual
    if gap.any() and missing == "error":
        at = int(gap.argmax())
        raise InputError(
            f"{r.rows[at + 1]}: the timestamps of entity '{show(r.entity)}' must be {span(usual, r.dated)} apart (the "
            f"median), got a gap of {span(step[at], r.dated)}; fill it or set missing to impute"
        )
    more = np.where(gap, np.round(step / max(usual, 1)).astype(np.int64) - 1, 0)
    if more.sum() > MOST_FILLED * len(r.time):
        raise InputError(
            f"entity {show(r.entity)}: gaps must need at most {MOST_FILLED} times the rows to fill, got "
            f"{int(more.sum())} steps for {len(r.time)} rows; split it or check the unit of time"
        )
    if gap.any():
        quarantine.note(
            f"entity {r.entity}",
            f"{int(gap.sum())} gaps, the longest {span(step.max(), r.dated)}; {int(more.sum())} steps imputed",
        )
    quick = step < usual / GAP
    if quick.any():
        quarantine.note(
            f"entity {r.entity}",
            f"{int(quick.sum())} steps are shorter than {span(usual, r.dated)}, the median, down to "
            f"{span(step.min(), r.dated)}: windows count rows, whatever time they take",
        )
    holes = np.isnan(r.x)
    empty = np.flatnonzero(holes.all(axis=0))
    if len(empty):
        raise InputError(
            f"entity {show(r.entity)}, column '{show(channels[empty[0]])}': a channel must hold numbers, "
            "got empty cells alone; list the others under values"
        )
    for channel in np.flatnonzero(holes.any(axis=0)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], holes[:, channel], [0]])))
        quarantine.note(
            f"entity {r.entity}, column '{show(channels[channel])}'",
            f"{int(holes[:, channel].sum())} "
            f"missing values, the longest run {int(np.diff(edges)[::2].max())}; imputed",
        )
    if not gap.any() and not holes.any():
        return r
    before = np.repeat(np.arange(len(r.time)), np.append(more, 0) + 1)  # (T', ) row before each new step
    offset = np.arange(len(before)) - np.concatenate([[0], np.cumsum(np.append(more, 0) + 1)[:-1]])[before]
    width = np.append(step, 0)[before] / (np.append(more, 0)[before] + 1)
    time = r.time[before] + np.round(offset * width).astype(np.int64)
    since, known = time - time[0], r.time - time[0]
    x = np.column_stack([np.interp(since, known[~np.isnan(c)], c[~np.isnan(c)]) for c in r.x.T])
    after = np.minimum(before + 1, len(r.time) - 1)
    kind = np.where((offset == 0) | (r.kind[after] == r.kind[before]), r.kind[before], "")
    return Recording(r.entity, time, x, kind, [r.rows[i] for i in before], r.dated)


def zone_of(cell: str) -> bool | None:
    """Whether a time has a zone; None of nanoseconds, which are in UTC and fit both."""
    return None if NANOSECONDS.fullmatch(cell) else has_zone(cell)


def note_rates(recordings: list[Recording], quarantine: Quarantine) -> None:
    """Lists the recordings whose steps are far from those of the first one: their windows span another time."""
    usual = [(r, float(np.median(np.diff(r.time)))) for r in recordings if len(r.time) > 1]
    for r, step in usual[1:]:
        if not usual[0][1] / GAP <= step <= usual[0][1] * GAP:
            quarantine.note(
                f"entity {r.entity}",
                f"steps of {span(step, r.dated)}, of {span(usual[0][1], r.dated)} in entity {usual[0][0].entity}: "
                "windows count rows, whatever time they take",
            )


def span(length: float, dated: bool) -> str:
    """A stretch of time as a person says it: '0:04:00' of ns between dates, '240' of numbers."""
    return str(timedelta(microseconds=length / 1000)) if dated else f"{length:g}"


def mark(
    recordings: list[Recording], file: Path, zoned: dict[str, bool | None], entity: str | None, quarantine: Quarantine
) -> None:
    """Sets `kind` inside the segments of a labels file; one that meets no row is quarantined.

    zoned: whether the times of a recording have a zone, by entity, None where they cannot. entity: the column that
    names the recording in the data, and may in the file; "entity" does as well.
    """
    table = read_text(file)
    lacking = [name for name in ("start", "end") if name not in table]
    by_name = {r.entity: r for r in recordings}
    choices = [name for name in (entity, "entity") if name in table]
    fitting = (c for c in choices if all(name in by_name or spelled(name) in by_name for name in table[c]))
    named = next(fitting, choices[0] if choices else None)
    if lacking or (named is None and len(recordings) > 1):
        either = f"entity or {show(entity)}" if entity not in (None, "entity") else "entity"
        raise InputError(
            f"{show(file)}: labels must have the columns start and end, and {either} where there are several, got "
            f"{', '.join(map(show, table.columns))}; mend the header"
        )
    rows = [f"row {line}" for line in table.index]
    both = [
        times(table[name].to_numpy(object), f"{show(file)}, column '{name}'", rows)
        for name in ("start", "end")
    ]
    said = {column: [zone_of(cell) for cell in table[column]] for column in ("start", "end")}
    for row, start, end in zip(range(len(table)), *both):
        name = recordings[0].entity if named is None else table[named].iloc[row]
        name = name if name in by_name else spelled(name)
        kind = (table["kind"].iloc[row] if "kind" in table else "") or "anomaly"
        if kind == "normal":
            raise InputError(
                f"{show(file)} {rows[row]}: the kind of an anomaly must not be 'normal'; mend its kind or drop the row"
            )
        if start > end:
            raise InputError(
                f"{show(file)} {rows[row]}: start must not be after end, got {table['start'].iloc[row]} "
                f"and {table['end'].iloc[row]}; swap them"
            )
        if name not in by_name:
            raise InputError(
                f"{show(file)} {rows[row]}: a label's entity must be in the data, got '{show(name)}'; "
                f"{closest(name, map(show, by_name))}"
            )
        odd = [column for column, zones in said.items() if {zones[row], zoned[name]} == {True, False}]
        if odd:
            raise InputError(
                f"{show(file)} {rows[row]}: labels and data of '{show(name)}' must both have time zones or neither, "
                f"got '{show(table[odd[0]].iloc[row])}'; write all in UTC"
            )
        r = by_name[name]
        low, high = np.searchsorted(r.time, start, "left"), np.searchsorted(r.time, end, "right")
        if low == high:
            quarantine.add(
                f"{file.name} {rows[row]}",
                f"a segment must meet the recording of '{show(name)}', got "
                f"{table['start'].iloc[row]} to {table['end'].iloc[row]}; mend it",
            )
        r.kind[low:high] = kind


def segments_of(kind: np.ndarray) -> list[list]:
    """[[start, end, kind], ..] of the runs of equal kinds other than "", end exclusive."""
    if not len(kind):
        return []
    edges = np.flatnonzero(np.concatenate([[True], kind[1:] != kind[:-1], [True]]))
    return [[int(a), int(b), str(kind[a])] for a, b in pairwise(edges) if kind[a] != ""]


def assemble(recordings: list[Recording], channels: list[str], source: str) -> Records:
    """One record an entity; meta column `segments`: JSON of its segments by position in the record."""
    segments = [segments_of(r.kind) for r in recordings]
    kinds = [sorted({kind for *_, kind in found}) for found in segments]
    meta = make_meta(
        len(recordings), id=[r.entity for r in recordings], group=[r.entity for r in recordings],
        label=[int(bool(found)) for found in segments], given="", source=source,
        segments=[json.dumps(found) for found in segments],
        kind=[names[0] if len(names) == 1 else "mixed" if names else "normal" for names in kinds],
        mask_source=["file" if found else "" for found in segments])  # fmt: skip
    masks = [np.repeat((r.kind != "")[:, None], len(channels), 1) for r in recordings]
    return Records(
        "series",
        meta,
        [r.x for r in recordings],
        masks,
        {"channels": list(channels)},
        [r.time for r in recordings],
    )
