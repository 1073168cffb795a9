"""What the ledgers say, every generated record's verdict: the funnel, score histograms, the borderline, each round."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from data.files import read_table
from detection.verdict import BY_HAND, KEPT, REASONS
from pipelines import figures
from pipelines.findings import LISTED, finite, read_json

BANDS = ("invisible", "informative", "trivial")
BINS = 36  # of a histogram
CLOSEST = 6  # pairs of a kept record and its nearest real anomaly shown
RARE = 4.0  # decades of the percentile scale: the last mark is 99.99 %
# score: (setting of the filter or column of the ledger that holds its threshold, the verdict it decides)
THRESHOLDS = {
    "fused": (("invisible_below", "invisible"), ("trivial_above", "trivial")),
    "copy_distance": (("copy", "copy"),),
    "mask_iou": (("min_overlap", "unchanged"),),
    "control": (("seam", "seam"),),
}


def read(rounds: list[Path]) -> pd.DataFrame | None:
    """All ledgers r<r>/verdicts/seed<k>.parquet in one frame, `at` the round's folder; None where there are none.

    A record's `turn` is its place in its own ledger, so that sorting by it takes the supports in turn.
    """
    files = [(r, file) for r in rounds for file in sorted((r / "verdicts").glob("seed*.parquet"))]
    parts = []
    for folder, file in files:
        own = read_table(file)
        seed = int(file.stem.removeprefix("seed")) if file.stem.removeprefix("seed").isdigit() else 0
        parts.append(own.assign(at=folder.name, seed_index=seed, turn=np.arange(len(own))))
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)
    table["id"], table["kind"] = table["id"].astype(str), table["kind"].astype(str)
    table["keep"] = table["keep"].astype(bool)
    table["reason"] = table["reason"].astype(str).where(~table["keep"], KEPT)
    return table.sort_values(["at", "turn", "seed_index"], kind="stable", ignore_index=True)


def ordered(reasons) -> list[str]:
    """Reasons for a refusal in the filter's order, then unknown ones by name; those of what is kept are left out."""
    found = set(map(str, reasons)) - {KEPT, BY_HAND}
    return [r for r in REASONS if r in found] + sorted(found - set(REASONS))


def counted(rounds: list[Path], table: pd.DataFrame | None, counts: dict) -> dict:
    """{"generated", "kept", "reasons", "kinds", "more", "steps", "rounds"} over all rounds and supports.

    From the ledger; where there is none from `counts` of the metrics file or the generated stores. kinds: rows
    {"round", "kind", "generated", "kept", "reasons"}, `more` left out; rounds: the same a round; steps: (reason, lost).
    """
    if table is None:
        reasons = {str(name): int(count) for name, count in (counts.get("reasons") or {}).items()}
        stores = [store for folder in rounds for store in folder.glob("generated/seed*") if store.is_dir()]
        made = counts.get("generated")
        if made is None and stores:
            made = sum(len(read_table(store, columns=["id"])) for store in stores)
        return {"generated": made, "kept": counts.get("kept"), "reasons": reasons, "kinds": [], "more": 0, "rounds": [],
                "steps": [(name, reasons[name]) for name in ordered(reasons)]}  # fmt: skip
    reasons = table["reason"].value_counts()

    def row(part: pd.DataFrame, **named: str) -> dict:
        return named | {"generated": len(part), "kept": int(part["keep"].sum()),
                        "reasons": {str(k): int(v) for k, v in part["reason"].value_counts().items()}}  # fmt: skip

    kinds = [row(part, round=at, kind=kind) for (at, kind), part in table.groupby(["at", "kind"], sort=False)]
    return {
        "generated": len(table),
        "kept": int(table["keep"].sum()),
        "reasons": {str(name): int(count) for name, count in reasons.items()},
        "kinds": kinds[:LISTED],
        "more": max(0, len(kinds) - LISTED),
        "rounds": [row(part, round=at) for at, part in table.groupby("at", sort=False)],
        "steps": [(name, int(reasons[name])) for name in ordered(reasons.index)],
    }


# the borderline


def thresholds(table: pd.DataFrame, limits: dict[str, dict]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """{score column: [(verdict, (N,) threshold of each record)]}, from the ledger or the filter's settings.

    limits: {round's folder: settings of filter}.
    """
    found: dict[str, list] = {}
    for score, rules in THRESHOLDS.items():
        for name, verdict in rules if score in table else ():
            settings = table["at"].map({at: own.get(name) for at, own in limits.items()})
            limit = pd.to_numeric(table.get(name, settings), errors="coerce").to_numpy(float)
            if name == "seam" and "invisible_below" in table:  # a twin must also look odd at all to be a seam
                limit = np.maximum(limit, table["invisible_below"].to_numpy(float))
            if np.isfinite(limit).any():
                found.setdefault(score, []).append((verdict, limit))
    return found


def margins(table: pd.DataFrame, limits: dict[str, dict]) -> pd.DataFrame:
    """Per record its nearest threshold: `margin` (in standard deviations of the score), `near` and `by` (score units).

    A margin is infinite and `near` empty where no threshold is known or all score the same; above one `by` is positive.
    """
    out = pd.DataFrame({"margin": np.inf, "near": "", "by": np.nan}, index=table.index)
    for score, rules in thresholds(table, limits).items():
        value = pd.to_numeric(table[score], errors="coerce").to_numpy(float)
        spread = float(np.std(value[np.isfinite(value)])) if np.isfinite(value).any() else 0.0
        for verdict, limit in rules if spread else ():
            by = value - limit
            margin = np.where(np.isfinite(by), np.abs(by) / spread, np.inf)
            closer = margin < out["margin"].to_numpy()
            out.loc[closer, "margin"], out.loc[closer, "by"] = margin[closer], by[closer]
            out.loc[closer, "near"] = f"{score}|{verdict}"
    return out


def told(near: str, by: float) -> str:
    """`fused 0.004 above the trivial limit`, empty where no threshold is known."""
    if not near or not math.isfinite(by):
        return ""
    score, verdict = near.split("|", 1)
    return f"{score} {figures.number(abs(by))} {'above' if by >= 0 else 'below'} the {verdict} limit"


# histograms


def rarity(p: np.ndarray) -> np.ndarray:
    """-log10(1 - p) of percentiles in [0, 1], at most RARE: 0 at 0 %, 1 at 90 %, 2 at 99 %."""
    return np.minimum(-np.log10(np.maximum(1 - np.clip(p, 0, 1), 10.0**-RARE)), RARE)


def normals(judges: Path) -> np.ndarray:
    """Mean percentile over detectors of the calib normals, each among them all, over supports and folds."""
    from detection.fuse import percentile

    found = []
    for file in sorted(judges.glob("seed*/fold*/reference.json")):
        roles = [np.asarray(own, float) for own in (read_json(file) or {}).values() if isinstance(own, list) and own]
        roles = [own for own in roles if own.shape == roles[0].shape and np.isfinite(own).all()]
        if roles:
            found.append(np.mean([percentile(own, own) for own in roles], axis=0))
    return np.concatenate(found) if found else np.zeros(0)


def anomalies(judges: Path) -> np.ndarray:
    """The support's own out-of-fold fused percentiles, over supports."""
    files = sorted(judges.glob("seed*/real.parquet"))
    parts = [read_table(file, columns=["fused"])["fused"].to_numpy(float) for file in files]
    return np.concatenate(parts) if parts else np.zeros(0)


def histograms(name: str, judges: Path, table: pd.DataFrame | None) -> dict:
    """{"chart": SVG or "", "rows": [{"name", "count", "quantiles"}]}: fused scores of real normals, real anomalies and
    generated records by band; quantiles are the 10, 50 and 90 % ones."""
    rows = [("real normal", normals(judges)), ("real anomaly", anomalies(judges))]
    if table is not None and "fused" in table:
        band = table["band"].astype(str) if "band" in table else pd.Series("generated", table.index)
        names = [b for b in BANDS if (band == b).any()] + sorted(set(band) - set(BANDS))
        rows += [(f"generated, {b}" if b in BANDS else b, table.loc[band == b, "fused"].to_numpy(float))
                 for b in names]  # fmt: skip
        rows.append(("generated, kept", table.loc[table["keep"], "fused"].to_numpy(float)))
    rows = [(label, own[np.isfinite(own)]) for label, own in rows]
    rows = [(label, own) for label, own in rows if len(own)]
    if not rows:
        return {"chart": "", "rows": []}
    every = np.concatenate([own for _, own in rows])
    scaled = bool((every >= 0).all() and (every <= 1).all())
    limits = [(float(table[c].median()), label) for c, label in (("invisible_below", "visible from"),
              ("trivial_above", "trivial from")) if table is not None and c in table]  # fmt: skip
    if scaled:
        shown = [(label, rarity(own)) for label, own in rows]
        edges = np.linspace(0, max(float(max(own.max() for _, own in shown)), 1.0) * 1.02, BINS + 1)
        marks = [(float(rarity(np.array([p]))[0]), f"{100 * p:g} %") for p in (0, 0.5, 0.9, 0.99, 0.999)]
        limits = [(float(rarity(np.array([v]))[0]), label) for v, label in limits if math.isfinite(v)]
    else:
        shown, edges = rows, np.linspace(float(every.min()), float(every.max()) + 1e-9, BINS + 1)
        marks = [(t, f"{t:g}") for t in figures.ticks(edges[0], edges[-1])]
    chart = figures.ridges(
        f"judges' scores of {name}", shown, edges, [m for m in marks if m[0] <= edges[-1]],
        [u for u in limits if math.isfinite(u[0]) and u[0] <= edges[-1]],
        x="percentile among real normals, mean of the judges" if scaled else "score",
    )  # fmt: skip
    quantiles = [{"name": label, "count": len(own), "quantiles": [finite(float(q)) for q in
                  np.quantile(own, (0.1, 0.5, 0.9))]} for label, own in rows]  # fmt: skip
    return {"chart": chart, "rows": quantiles}


# memorisation


def copies(table: pd.DataFrame | None, limits: dict[str, dict]) -> dict | None:
    """{"chart", "kept", "least", "median", "limit", "refused", "pairs"}: how near records are to real anomalies.

    Distances are over the typical one between real anomalies (1: as far apart as those are; 0: a copy). pairs: the kept
    records nearest to one, {"id", "kind", "distance"}; None where no distance is known.
    """
    if table is None or "copy_distance" not in table:
        return None
    apart = table["copy_distance"].where(np.isfinite(table["copy_distance"]))
    kept = table[table["keep"] & apart.notna()].nsmallest(CLOSEST, "copy_distance")
    if not apart.notna().any():
        return None
    rows = [(label, apart[own & apart.notna()].to_numpy(float)) for label, own in
            (("kept", table["keep"]), ("rejected", ~table["keep"]))]  # fmt: skip
    rows = [(label, own) for label, own in rows if len(own)]
    most = max(2.0, float(np.quantile(apart.dropna(), 0.98)))
    edges = np.linspace(0, most, BINS + 1)
    limit = next((float(own["copy"]) for own in limits.values() if finite(own.get("copy")) is not None), None)
    uprights = ([(limit, "copy")] if limit is not None else []) + [(1.0, "real to real")]
    marks = [(t, f"{t:g}") for t in figures.ticks(0, most)]
    axis = "distance over that between real anomalies"
    chart = figures.ridges("distance to the nearest real anomaly", rows, edges, marks, uprights, x=axis)
    own = apart[table["keep"]].dropna()
    return {
        "chart": chart, "kept": len(own), "least": finite(float(own.min())) if len(own) else None,
        "median": finite(float(own.median())) if len(own) else None, "limit": limit,
        "refused": int((table["reason"] == "copy").sum()),
        "pairs": [{"id": r["id"], "kind": r["kind"], "distance": float(r["copy_distance"])}
                  for r in kept.to_dict("records")],
    }  # fmt: skip


# rounds


def feedback(rounds: list[Path], table: pd.DataFrame | None, judges: Path) -> list[dict]:
    """Per round {"round", "generated", "kept", "rows", "diversity", "stop"}: what its verdicts steer the next one to.

    rows as in `steering`, from steer.json, either {seed: {bin: w}} or {seed: {"weights": {bin: w}, "diversity": {name:
    v}, "stop": why}}; weights and diversity are means over seeds.
    """
    out = []
    for folder in rounds:
        own = table[table["at"] == folder.name] if table is not None else None
        steer = read_json(folder / "steer.json") or {}
        seeds = {name: part for name, part in steer.items() if isinstance(part, dict)}
        if not seeds and own is None:
            continue
        out.append({
            "round": folder.name,
            "generated": None if own is None else len(own),
            "kept": None if own is None else int(own["keep"].sum()),
            "rows": steering(seeds, own, judges),
            "diversity": means([part.get("diversity") for part in seeds.values()]),
            "stop": [{"support": name, "why": str(part["stop"])} for name, part in seeds.items() if part.get("stop")],
        })  # fmt: skip
    return out


def means(tables: list) -> dict[str, float]:
    """{name: mean} of the numbers of several dicts, in their order."""
    rows = [{str(k): v for k, v in own.items() if finite(v) is not None} for own in tables if isinstance(own, dict)]
    if not any(rows):
        return {}
    return {str(k): float(v) for k, v in pd.DataFrame(rows).mean().items()}


def steering(seeds: dict[str, dict], own: pd.DataFrame | None, judges: Path) -> list[dict]:
    """{"bin", "weight", "lean", "drawn", "kept", "weak"} of every bin kind|size|severity, heaviest first.

    lean: against the median bin. weak: kept ones that score below the median real anomaly; None where it is not known.
    """
    weights = means([part["weights"] if isinstance(part.get("weights"), dict) else part for part in seeds.values()])
    if not weights:
        return []
    fared, typical = {}, float(np.median(list(weights.values())))
    if own is not None and all(name in own for name in ("kind", "size_bin", "severity_bin")):
        middle = {int(f.parent.name[4:]): float(read_table(f, columns=["fused"])["fused"].median())
                  for f in judges.glob("seed*/real.parquet")}  # fmt: skip
        below = own["fused"] < own["seed_index"].map(middle) if middle and "fused" in own else None
        key = own["kind"] + "|" + own["size_bin"].astype(str) + "|" + own["severity_bin"].astype(str)
        for name, part in own.groupby(key):
            weak = None if below is None else int((below & own["keep"]).loc[part.index].sum())
            fared[name] = {"drawn": len(part), "kept": int(part["keep"].sum()), "weak": weak}
    nothing = {"drawn": 0 if fared else None, "kept": 0 if fared else None, "weak": None}
    return [
        {"bin": name.replace("|", " · "), "weight": weight,
         "lean": "more" if weight > 1.05 * typical else "less" if weight < typical / 1.05 else "as often"}
        | fared.get(name, nothing)
        for name, weight in sorted(weights.items(), key=lambda pair: -pair[1])
    ]  # fmt: skip
