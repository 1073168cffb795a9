"""What the numbers of one data set say: the verdict in a sentence, tables and charts of the report."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from data import files
from data.errors import InputError
from detection import gate
from pipelines import figures

LISTED = 50  # rows of any user-sized list on the page
PANELS = 16  # precision-recall charts
ABOUT = {
    "real": "real anomalies only",
    "standard": "real, with standard augmentation",
    "classical": "plus classical generators",
    "generated": "plus generated, unfiltered",
    "dropped": "plus generated, dropped at random to the kept count",
    "filtered": "plus generated, kept by the filter",
    "mixed": "plus half classical, half filtered",
}
NAMES = {
    "real": "real anomalies alone",
    "standard": "standard augmentation",
    "classical": "classical augmentation",
    "generated": "unfiltered generated data",
    "dropped": "randomly dropped generated data",
    "filtered": "filtered generated data",
    "mixed": "mixed training data",
}
ENDS = {"helps": "shown to help", "hurts": "shown to hurt", "neither": "not shown to help or to hurt"}


def signed(value: float) -> str:
    """`+0.031`, as the gate's sentence has it, with a minus that is as wide as the plus."""
    return gate.signed(value).replace("-", "−")


def finite(value: object) -> float | None:
    """The value as a float, None where it is missing, not a number or infinite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def entry(cell: dict) -> dict:
    """{"mean", "low", "high", "values"} of one metric; no interval from a single value."""
    values = [v for v in map(finite, cell.get("values") or []) if v is not None]
    low, high = finite(cell.get("low")), finite(cell.get("high"))
    if low is None or high is None or len(values) == 1:
        low = high = None
    return {"mean": finite(cell.get("mean")), "low": low, "high": high, "values": values}


def entries(tables: dict | None) -> dict[str, dict[str, dict]]:
    """{arm: {metric: entry}} of a part of the metrics file."""
    return {str(arm): {str(metric): entry(cell) for metric, cell in cells.items() if isinstance(cell, dict)}
            for arm, cells in (tables or {}).items()}  # fmt: skip


def verdict(gain: dict, arms: dict[str, dict[str, dict]]) -> dict:
    """What the paired interval of a gain shows: {"outcome", "sentence", "metric", "arm", "over", "supports", ...}.

    outcome: "helps" (interval above 0), "hurts" (below), "neither" (0 inside or at an end), "single" (one support,
    no interval), "none" (no number).
    """
    metric, arm, over = (str(gain.get(key, "?")) for key in ("metric", "arm", "over"))
    found = entry(gain)
    mean, low, high = found["mean"], found["low"], found["high"]
    sizes = [len(arms[name][metric]["values"]) for name in (arm, over) if metric in arms.get(name, {})]
    supports = len(found["values"]) or min(sizes, default=0)
    if supports == 1:
        low = high = None
    first, second = NAMES.get(arm, arm), NAMES.get(over, over)
    verb = "beat" if (mean or 0) > 0 else "fell behind" if (mean or 0) < 0 else "equalled"
    start = f"{first[:1].upper()}{first[1:]} {verb} {second} on {metric} by {signed(mean or 0)}"
    if mean is None:
        outcome = "none"
        sentence = f"{first[:1].upper()}{first[1:]} could not be compared with {second} on {metric}: no value."
    elif low is None:
        outcome = "single"
        why = "on one support, so there is no interval" if supports == 1 else "without an interval"
        sentence = f"{start}, measured {why}: {ENDS['neither']}."
    else:
        outcome = "helps" if low > 0 else "hurts" if high < 0 else "neither"
        count = f", {supports} supports" if supports else ""
        sentence = f"{start} (95 % interval {signed(low)} to {signed(high)}{count}): {ENDS[outcome]}."
    return {"outcome": outcome, "sentence": sentence, "metric": metric, "arm": arm, "over": over, "mean": mean,
            "low": low, "high": high, "supports": supports}  # fmt: skip


def table(arms: dict[str, dict[str, dict]]) -> dict:
    """{"metrics", "rows": [{"name", "about", "cells", "supports"}]}: arms by metrics, the best means marked."""
    metrics = list(dict.fromkeys(metric for cells in arms.values() for metric in cells))
    top = {m: best(arms, m)[1] for m in metrics}
    rows = []
    for name, cells in arms.items():
        shown = [cells[m] | {"best": len(arms) > 1 and top[m] is not None and cells[m]["mean"] == top[m]}
                 if m in cells else None for m in metrics]  # fmt: skip
        supports = max((len(cell["values"]) for cell in shown if cell), default=0)
        rows.append({"name": name, "about": ABOUT.get(name, ""), "cells": shown, "supports": supports})
    return {"metrics": metrics, "rows": rows}


def best(arms: dict[str, dict[str, dict]], metric: str) -> tuple[str | None, float | None]:
    """The arm with the highest mean and that mean, (None, None) where nothing was measured."""
    means = {name: cells[metric]["mean"] for name, cells in arms.items() if metric in cells}
    means = {name: mean for name, mean in means.items() if mean is not None}
    return max(means.items(), key=lambda pair: pair[1], default=(None, None))


def measured(metrics: dict | None) -> dict:
    """The verdict, tables and charts of `metrics/<data set>.json`, all empty where it is missing."""
    read = metrics or {}
    arms, detectors = entries(read.get("arms")), entries(read.get("detectors"))
    head = verdict(read["gain"], arms) if read.get("gain") else None
    charts, gain = [], ""
    for metric in table(arms)["metrics"]:
        rows = [{"name": name} | cells[metric] for name, cells in arms.items() if metric in cells]
        over = arms.get(head["over"], {}).get(metric, {}).get("mean") if head else None
        arm = head["arm"] if head else ""
        drawn = figures.intervals(f"{metric} of every arm", rows, reference=over, highlight=arm)
        charts.append((metric, drawn))
    if head:
        name = f"{head['arm']} − {head['over']}"
        row = {"name": name, "values": [], "mean": head["mean"], "low": head["low"], "high": head["high"]}
        gain = figures.intervals("paired gain, zero dashed", [row], reference=0.0, bounds=None, highlight=name)
        gain = gain if head["mean"] is not None else ""
    return {"head": head, "arms": table(arms), "detectors": table(detectors), "charts": charts, "gain": gain,
            "best": best(arms, head["metric"])[0] if head else None, "counts": read.get("counts") or {}}  # fmt: skip


def flat(value: object, path: str = "") -> list[tuple[str, str]]:
    """(path, value) of every leaf of nested JSON; a list of plain values is one leaf."""
    if isinstance(value, dict):
        return [leaf for key, v in value.items() for leaf in flat(v, f"{path} · {key}" if path else str(key))]
    if isinstance(value, list):
        return [(path, ", ".join(map(str, value)))]
    return [(path, figures.number(value) if isinstance(value, float) else str(value))]


def losses(folder: Path) -> list[tuple[str, str]]:
    """(name, chart) of the base's training loss and of all adapters' together."""
    made = []
    files = {
        "The base, on normals": [folder / "base" / "loss.csv"],
        "The adapters, on the few anomalies": sorted(folder.glob("adapters/seed*/loss.csv")),
    }
    for name, paths in files.items():
        read = [(path.parent.name, read_csv(path, ("step", "loss"))) for path in paths if path.is_file()]
        curves = [(label, own["step"].to_numpy(float), own["loss"].to_numpy(float))
                  for label, own in read if len(own)]  # fmt: skip
        if curves:
            name += f", {len(curves)} supports" if len(curves) > 1 else ""
            made.append((name, figures.lines(name, curves, x="step", y="loss", log=True)))
    return made


def precision_recall(path: Path, first: str) -> list[tuple[str, str]]:
    """(arm, chart) of every arm in pr.csv (arm, recall, precision), `first` in front; the other arms faint behind."""
    if not path.is_file():
        return []
    read = read_csv(path, ("arm", "recall", "precision"))
    curves = [(str(arm), own["recall"].to_numpy(float), own["precision"].to_numpy(float))
              for arm, own in read.groupby("arm", sort=False)]  # fmt: skip
    names = sorted((name for name, _, _ in curves), key=lambda name: name != first)[:PANELS]
    return [(name, figures.lines(f"precision and recall of {name}", curves, x="recall", y="precision", highlight=name,
                                 domain=(0, 1, 0, 1), how="pick", width=figures.CARD, height=210))
            for name in names]  # fmt: skip


def read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The table in the file; InputError where it cannot be read or a column is missing."""
    try:
        read = pd.read_csv(path)
    except ValueError as error:
        raise InputError(f"{path}: must be a CSV table, {error}; run the stage that writes it again") from None
    if absent := [name for name in columns if name not in read]:
        rule = f"must have the columns {', '.join(columns)}"
        raise InputError(f"{path}: {rule}, got no {absent[0]}; run the stage that writes it again")
    return read


def read_json(path: Path) -> dict | None:
    """The JSON object in the file, None where there is no file; InputError where it cannot be read."""
    value = files.read_json(path, needed=False)
    if not isinstance(value, dict | None):
        got = type(value).__name__
        raise InputError(f"{path}: must be a JSON object, got {got}; run the stage that writes it again")
    return value
