"""Cards of the report's gallery: which records are shown, what stands on each, and the pictures as small data URIs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data.files import read_table
from data.records import Records, concat, iter_store, read_store
from data.records.series import spans
from pipelines import figures, ledger

CELLS = 8  # columns of a row shown per card; the changed ones come first
STRIPS = 3  # channels of a series shown per card, those marked longest
POINTS = 120  # of a line drawn on a card
LEVELS = 160  # heights a card's line can have
SIDE = 112  # pixels, the longer side of a picture at most
NO_SCORE = {"severity", "area", "mask_iou", "copy_distance", "invisible_below", "trivial_above", "margin", "by", "rank"}


# which records


def spread(ids: Iterable[str], keys: Iterable[str], limit: int) -> list[str]:
    """At most `limit` ids, taken in their order from each key in turn, so that rare kinds and reasons are seen too."""
    lots: dict[str, list[str]] = {}
    for one, key in zip(ids, keys):
        lots.setdefault(str(key), []).append(str(one))
    turns = [[lot[i] for lot in lots.values() if i < len(lot)] for i in range(max(map(len, lots.values()), default=0))]
    return [one for turn in turns for one in turn][:limit]


def choose(table: pd.DataFrame, each: int, most: int) -> pd.DataFrame:
    """The ledger's rows to show, in its order: the first `each` of every kind, reason and round, the 4 * `each` nearest
    to a threshold (column `borderline`) and the closest kept ones to a real anomaly (`closest`); at most `most`."""
    key = table["kind"] + "\0" + table["reason"] + "\0" + table["at"]
    first = table[key.groupby(key).cumcount() < each]
    near = table[np.isfinite(table["margin"])].nsmallest(4 * each, "margin")
    closest = table.iloc[:0]
    if "copy_distance" in table:
        finite = table[table["keep"] & np.isfinite(table["copy_distance"])]
        closest = finite.nsmallest(ledger.CLOSEST, "copy_distance")
    musts = list(dict.fromkeys([*closest["id"], *near["id"]]))[:most]
    rest = spread(first["id"], key[first.index], len(first))
    wanted = {*musts, *[one for one in rest if one not in set(musts)][: most - len(musts)]}
    shown = table[table["id"].isin(wanted)].drop_duplicates("id")
    return shown.assign(borderline=shown["id"].isin(near["id"]), closest=shown["id"].isin(closest["id"]))


def find(paths: Iterable[Path], ids: Iterable[str]) -> Records | None:
    """The records with these ids, first store first, one shard in memory at a time; None where there are none."""
    wanted, found = {str(i) for i in ids if i}, []
    for path in paths:
        if not wanted or not path.is_dir():
            continue
        for shard in iter_store(path):
            keep = shard.meta["id"].astype(str).isin(wanted).to_numpy()
            if keep.any():
                found.append(shard.take(np.flatnonzero(keep)))
                wanted -= set(found[-1].meta["id"].astype(str))
            if not wanted:
                break
    return concat(found) if found else None


def places(records: Records | None) -> dict[str, int]:
    """{id: position} of records, empty for None."""
    return {} if records is None else {str(one): i for i, one in reversed(list(enumerate(records.meta["id"])))}


def real(support: Path, splits: dict | None) -> tuple[Records | None, list[list[str]]]:
    """(labelled anomalies of any support, ids a support); without splits.json the pool's first shard, unassigned."""
    if not support.is_dir():
        return None, []
    plans = [[str(i) for i in ids] for ids in (splits or {}).get("supports") or []]
    if any(plans):
        return find([support], [i for ids in plans for i in ids]), plans
    first = next(iter(iter_store(support)), None)
    return (None if first is None or not len(first) else first), []


# what a card holds


def pick(folder: Path, rounds: list[Path], table: pd.DataFrame | None, splits: dict | None, *, each: int, most: int,
         limits: dict[str, dict] | None = None) -> dict:  # fmt: skip
    """{"cards", "real", "columns", "total", "judged"}: what the page shows of a data set, pictures still as arrays.

    Before judging, the first records of the last round. `each`, `most` as in `choose`; limits as in ledger.margins.
    """
    picked = {"cards": [], "real": [], "columns": [], "total": 0, "judged": table is not None}
    pool, plans = real(folder / "records" / "support", splits)
    if table is not None:
        table = table.join(ledger.margins(table, limits or {}))
        shown, picked["total"] = choose(table, each, most), len(table)
    else:
        shown, picked["total"] = unjudged(rounds, each, most)
    fit = folder / "records" / "fit"
    stores = {at: folder / at / "generated" for at in shown["at"].unique()}
    parts = [(at, int(k), find([stores[at] / f"seed{k}"], own["id"]), own) for (at, k), own in
             shown.groupby(["at", "seed_index"], sort=False)]  # fmt: skip
    parts = [part for part in parts if part[2] is not None]
    hosts = find([fit, folder / "records" / "support"], {h for p in parts for h in p[2].meta["host"].astype(str)})
    near = Nearest(pool, plans, fit, bool(parts))
    drawn: dict[str, dict] = {}
    known, named = places(hosts), places(pool)
    for _, k, records, own in parts:
        nearest, at = near.of(records, k), places(records)
        for row in own.to_dict("records"):
            i = at.get(str(row["id"]))
            if i is None:
                continue
            j, n = known.get(str(records.meta["host"].iloc[i])), nearest[i]
            twin = None if n is None else (pool, named[n])
            picture = DRAW[records.modality](records, i, hosts, j, twin)
            drawn[row["id"]] = facts(records, i, row) | {"nearest": n} | picture
    picked["cards"] = [drawn[str(one)] for one in shown["id"] if str(one) in drawn]
    first = (plans[0] if plans else list(named))[: 4 * each]
    wanted = list(dict.fromkeys([*first, *(c["nearest"] for c in picked["cards"] if c["nearest"])]))
    judged = scores(folder / "judges")
    for one in (w for w in wanted if w in named):
        row = {"id": one, "group": "real", "shown": one in set(first)} | judged.get(one, {})
        picked["real"].append(facts(pool, named[one], row) | DRAW[pool.modality](pool, named[one], None, None, None))
    if pool is not None or parts:
        schema = (pool if pool is not None else parts[0][2]).schema
        picked["columns"] = [figures.plain(c["name"], 40) for c in schema.get("columns", [])]
    return picked


def unjudged(rounds: list[Path], each: int, most: int) -> tuple[pd.DataFrame, int]:
    """(rows to show, how many there are) of the last round's first generated store, which has no verdicts yet."""
    empty = pd.DataFrame({"id": [], "kind": [], "at": [], "seed_index": []}), 0
    last = next((r for r in reversed(rounds) if (r / "generated" / "seed0").is_dir()), None)
    first = None if last is None else next(iter(iter_store(last / "generated" / "seed0")), None)
    if first is None:
        return empty
    meta = first.meta.assign(id=first.meta["id"].astype(str))
    own = meta[meta["id"].isin(spread(meta["id"], meta["kind"], min(4 * each, most)))]
    return pd.DataFrame({"id": own["id"], "kind": own["kind"].astype(str), "at": last.name, "seed_index": 0}), len(meta)


def scores(judges: Path) -> dict[str, dict]:
    """{id: its out-of-fold scores} of the real anomalies, of the first support that holds each."""
    found: dict[str, dict] = {}
    for file in sorted(judges.glob("seed*/real.parquet")):
        for row in read_table(file).to_dict("records"):
            found.setdefault(str(row.pop("id")), {k: v for k, v in row.items() if k != "kind"})
    return found


class Nearest:
    """Which real anomaly of its own support a generated record is nearest to, as the judges' copy distance has it."""

    def __init__(self, pool: Records | None, plans: list[list[str]], fit: Path, needed: bool):
        self.pool, self.plans, self.place = pool, plans, places(pool)
        self.codec, self.known = None, needed and pool is not None and bool(plans)
        if self.known and pool.modality != "image":
            from data.records.codecs import CODECS

            self.known = fit.is_dir()
            self.codec = CODECS[pool.modality].fit(read_store(fit)) if self.known else None

    def of(self, records: Records, k: int) -> list[str | None]:
        """The nearest one's id per record of support `k`, None where the support is not known."""
        ids = [i for i in (self.plans[k] if self.known and k < len(self.plans) else []) if i in self.place]
        if not ids or records.schema != self.pool.schema:
            return [None] * len(records)
        from detection.novelty import edit_vectors, ratios

        support = self.pool.take([self.place[i] for i in ids])
        kinds = support.meta["kind"].to_numpy(str)
        apart = ratios(edit_vectors(records, self.codec), edit_vectors(support, self.codec), kinds)
        return [ids[j] for j in apart.argmin(1)]


def facts(records: Records, i: int, row: dict) -> dict:
    """What a card says beside its picture; every number finite or None."""
    meta = records.meta.iloc[i]
    keep = row.get("keep")
    group = row.get("group") or ("unjudged" if keep is None else "accepted" if keep else "rejected")
    card = {
        "id": str(meta["id"]), "kind": figures.plain(meta["kind"], 60), "group": group,
        "shown": row.get("shown", True), "host": figures.plain(meta["host"], 60),
        "round": figures.plain(row.get("at", ""), 10), "support": row.get("seed_index"), "seed": str(int(meta["seed"])),
        "severity": short(meta["severity"]), "area": short(row.get("area")), "overlap": short(row.get("mask_iou")),
        "distance": short(row.get("copy_distance")), "reason": figures.plain(row.get("reason", ""), 60),
        "band": figures.plain(row.get("band", ""), 20), "margin": short(row.get("margin")),
        "near": ledger.told(row.get("near", ""), row.get("by", math.nan)),
        "borderline": bool(row.get("borderline", False)), "closest": bool(row.get("closest", False)),
    }  # fmt: skip
    numbers = {k: short(v) for k, v in row.items() if isinstance(v, float) and k not in NO_SCORE}
    card["scores"] = {figures.plain(k, 30): v for k, v in numbers.items() if v is not None}
    return card


def short(value: object) -> float | None:
    """The number in five significant digits, None where it is missing or infinite."""
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        return None
    return float(f"{float(value):.5g}")


def _image(records: Records, i: int, hosts: Records | None, j: int | None, twin: tuple | None) -> dict:
    """{"pictures": {name: array}}: host, generated (or real), difference and control of one window round the mask."""
    x, mask = records.x[i], np.asarray(records.mask[i], bool)
    part, made = figures.window(mask), bool(records.meta["synthetic"].iloc[i])
    host = hosts.x[j] if j is not None and hosts.x[j].shape == x.shape else None
    control = records.control[i] if records.control is not None else None
    control = control if control is not None and control.shape == x.shape else None
    like = x if host is None else host

    def view(image: np.ndarray) -> np.ndarray:
        return figures.eight_bit(image[part], like)

    shown = {"host": host, "generated" if made else "real": x, "control": control}
    pictures = {name: figures.shrink(view(image), SIDE) for name, image in shown.items() if image is not None}
    if host is not None:
        pictures["difference"] = figures.shrink(figures.difference(view(x), view(host)), SIDE)
    pictures["mask"] = figures.shrink(mask[part].astype(np.uint8), SIDE, marks=True).astype(bool)
    return {"pictures": pictures}


def envelope(values: np.ndarray, points: int = POINTS) -> np.ndarray:
    """The line in at most `points` even steps: of a longer one each bin's least and largest, in their order."""
    if len(values) <= points:
        return values
    out = []
    for part in np.array_split(values, points // 2):
        if not np.isfinite(part).any():
            out += [np.nan, np.nan]
            continue
        low, high = int(np.nanargmin(part)), int(np.nanargmax(part))
        out += [part[low], part[high]] if low <= high else [part[high], part[low]]
    return np.array(out)


def _series(records: Records, i: int, hosts: Records | None, j: int | None, twin: tuple | None) -> dict:
    """{"strips": [{"name", "range", "steps", "spans", "lines": {"record", "host", "control"}}], "more": not shown}.

    A line is whole heights 0..LEVELS over its strip's range, null where missing; spans are [start, end) in steps.
    """
    x, mask = np.asarray(records.x[i], float), np.asarray(records.mask[i], bool)
    names = records.schema.get("channels", [])
    lines = {"record": x, "host": hosts.x[j] if j is not None else None,
             "control": None if records.control is None else records.control[i]}  # fmt: skip
    lines = {k: np.asarray(v, float) for k, v in lines.items() if v is not None and np.shape(v) == x.shape}
    order = np.argsort(-mask.sum(0), kind="stable")
    shown = sorted(int(c) for c in order[: STRIPS if mask.any() else 1] if mask[:, c].any() or c == order[0])
    strips = []
    for c in shown:
        every = np.concatenate([v[:, c][np.isfinite(v[:, c])] for v in lines.values()])
        low, high = (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)
        heights = {k: (envelope(v[:, c]) - low) / ((high - low) or 1.0) * LEVELS for k, v in lines.items()}
        strips.append({
            "name": figures.plain(names[c] if c < len(names) else f"channel {c}", 36),
            "range": f"{low:.4g} to {high:.4g}".replace("-", "−"),
            "steps": len(x), "spans": [list(s) for s in spans(mask[:, c])],
            "lines": {k: [round(h) if math.isfinite(h) else None for h in v] for k, v in heights.items()},
        })  # fmt: skip
    return {"strips": strips, "more": x.shape[1] - len(shown)}


def cell(value: object, column: dict) -> str:
    """A cell as a person would write it."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "missing"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, pd.Timestamp):
        return value.isoformat(sep=" ").removesuffix(" 00:00:00")
    if isinstance(value, (float, np.floating)):
        decimals = column.get("decimals")
        return f"{value:.{int(decimals)}f}" if decimals is not None and decimals <= 6 else f"{value:.6g}"
    return figures.plain(value, 40)


def _row(records: Records, i: int, hosts: Records | None, j: int | None, twin: tuple | None) -> dict:
    """{"cells": [[column, host or null, value, nearest or null, changed, marked]], "more", "same"}, changed ones first.

    column: position in the schema; more: columns left out, of which `same` equal the host.
    """
    described = {c["name"]: c for c in records.schema.get("columns", [])}
    made = []
    for d, name in enumerate(records.x.columns):
        now, known = records.x[name].iloc[i], j is not None and name in hosts.x
        before = hosts.x[name].iloc[j] if known else None
        both = known and pd.notna(before) and pd.notna(now)
        changed = known and not (pd.isna(before) and pd.isna(now)) and not (both and before == now)
        like = twin is not None and name in twin[0].x
        written = [cell(v, described.get(name, {})) if there else None for v, there in
                   ((before, known), (now, True), (twin[0].x[name].iloc[twin[1]] if like else None, like))]  # fmt: skip
        made.append([d, *written, bool(changed), bool(records.mask[i, d])])
    made.sort(key=lambda c: (not c[4], not c[5]))
    return {"cells": made[:CELLS], "more": len(made[CELLS:]), "same": sum(not c[4] for c in made[CELLS:])}


DRAW = {"image": _image, "series": _series, "row": _row}


# onto the page


def encoded(card: dict, side: int, quality: int) -> dict:
    """The card with its pictures as WebP data URIs, at most `side` pixels; the mask as a lossless veil."""
    if "pictures" not in card:
        return card
    small = {name: figures.shrink(image.astype(np.uint8), side, marks=name == "mask")
             for name, image in card["pictures"].items()}  # fmt: skip
    uris = {name: figures.webp(figures.veil(image.astype(bool))) if name == "mask" else figures.webp(image, quality)
            for name, image in small.items()}  # fmt: skip
    return card | {"pictures": uris}


def first(picked: dict, share: float) -> dict:
    """What is picked with only the first `share` of its cards and the real anomalies those need."""
    cards = picked["cards"][: int(share * len(picked["cards"]))]
    near = {card["nearest"] for card in cards}
    return picked | {"cards": cards, "real": [c for c in picked["real"] if c["shown"] or c["id"] in near]}


def told(card: dict) -> dict:
    """The card's facts without what it draws, for report.json."""
    return {key: value for key, value in card.items() if key not in ("pictures", "strips", "cells", "more", "same")}
