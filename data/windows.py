"""Recordings cut into windows: normal tiles, windows on labelled segments, and a test in order of time."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from data.errors import InputError
from data.records import Records, concat, make_meta

Span = tuple[int, int]  # first row, row after the last


def cut(
    records: Records, *, window: int | None, folds: int, calib_share: float, test: set[str] | None = None,
    calib: set[str] | None = None,
) -> tuple[dict[str, Records], dict[str, str]]:
    """(parts, block by id) of raw recordings, each entity cut by itself.

    Fit and calib are tiles of the train part without a labelled step; the last `calib_share` of them, in
    time, are calib. The pool holds windows centred on the segments of the train part, or of the first half of
    the labelled part where the train part has none. Test is tiled in order; its last window is right-aligned
    and overlaps. A window's length lies between pool and test and between fit and calib. Blocks are what a
    fold may not part: a stretch of tiles, or windows that overlap.

    test: the entities whose labelled part is the test, that of the others being no part of it; None halves them all.
    calib: entities of one recording whose normals are calib, so that the others of one recording have none.
    """
    if window is None or window < 2:
        raise InputError(
            f"split: a series window must have at least 2 steps, got {window}; set prepare.series.window"
        )
    for name, x in zip(records.meta["id"], records.x):
        if len(x) < window:
            raise InputError(
                f"entity {name}: a recording must be as long as a window ({window} steps), got {len(x)}; "
                "lower prepare.series.window or leave it out"
            )
    given = records.meta["given"] if "given" in records.meta else [""] * len(records)
    parts: dict[str, list[Records]] = {"fit": [], "support": [], "calib": [], "test": []}
    block: dict[str, str] = {}
    for entity in dict.fromkeys(records.meta["group"]):
        found = [
            (side, i) for i, (name, side) in enumerate(zip(records.meta["group"], given)) if name == entity
        ]
        rows = dict(found)
        if len(rows) < len(found):
            raise ValueError(f"an entity must have one recording a part, got {len(found)} of {entity!r}")
        if test is None:
            spans = entity_spans(records, rows, window, entity)
        else:
            spans = whole_spans(records, rows, entity in test, entity in (calib or ()))
        share = 0.0 if calib and len(rows) == 1 else calib_share
        add_entity(records, spans, window, share, folds, parts, block)
    empty = records.take([])
    return {name: concat([empty, *found]) for name, found in parts.items()}, block


def entity_spans(
    records: Records, rows: dict[str, int], window: int, entity: str
) -> dict[str, tuple[int, Span]]:
    """(record, rows of it) of the "train", "pool" and "test" of one entity."""
    if "train" in rows and "test" in rows:
        train, test = rows["train"], rows["test"]
        whole = (train, (0, len(records.x[train])))
        if records.mask[train].any():
            return {"train": whole, "pool": whole, "test": (test, (0, len(records.x[test])))}
        middle = middle_of(records, test, window)
        spans = {
            "train": whole,
            "pool": (test, (0, middle)),
            "test": (test, (middle + window, len(records.x[test]))),
        }
    else:
        both = next(iter(rows.values()))
        middle = middle_of(records, both, window)
        first = (both, (0, middle))
        spans = {"train": first, "pool": first, "test": (both, (middle + window, len(records.x[both])))}
    for side, (_, (low, high)) in spans.items():
        if high - low < window:
            raise InputError(
                f"entity {entity}: its {side} part must be as long as a window ({window} steps) after the "
                f"embargo, got {max(high - low, 0)}; lower prepare.series.window or leave it out"
            )
    return spans


def whole_spans(records: Records, rows: dict[str, int], tested: bool, held: bool) -> dict[str, tuple[int, Span]]:
    """The same where no recording is parted: one without a train part of its own is for test, calib or training."""
    labelled = rows.get("test", next(iter(rows.values())))
    spans = {"test": labelled} if tested else {"calib": labelled} if held else {"train": labelled, "pool": labelled}
    if "train" in rows and "test" in rows:
        spans["train"] = rows["train"]
    return {side: (row, (0, len(records.x[row]))) for side, row in spans.items()}


def middle_of(records: Records, row: int, window: int) -> int:
    """The step that halves a recording, moved to the nearer end of a segment that it would part.

    An end that leaves no window on either side does not count; with none left the segment is parted.
    """
    odd = np.concatenate([[False], records.mask[row].any(axis=1), [False]])
    half, steps = len(records.mask[row]) // 2, len(records.mask[row])
    whole = np.flatnonzero(~(odd[:-1] & odd[1:]))  # steps before which no segment is parted
    whole = whole[(whole >= window) & (whole <= steps - 2 * window)]
    return int(whole[np.abs(whole - half).argmin()]) if len(whole) else half


def add_entity(
    records: Records, spans: dict[str, tuple[int, Span]], window: int, calib_share: float, folds: int,
    parts: dict[str, list[Records]], block: dict[str, str],
) -> None:  # fmt: skip
    """Appends the windows of one entity to `parts` and their blocks to `block`; a side without a span gets none."""
    starts: list[int] = []
    pool = None
    if "pool" in spans:
        pool, inside = spans["pool"]
        starts = add_pool(records, pool, inside, window, parts, block)
    if "train" in spans:
        train, span = spans["train"]
        add_normals(records, train, span, window, calib_share, folds, starts if pool == train else [], parts, block)
    if "calib" in spans:
        calib, span = spans["calib"]
        parts["calib"].append(windows(records, calib, normal_tiles(records, calib, span, window), window))
    if "test" in spans:
        test, (low, high) = spans["test"]
        tiled = list(range(low, high - window + 1, window))
        if tiled[-1] + window < high:
            tiled.append(high - window)
        parts["test"].append(windows(records, test, tiled, window))


def add_pool(
    records: Records, pool: int, inside: Span, window: int, parts: dict[str, list[Records]], block: dict[str, str]
) -> list[int]:
    """Appends the windows on the segments of a recording; their first rows."""
    segments = [s for s in segments_of(records, pool) if s[0] < inside[1] and s[1] > inside[0]]
    starts = centred(segments, inside, window)
    support = windows(records, pool, starts, window)
    last, number = -window, -1
    for start, name in zip(starts, support.meta["id"]):
        number += start > last + window  # windows that overlap or touch, as those of a long incident do, share a block
        last = start
        block[name] = f"{records.meta['id'][pool]} segment {number}"
    parts["support"].append(support)
    return starts


def add_normals(
    records: Records, train: int, span: Span, window: int, calib_share: float, folds: int, taken: list[int],
    parts: dict[str, list[Records]], block: dict[str, str],
) -> None:  # fmt: skip
    """Appends the normal tiles of a recording that meet no window of the pool, whose first rows are `taken`."""
    tiles = normal_tiles(records, train, span, window, taken)
    held = min(max(1, round(calib_share * len(tiles))), len(tiles) - 1) if calib_share and len(tiles) > 1 else 0
    first = tiles[len(tiles) - held] if held else span[1]
    fit = tiles[: len(tiles) - held]
    if held:
        fit = [start for start in fit if start + 2 * window <= first] or fit  # an embargo where it leaves any
    found = {"fit": fit, "calib": tiles[len(tiles) - held :]}
    for part, chosen in found.items():
        parts[part].append(windows(records, train, chosen, window))
    for number, stretch in enumerate(np.array_split(np.arange(len(fit)), folds)):
        for name in parts["fit"][-1].meta["id"].iloc[stretch]:
            block[name] = f"{records.meta['id'][train]} stretch {number}"


def normal_tiles(records: Records, row: int, span: Span, window: int, taken: Sequence[int] = ()) -> list[int]:
    """First rows of the tiles of a span without a labelled step, that meet no window that begins at a row `taken`."""
    busy = records.mask[row].any(axis=1)
    for start in taken:
        busy[start : start + window] = True
    return [start for start in range(span[0], span[1] - window + 1, window) if not busy[start : start + window].any()]


def segments_of(records: Records, row: int) -> list[list]:
    """[[start, end, kind], ..] of a recording: meta column `segments`, else the runs of its mask."""
    meta = records.meta.iloc[row]
    if isinstance(meta.get("segments"), str) and meta["segments"]:
        return json.loads(meta["segments"])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], records.mask[row].any(axis=1), [0]])))
    kind = meta["kind"] if meta["kind"] not in ("normal", "mixed") else "anomaly"
    return [[int(a), int(b), kind] for a, b in edges.reshape(-1, 2)]


def centred(segments: list[list], inside: Span, window: int) -> list[int]:
    """Sorted first rows of windows centred on the segments; a segment longer than a window has several."""
    low, high = inside
    starts = set()
    for a, b, _ in segments:
        a, b = max(a, low), min(b, high)
        several = -(-(b - a) // window)
        middles = (a + (b - a) * (2 * i + 1) / (2 * several) for i in range(several))
        starts |= {int(np.clip(round(middle - window / 2), low, high - window)) for middle in middles}
    return sorted(starts)


def windows(records: Records, row: int, starts: list[int], window: int) -> Records:
    """The windows of a recording from the given rows on, labelled by what of its mask they hold."""
    meta, segments = records.meta.iloc[row], segments_of(records, row)
    cuts = [slice(start, start + window) for start in starts]
    masks = [records.mask[row][c] for c in cuts]
    kinds = []
    for c, mask in zip(cuts, masks):
        shared = {}
        for a, b, kind in segments:
            shared[kind] = shared.get(kind, 0) + max(0, min(b, c.stop) - max(a, c.start))
        kinds.append(max(sorted(shared), key=shared.get) if mask.any() and shared else "normal")
    offset = int(meta["start"])
    columns = {
        name: meta[name] for name in meta.index if name not in {"id", "label", "kind", "start", "parents"}
    }
    made = make_meta(
        len(starts), **columns, id=[f"{meta['id']}-{offset + start:07d}" for start in starts],
        label=[int(mask.any()) for mask in masks], kind=kinds,
        start=[offset + start for start in starts])  # fmt: skip
    time = None if records.time is None else [records.time[row][c] for c in cuts]
    return Records("series", made, [records.x[row][c] for c in cuts], masks, records.schema, time)
