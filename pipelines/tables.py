"""What cells say together: rows, which fidelity measure goes with the gain downstream, and curves over labels.

Works on results as pipelines.cell writes them; nothing is read here.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

import numpy as np

GAINS = (("filtered", "real"), ("filtered", "classical"), ("filtered", "dropped"))  # arm over arm, the metric's mean
COUNTS = ("real", "generated")  # of a fidelity table, no measures
CHANGES = ("filtered", "mixed")  # arms that a cell is compared with the base by
LEAST = 6  # cells that a correlation is told from
DRAWS = 1000  # of the bootstrap
K = "prepare.support"  # how many labelled examples
FIELDS = ("dataset", "cell", "axes", "status", "seconds", "part", "name", "metric", "mean", "low", "high")


def summarise(results: list[dict], *, support: int) -> dict:
    """{"rows", "correlations", "by_dataset", "label_efficiency"} of cells. support: the base's labelled examples.

    rows: {"cell", "axes", "dataset", "metrics": {arm: mean of the head metric}, "fidelity": {measure: value}, "status",
    "error", "seconds"}.
    A row's change: {arm: the paired interval, over supports, of the head metric over the base's}, empty for the base
    itself and where supports are not the base's.
    correlations, over all data sets, and by_dataset: {"fidelity", "gain", "rho", "low", "high", "n"}.
    label_efficiency: {"dataset", "arm", "k", "mean", "low", "high"} of the head metric where only K was changed.
    """
    bases = {result["dataset"]: result for result in results if not result["axes"]}
    rows = [row_of(result) | {"change": changes(result, bases.get(result["dataset"]))} for result in results]
    points = [point for result in results for point in points_of(result)]
    datasets = sorted({point["dataset"] for point in points})
    each = [{"dataset": d, **c} for d in datasets for c in correlations([p for p in points if p["dataset"] == d])]
    return {"rows": rows, "correlations": correlations(points), "by_dataset": each, "points": points,
            "label_efficiency": efficiency(results, support)}  # fmt: skip


def row_of(result: dict) -> dict:
    about = {name: result.get(name) for name in ("cell", "axes", "dataset", "status", "error", "seconds")}
    return about | {"metrics": heads(result), "fidelity": dict(fidelity_of(result))}


def heads(result: dict) -> dict[str, float]:
    """{arm: mean of the head metric} of a result; empty where it has none."""
    means = {arm: value.get("mean") for arm, value in head_table(result).items()}
    return {arm: mean for arm, mean in means.items() if mean is not None}


def head_table(result: dict) -> dict[str, dict]:
    """{arm: {"mean", "low", "high", "values"} of the head metric}, of arms that have it."""
    metrics = result.get("metrics") or {}
    head, arms = (metrics.get("gain") or {}).get("metric"), metrics.get("arms") or {}
    return {arm: table.get(head) or {} for arm, table in arms.items()}


def changes(result: dict, base: dict | None) -> dict[str, dict]:
    """{arm: {"mean", "low", "high"}} of a result over its base, support by support."""
    if base is None or base is result or K in result["set"]:
        return {}
    from detection.metrics import paired

    own, other, out = head_table(result), head_table(base), {}
    for arm in CHANGES:
        a, b = (table.get(arm, {}).get("values") or [] for table in (own, other))
        if a and len(a) == len(b):
            found = paired(a, b)
            out[arm] = {name: found[name] for name in ("mean", "low", "high")}
    return out


def fidelity_of(result: dict) -> Iterable[tuple[str, float]]:
    """(measure, value) of what was kept, without counts and what is unknown."""
    own = (result.get("fidelity") or {}).get("all") or {}
    return ((name, value) for name, value in own.items() if name not in COUNTS and value is not None)


# fidelity against gain


def points_of(result: dict) -> list[dict]:
    """{"dataset", "cell", "fidelity", "x", "gain", "y"} of every measure and gain of a result."""
    means, out = heads(result), []
    for arm, over in GAINS:
        if arm in means and over in means:
            about = {"dataset": result["dataset"], "cell": result["cell"], "gain": f"{arm} over {over}",
                     "y": means[arm] - means[over]}  # fmt: skip
            out += [about | {"fidelity": name, "x": value} for name, value in fidelity_of(result)]
    return out


def correlations(points: list[dict]) -> list[dict]:
    """Of every measure and gain; the strongest first, those that nothing can be said of last."""
    pairs = dict.fromkeys((p["fidelity"], p["gain"]) for p in points)
    found = [{"fidelity": f, "gain": g, **correlation([p for p in points if (p["fidelity"], p["gain"]) == (f, g)])}
             for f, g in pairs]  # fmt: skip
    return sorted(found, key=lambda c: (c["rho"] is None, -abs(c["rho"] or 0), c["fidelity"], c["gain"]))


def correlation(points: list[dict], *, seed: int = 0) -> dict:
    """{"rho", "low", "high", "n"}: Spearman's correlation inside data sets and its 95 % bootstrap interval over cells.

    Ranks are centred inside each data set, so that only how its own cells differ counts; with one data set this is the
    plain coefficient. None with fewer than LEAST cells, or where nothing varies.
    """
    groups = [[(p["x"], p["y"]) for p in points if p["dataset"] == d] for d in sorted({p["dataset"] for p in points})]
    groups = [np.array(group) for group in groups if len(group) > 1]
    n = sum(map(len, groups))
    rho = float(pooled(groups)) if n >= LEAST else np.nan
    if np.isnan(rho):
        return {"rho": None, "low": None, "high": None, "n": n}
    rng = np.random.default_rng(seed)
    drawn = pooled([group[rng.integers(len(group), size=(DRAWS, len(group)))] for group in groups])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"rho": rho, "low": float(low), "high": float(high), "n": n}


def pooled(groups: list[np.ndarray]) -> np.ndarray:
    """Pearson's correlation of ranks centred and scaled a group, (..., n, 2) each; NaN where a side does not vary."""
    from scipy.stats import rankdata

    ranks = [(rankdata(g, axis=-2) - (g.shape[-2] + 1) / 2) / g.shape[-2] for g in groups]
    ranks = np.concatenate(ranks, axis=-2)
    size = np.sqrt((ranks**2).sum(-2)).prod(-1)
    return np.where(size > 0, np.clip(ranks.prod(-1).sum(-1) / np.where(size > 0, size, 1), -1, 1), np.nan)


# labels


def efficiency(results: list[dict], support: int) -> list[dict]:
    """The head metric of every arm and detector at every K, of cells that change nothing but K."""
    out = []
    for result in results:
        metrics = result.get("metrics")
        if not metrics or set(result["set"]) - {K}:
            continue
        head, k = metrics["gain"]["metric"], result["set"].get(K, support)
        for arm, table in {**metrics["arms"], **(metrics.get("detectors") or {})}.items():
            if head in table:
                value = table[head]
                out.append({"dataset": result["dataset"], "arm": arm, "k": k,
                            **{name: value.get(name) for name in ("mean", "low", "high")}})  # fmt: skip
    return sorted(out, key=lambda r: (r["dataset"], r["arm"], r["k"]))


# files


def files(found: dict, results: list[dict]) -> dict[str, str]:
    """{name below reports/: text}: ablation.json, ablation.csv and a plot a measure and a data set."""
    from pipelines import ablation_page, plots

    told = {name: found[name] for name in ("rows", "correlations", "by_dataset", "label_efficiency")}
    out = {"ablation.json": json.dumps(told, indent=1, allow_nan=False) + "\n", "ablation.csv": table(results),
           "ablation.md": ablation_page.page(found)}  # fmt: skip
    first = " over ".join(GAINS[0])
    for c in found["correlations"]:
        if c["gain"] == first:
            points = [p for p in found["points"] if (p["fidelity"], p["gain"]) == (c["fidelity"], first)]
            out[f"ablation/{c['fidelity']}.svg"] = plots.scatter(points, c)
    for dataset in sorted({r["dataset"] for r in found["label_efficiency"]}):
        own = [r for r in found["label_efficiency"] if r["dataset"] == dataset]
        if len({r["k"] for r in own}) > 1:
            out[f"ablation/labels-{dataset}.svg"] = plots.curves(own, dataset)
    return out


def table(results: list[dict]) -> str:
    """Tidy CSV: a line a number. part: arm, detector, fidelity, or status alone where there are no numbers."""
    text = io.StringIO()
    out = csv.DictWriter(text, FIELDS, lineterminator="\n")
    out.writeheader()
    for row in results:
        axes = " ".join(f"{name}={value}" for name, value in (row["axes"] or {}).items())
        about = {"dataset": row["dataset"], "cell": row["cell"], "axes": axes, "status": row["status"],
                 "seconds": row["seconds"]}  # fmt: skip
        for line in lines_of(row) or [{"part": "status"}]:
            out.writerow({key: inert(value) for key, value in (about | line).items()})
    return text.getvalue()


def lines_of(result: dict) -> list[dict]:
    """{"part", "name", "metric", "mean", "low", "high"} of every number of a result."""
    metrics = result["metrics"] or {}
    parts = [("arm", metrics.get("arms")), ("detector", metrics.get("detectors"))]
    found = [(part, name, *pair) for part, own in parts for name in own or () for pair in own[name].items()]
    out = [{"part": part, "name": name, "metric": metric, **{k: value.get(k) for k in ("mean", "low", "high")}}
           for part, name, metric, value in found]  # fmt: skip
    return out + [{"part": "fidelity", "name": "filtered", "metric": m, "mean": v} for m, v in fidelity_of(result)]


def inert(value):
    """Text that a spreadsheet would take for a formula, as text."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
