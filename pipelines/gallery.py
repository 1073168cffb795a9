"""Cards of the report's gallery: real anomalies, accepted and rejected generated records, per modality."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data.records import Records, concat, iter_store
from pipelines import figures

CELLS = 8  # columns of a row shown per card; the changed ones come first
SCORES = 4


def spread(ids: Iterable[str], keys: Iterable[str], limit: int) -> list[str]:
    """At most `limit` ids, taken in their order from each key in turn, so that rare kinds and reasons are seen too."""
    lots: dict[str, list[str]] = {}
    for one, key in zip(ids, keys):
        lots.setdefault(str(key), []).append(str(one))
    turns = [
        [lot[i] for lot in lots.values() if i < len(lot)]
        for i in range(max(map(len, lots.values()), default=0))
    ]
    return [one for turn in turns for one in turn][:limit]


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


def at(records: Records | None, one: str) -> int | None:
    """The position of the record with this id, None where it is missing."""
    if records is None:
        return None
    places = np.flatnonzero((records.meta["id"].astype(str) == one).to_numpy())
    return int(places[0]) if len(places) else None


def pick(folder: Path, rounds: list[Path], splits: dict | None, limit: int) -> dict:
    """The records to show: {"real", "generated", "hosts", "verdicts", "round"} and id lists "accepted", "rejected".

    From the last round with generated records of the first support; ids in turn over kinds, the rejected also over
    reasons. Before judging all ids are in "unjudged".
    """
    fit, support = folder / "records" / "fit", folder / "records" / "support"
    chosen = {
        "real": None,
        "generated": None,
        "hosts": None,
        "verdicts": None,
        "round": None,
        "accepted": [],
        "rejected": [],
        "unjudged": [],
    }
    chosen["real"] = _real(support, splits, limit)
    last = next((r for r in reversed(rounds) if (r / "generated" / "seed0").is_dir()), None)
    if last is None:
        return chosen
    chosen["round"] = last.name
    store, table = last / "generated" / "seed0", last / "verdicts" / "seed0.parquet"
    if table.is_file():
        verdicts = pd.read_parquet(table)
        verdicts["id"] = verdicts["id"].astype(str)
        kept = verdicts[verdicts["keep"]]
        lost = verdicts[~verdicts["keep"].astype(bool)]
        chosen["accepted"] = spread(kept["id"], kept["kind"], limit)
        chosen["rejected"] = spread(
            lost["id"], lost["kind"].astype(str) + "\0" + lost["reason"].astype(str), limit
        )
        chosen["verdicts"] = verdicts.drop_duplicates("id").set_index("id")
    else:
        first = next(iter(iter_store(store)), None)
        chosen["unjudged"] = spread(first.meta["id"], first.meta["kind"], limit) if first is not None else []
    chosen["generated"] = find([store], chosen["accepted"] + chosen["rejected"] + chosen["unjudged"])
    if chosen["generated"] is not None:
        chosen["hosts"] = find([fit, support], chosen["generated"].meta["host"].astype(str))
    return chosen


def _real(support: Path, splits: dict | None, limit: int) -> Records | None:
    """The labelled anomalies the first support was built from; the first of the pool where the plan is missing."""
    if not support.is_dir():
        return None
    plan = (splits or {}).get("supports") or [[]]
    if plan[0]:
        return find([support], list(plan[0])[:limit])
    first = next(iter(iter_store(support)), None)
    return None if first is None or not len(first) else first.take(np.arange(min(limit, len(first))))


def facts(records: Records, i: int, verdicts: pd.DataFrame | None) -> dict:
    """What a card says beside its picture: kind, severity, seed, scores, verdict, reason, host, parents."""
    meta = records.meta.iloc[i]
    card = {
        "id": str(meta["id"]),
        "kind": str(meta["kind"]),
        "notes": [],
        "scores": [],
        "verdict": None,
        "reason": "",
        "host": "",
    }
    if not bool(meta["synthetic"]):
        return card
    severity = float(meta["severity"])
    card["notes"] = ([f"severity {severity:.2f}"] if np.isfinite(severity) else []) + [
        f"seed {int(meta['seed'])}"
    ]
    card["host"] = str(meta["host"])
    if verdicts is None or card["id"] not in verdicts.index:
        return card
    row = verdicts.loc[card["id"]]
    card["verdict"], card["reason"] = ("kept" if row["keep"] else "rejected"), str(row["reason"])
    if "area" in verdicts and pd.notna(row["area"]):
        card["notes"].insert(1, f"{100 * float(row['area']):.1f} % marked")
    known = {"severity", "area"}
    names = [c for c in verdicts.columns if c not in known and pd.api.types.is_float_dtype(verdicts[c])]
    card["scores"] = [(c, figures.number(float(row[c]))) for c in names][:SCORES]
    return card


def cards(chosen: dict, group: str, side: int) -> list[dict]:
    """The cards of one group: "real" or one of the id lists "accepted", "rejected", "unjudged"."""
    records = chosen["real"] if group == "real" else chosen["generated"]
    if records is None:
        return []
    ids = records.meta["id"].astype(str) if group == "real" else chosen[group]
    made = []
    for one in ids:
        i = at(records, one)
        if i is None:
            continue
        host = None if group == "real" else at(chosen["hosts"], str(records.meta["host"].iloc[i]))
        card = facts(records, i, chosen["verdicts"])
        made.append(card | DRAW[records.modality](records, i, chosen["hosts"], host, side))
    return made


def _image(records: Records, i: int, hosts: Records | None, j: int | None, side: int) -> dict:
    """{"panels": [(name, data URI)]}: host, control, generated and overlay of one window around the mask."""
    x, mask = records.x[i], np.asarray(records.mask[i], bool)
    part = figures.window(mask)
    host = hosts.x[j] if j is not None and hosts.x[j].shape[:2] == mask.shape else None
    control = records.control[i] if records.control is not None else None
    control = control if control is not None and control.shape[:2] == mask.shape else None
    shown = [
        ("host", host),
        ("control", control),
        ("generated" if bool(records.meta["synthetic"].iloc[i]) else "real", x),
    ]
    like = x if host is None else host
    panels = [
        (name, figures.shrink(figures.eight_bit(image[part], like), side))
        for name, image in shown
        if image is not None
    ]
    small = figures.shrink(mask[part].astype(np.uint8), side, marks=True).astype(bool)
    panels.append(("mask", figures.overlay(panels[-1][1], small)))
    return {"panels": [(name, figures.png(image)) for name, image in panels]}


def _series(records: Records, i: int, hosts: Records | None, j: int | None, side: int) -> dict:
    """{"figure": SVG}: host, control and record as lines, the marked span shaded, named by channel."""
    control = None if records.control is None else records.control[i]
    return {
        "figure": figures.series_card(
            f"record {records.meta['id'].iloc[i]}",
            np.asarray(records.x[i], float),
            np.asarray(records.mask[i], bool),
            records.schema.get("channels", []),
            host=None if j is None else np.asarray(hosts.x[j], float),
            control=None if control is None else np.asarray(control, float),
        )
    }


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
    return str(value)


def _row(records: Records, i: int, hosts: Records | None, j: int | None, side: int) -> dict:
    """{"cells": [{"column", "host", "value", "changed", "marked"}], "more": int}, changed and marked cells first."""
    described = {c["name"]: c for c in records.schema.get("columns", [])}
    made = []
    for d, name in enumerate(records.x.columns):
        value = cell(records.x[name].iloc[i], described.get(name, {}))
        known = j is not None and name in hosts.x
        before, now = (hosts.x[name].iloc[j] if known else None), records.x[name].iloc[i]
        changed = (
            known
            and not (pd.isna(before) and pd.isna(now))
            and not (pd.notna(before) and pd.notna(now) and before == now)
        )
        made.append(
            {
                "column": str(name),
                "host": cell(before, described.get(name, {})) if known else None,
                "value": value,
                "changed": changed,
                "marked": bool(records.mask[i, d]),
            }
        )
    made.sort(key=lambda c: (not c["changed"], not c["marked"]))
    return {
        "cells": made[:CELLS],
        "more": len(made) - len(made[:CELLS]),
        "same": sum(not c["changed"] for c in made[CELLS:]),
    }


DRAW = {"image": _image, "series": _series, "row": _row}
