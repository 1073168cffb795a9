"""What stands beside the verdict, each where it is there: the gate, the audit, the exported set, fidelity, ablation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from data.files import read_table
from pipelines import figures, markdown
from pipelines.findings import LISTED, entry, finite, flat, read_json

PAIRS = 10  # of an audit check shown
CELLS = 200  # of the ablation table shown


def gate(folder: Path) -> dict | None:
    """gate.json as {"accepted", "sentence", "metric", "gain", "chosen", "reference", "candidates"}, None without it.

    chosen and reference: lines of text; candidates: rows {"arm", "detector", "weight", "fuse", "mean"}, best first.
    """
    read = read_json(folder / "gate.json")
    if read is None:
        return None
    rows = [{key: c.get(key) for key in ("arm", "detector", "weight", "fuse")} | {"mean": finite(c.get("mean"))}
            for c in read.get("candidates") or [] if isinstance(c, dict)]  # fmt: skip
    rows.sort(key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)
    accepted = bool(read.get("accepted"))
    default = "generated records are used" if accepted else "generated records are not used, a simpler set is exported"
    return {
        "accepted": accepted,
        "sentence": str(read.get("sentence") or f"The gate decided on training data alone: {default}."),
        "metric": str(read.get("metric", "")),
        "gain": entry(read["gain"]) if isinstance(read.get("gain"), dict) else None,
        "chosen": choice(read.get("chosen")),
        "reference": choice(read.get("reference")),
        "candidates": rows[:LISTED],
    }


def choice(value: object) -> str:
    """`mixed · forest · weight 0.5`, what a gate can choose, in a line."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    given = {key: v for key, v in value.items() if v is not None}
    return " · ".join(str(v) if key in ("arm", "detector") else f"{key} {v}" for key, v in given.items())


def audit(folder: Path) -> dict | None:
    """audit.json as {"passed", "sentence", "failed", "checks"}, None without it.

    checks: {"name", "passed", "figure", "limit", "detail", "pairs" (at most PAIRS), "more"}, the failed ones first.
    """
    read = read_json(folder / "audit.json")
    if read is None:
        return None
    checks = []
    for own in read.get("checks") or []:
        pairs = [[str(one) for one in pair] for pair in own.get("pairs") or [] if isinstance(pair, list | tuple)]
        checks.append({
            "name": str(own.get("name", "?")), "passed": bool(own.get("passed")),
            "detail": str(own.get("detail") or ""), "figure": told(own.get("figure")),
            "limit": told(own.get("limit")), "pairs": pairs[:PAIRS], "more": max(0, len(pairs) - PAIRS),
        })  # fmt: skip
    failed = [own["name"] for own in checks if not own["passed"]]
    passed = bool(read.get("passed")) and not failed
    count = f"{len(checks)} check{'' if len(checks) == 1 else 's'}"
    sentence = (f"No leak found: all {count} passed." if passed else
                f"Leakage: {len(failed)} of {count} failed ({', '.join(failed)}); do not trust the figures above."
                if failed else "Leakage: the audit did not pass; do not trust the figures above.")  # fmt: skip
    checks.sort(key=lambda own: own["passed"])
    return {"passed": passed, "sentence": sentence, "failed": failed, "checks": checks}


def told(value: object) -> str:
    """A figure of any JSON type as text, empty for none."""
    if value is None or isinstance(value, bool | str):
        return "" if value is None else str(value)
    return figures.number(value) if isinstance(value, int | float) else ", ".join(f"{k} {v}" for k, v in flat(value))


def exported(folder: Path) -> dict | None:
    """{"records", "anomalies", "synthetic", "twins"} of the training set that is exported, None where it is not built;
    twins: of the synthetic ones, those that are normals."""
    shards = sorted((folder / "training").glob("part-*.parquet"))
    if not shards:
        return None
    meta = pd.concat([read_table(shard, columns=["label", "synthetic"]) for shard in shards])
    odd, made = int((meta["label"] > 0).sum()), int(meta["synthetic"].sum())
    twins = int((meta["synthetic"] & (meta["label"] == 0)).sum())
    return {"records": len(meta), "anomalies": odd, "synthetic": made, "twins": twins}


def fidelity(folder: Path) -> dict:
    """fidelity.json as {"metrics", "rows": [{"name", "cells"}]}, the whole set first; empty without it."""
    read = read_json(folder / "fidelity.json") or {}
    tables = {"all kinds": read.get("all")} | {str(k): v for k, v in (read.get("kinds") or {}).items()}
    tables = {name: {str(k): finite(v) for k, v in own.items()}
              for name, own in tables.items() if isinstance(own, dict)}  # fmt: skip
    metrics = list(dict.fromkeys(metric for own in tables.values() for metric in own))
    rows = [{"name": name, "cells": [own.get(m) for m in metrics]} for name, own in tables.items() if own]
    return {"metrics": metrics if rows else [], "rows": rows[: LISTED + 1]}


def ablation(root: Path) -> dict | None:
    """reports/ablation.json as {"columns", "rows", "more", "failed", "correlations", "label_efficiency"}, None without.

    rows: one text a column, axes before metrics before changes before fidelity; `failed` names the cells that did not
    finish.
    """
    read = read_json(root / "reports" / "ablation.json")
    if read is None:
        return None
    cells = [own for own in read.get("rows") or [] if isinstance(own, dict)]
    for own in cells:
        gains = own.get("change") if isinstance(own.get("change"), dict) else {}
        gains = {arm: entry(found) for arm, found in gains.items() if isinstance(found, dict)}
        own["change"] = {f"{arm} over base": markdown.signed(gain) for arm, gain in gains.items()}
    columns = {part: list(dict.fromkeys(str(key) for own in cells for key, _ in flat(own.get(part) or {})))
               for part in ("axes", "metrics", "change", "fidelity")}  # fmt: skip
    rows = []
    for own in cells:
        found = {part: dict(flat(own.get(part) or {})) for part in columns}
        values = [found[part].get(key, "–") for part, keys in columns.items() for key in keys]
        rows.append([told(own.get("dataset")), told(own.get("cell")), *values, told(own.get("status"))])
    ends = ("ok", "done", "passed", "")
    failed = [told(own.get("cell")) for own in cells if str(own.get("status", "ok")).lower() not in ends]
    return {
        "columns": ["data set", "cell", *(key for keys in columns.values() for key in keys), "status"],
        "rows": rows[:CELLS],
        "more": max(0, len(rows) - CELLS),
        "failed": failed,
        "correlations": [own for own in read.get("correlations") or [] if isinstance(own, dict)][:LISTED],
        "label_efficiency": [own for own in read.get("label_efficiency") or [] if isinstance(own, dict)],
    }


def efficiency(points: list[dict], name: str) -> list[tuple[str, object]]:
    """(arm, chart) of a data set's label-efficiency curves: each arm in front once, the others faint behind it."""
    own = pd.DataFrame([p for p in points if str(p.get("dataset")) == name])
    if not len(own) or not {"arm", "k", "mean"} <= set(own):
        return []
    own = own.reindex(columns=["arm", "k", "mean", "low", "high"]).sort_values("k")
    for column in ("k", "mean", "low", "high"):
        own[column] = pd.to_numeric(own[column], errors="coerce")
    curves = {str(arm): part for arm, part in own.groupby("arm", sort=False)}
    lines = [(arm, p["k"].to_numpy(float), p["mean"].to_numpy(float)) for arm, p in curves.items()]
    bands = [(arm, p["k"].to_numpy(float), p["low"].to_numpy(float), p["high"].to_numpy(float))
             for arm, p in curves.items()]  # fmt: skip
    every = own[["mean", "low", "high"]].to_numpy(float)
    domain = (float(own["k"].min()), float(own["k"].max()), float(np.nanmin(every)), float(np.nanmax(every)))
    return [(arm, figures.lines(f"label efficiency of {arm}", lines, x="labelled anomalies", y="score", highlight=arm,
                                domain=domain, how="pick", bands=bands, width=figures.CARD, height=210))
            for arm in curves]  # fmt: skip
