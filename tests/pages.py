"""Small artefacts of every modality for the tests of the report, with a kind whose name would run as a script."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from data.records import Records, concat, make_meta, write_store

EVIL = "<img src=x onerror=alert(1)>"
ARMS = ("real", "standard", "classical", "generated", "dropped", "filtered", "mixed")
NAMES = {"tiles": "image", "pumps": "series", "cards": "row"}


def cell(values):
    values = [float(v) for v in values]
    half = 4.3 * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    mean = float(np.mean(values))
    return {
        "mean": mean,
        "low": None if half is None else mean - half,
        "high": None if half is None else mean + half,
        "values": values,
    }


def payload(modality: str, n: int, rng: np.random.Generator, change: bool = True):
    """x, mask, schema, time of n records; without `change` the same records before their anomalies."""
    if modality == "image":
        x, mask = [], []
        for _ in range(n):
            yy, xx = np.mgrid[:72, :96]
            image = 120 + 20 * np.sin(xx / 7 + rng.uniform(0, 6)) + 8 * rng.standard_normal((72, 96))
            marked = (yy - rng.integers(15, 55)) ** 2 / 40 + (xx - rng.integers(20, 76)) ** 2 / 130 < 1
            image[marked] -= 60 * change
            x.append(image.clip(0, 255).astype(np.uint8))
            mask.append(marked)
        return x, mask, {}, None
    if modality == "series":
        x, mask = [], []
        for _ in range(n):
            wave = np.sin(np.arange(96)[:, None] / np.array([4, 9, 15])) + 0.1 * rng.standard_normal((96, 3))
            marked = np.zeros((96, 3), bool)
            start = rng.integers(20, 60)
            marked[start : start + 18, :2] = True
            wave[marked] += 1.5 * change
            x.append(wave)
            mask.append(marked)
        return x, mask, {"channels": ["pressure", "flow", "temp"]}, [np.arange(96, dtype=np.int64)] * n
    mask = rng.random((n, 3)) < 0.4
    mask[:, 0] = True
    amount = rng.normal(50, 9, n).round(2) + 200 * change
    x = pd.DataFrame(
        {
            "amount": amount,
            "country": pd.array(rng.choice(["DE", "FR"], n), "string"),
            "age": pd.array(rng.integers(18, 80, n), "Int64"),
        }
    )
    schema = {
        "columns": [
            {"name": "amount", "type": "numeric", "nullable": False, "decimals": 2},
            {"name": "country", "type": "categorical", "nullable": False, "categories": ["DE", "FR"]},
            {"name": "age", "type": "integer", "nullable": False},
        ]
    }
    return x, mask, schema, None


def records(
    modality: str,
    n: int,
    prefix: str,
    seed: int = 0,
    *,
    normal: bool = False,
    generated: bool = False,
    kinds=("crack", EVIL),
    hosts: int = 24,
) -> Records:
    rng = np.random.default_rng(seed)
    x, mask, schema, time = payload(modality, n, rng, not normal)
    if normal:
        mask = [np.zeros_like(m) for m in mask] if isinstance(mask, list) else np.zeros_like(mask)
    columns = {
        "id": [f"{prefix}{i}" for i in range(n)],
        "label": 0 if normal else 1,
        "group": "g",
        "source": "s",
        "split": "generated" if generated else "fit" if normal else "support",
        "kind": "normal" if normal else [kinds[i % len(kinds)] for i in range(n)],
    }
    control = None
    if generated:
        columns |= {
            "synthetic": True,
            "host": [f"n{i % hosts}" for i in range(n)],
            "severity": np.linspace(0.5, 2, n),
            "seed": list(range(n)),
            "parents": [["a0"]] * n,
            "generator": "base",
            "mask_source": "bank",
            "round": 1,
        }
        control = payload(modality, n, np.random.default_rng(seed), False)[0]
    return Records(modality, make_meta(n, **columns), x, mask, schema, time, control)


def ledger(generated: Records, seed: int) -> pd.DataFrame:
    """A verdict a record as stage filter leaves it; reasons in turn, so that kept ones are a quarter."""
    n, rng = len(generated), np.random.default_rng(seed)
    reasons = np.array(["kept", "invisible", "trivial", f"seam {EVIL}"])[np.arange(n) // 2 % 4]
    supervised, unsupervised = rng.uniform(0.4, 0.999, (2, n))
    return pd.DataFrame({
        "id": generated.meta["id"], "keep": reasons == "kept", "reason": reasons,
        "band": np.where(reasons == "kept", "informative", np.where(reasons == "trivial", "trivial", "invisible")),
        "invisible_below": 0.7, "trivial_above": 0.95, "seed_index": 0, "round": 1,
        "kind": generated.meta["kind"], "host": generated.meta["host"], "severity": generated.meta["severity"],
        "area": rng.uniform(0.01, 0.2, n), "mask_iou": rng.uniform(0.1, 1, n), "size_bin": "like",
        "severity_bin": np.array(["faint", "strong"])[np.arange(n) % 2], "supervised": supervised,
        "unsupervised": unsupervised, "likelihood": np.nan, "fused": (supervised + unsupervised) / 2,
        "control": rng.uniform(0, 1, n), "duplicate_of": "",
        "copy_distance": np.where(np.arange(n) % 24 == 2, np.inf, rng.uniform(0.02, 2, n)),
    })  # fmt: skip


def build(root: Path, name: str, modality: str, *, n: int = 24, hosts: int = 24, gain=(-0.004, 0.031, 0.066),
          seeds: int = 3) -> None:  # fmt: skip
    """Artefacts of one data set, as the stages leave them: one round of one support."""
    folder, rng = root / "artifacts" / name, np.random.default_rng(3)
    write_store(folder / "records" / "fit", records(modality, hosts, "n", 1, normal=True))
    support = records(modality, 6, "a", 2)
    write_store(folder / "records" / "support", support)
    generated = records(modality, n, "gen", 1, generated=True, hosts=hosts)
    write_store(folder / "r1" / "generated" / "seed0", generated)
    verdicts = ledger(generated, 5)
    (folder / "r1" / "verdicts").mkdir(parents=True)
    verdicts.to_parquet(folder / "r1" / "verdicts" / "seed0.parquet")
    kept = verdicts["keep"].to_numpy()
    write_store(folder / "training", concat([support, generated.take(kept)]))
    weights = {f"{EVIL}|like|strong": 0.75, "crack|like|faint": 0.25}
    write_json(folder / "r1" / "steer.json", {"seed0": {"weights": weights, "diversity": {"coverage": 0.5},
                                                        "stop": f"enough {EVIL}"}})  # fmt: skip
    for k in range(2):
        rows = {"id": support.meta["id"], "kind": support.meta["kind"], "supervised": 0.9, "unsupervised": 0.8,
                "control": np.nan, "fused": rng.uniform(0.7, 0.99, 6)}  # fmt: skip
        (folder / "judges" / f"seed{k}" / "fold0").mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / "judges" / f"seed{k}" / "real.parquet")
        reference = {role: rng.random(20).tolist() for role in ("supervised", "unsupervised")}
        write_json(folder / "judges" / f"seed{k}" / "fold0" / "reference.json", reference)
    for path in (folder / "base", folder / "adapters" / "seed0", folder / "adapters" / "seed1"):
        path.mkdir(parents=True)
        steps = np.arange(1, 900)
        losses = pd.DataFrame({"step": steps, "loss": 2 / steps**0.5 + rng.uniform(0, 0.05, 899)})
        losses.to_csv(path / "loss.csv", index=False)
    (folder / "evaluation").mkdir()
    recall = np.linspace(0, 1, 60)
    curves = [pd.DataFrame({"arm": a, "recall": recall, "precision": 1 - recall**(2 + i)}) for i, a in enumerate(ARMS)]
    pd.concat(curves).to_csv(folder / "evaluation" / "pr.csv", index=False)
    write_json(folder / "splits.json", {"supports": [["a1", "a3", "a2", "a5"]], "folds": []})
    write_json(folder / "summary.json", {"counts": {"fit": n, "support": 6},
                                         "findings": [f"the pool holds 6 anomalies, {EVIL}"],
                                         "quarantine": [{"item": f"bad/{EVIL}.png", "reason": "not an image"}]})
    candidate = {"arm": "mixed", "detector": "forest", "weight": 0.5, "fuse": False}
    write_json(folder / "gate.json", {
        "metric": "pixel_ap", "accepted": True, "chosen": candidate, "reference": candidate | {"arm": "classical"},
        "gain": cell([0.02, 0.03, 0.05]), "candidates": [candidate | {"mean": 0.5}, candidate | {"mean": 0.6}],
        "seeds": [], "sentence": f"Generated records were taken, {EVIL}.",
    })  # fmt: skip
    check = {"name": "near-duplicates", "passed": True, "figure": 0.4, "limit": 0.05, "pairs": [], "detail": "no pair"}
    write_json(folder / "audit.json", {"passed": True, "checks": [check, check | {"name": f"shortcut {EVIL}"}]})
    write_json(folder / "fidelity.json", {"kinds": {"crack": {"kid": 0.1}, EVIL: {"kid": None}}, "all": {"kid": 0.2}})
    metrics = {"image_ap": 0.3, "pixel_ap": 0, "image_auroc": 0.3, "pixel_auroc": 0.2}
    arms = {a: {m: cell(0.4 + 0.03 * i + b + 0.02 * rng.standard_normal(seeds)) for m, b in metrics.items()}
            for i, a in enumerate(ARMS)}  # fmt: skip
    low, mean, high = gain if seeds > 1 else (None, gain[1], None)
    write_json(root / "metrics" / f"{name}.json", {
        "modality": modality, "arms": arms, "counts": {"generated": n, "kept": int(kept.sum())},
        "gain": {"metric": "pixel_ap", "arm": "mixed", "over": "classical", "mean": mean, "low": low, "high": high},
        "detectors": {d: {"image_ap": cell(0.5 + 0.1 * rng.random(seeds))}
                      for d in ("unsupervised", "likelihood_ratio", "fused")},
    })  # fmt: skip


def ablate(root: Path, name: str) -> None:
    """reports/ablation.json with a finished and a failed cell, a correlation and two label-efficiency curves."""
    row = {"cell": f"no filter {EVIL}", "axes": {"filter": "off"}, "dataset": name, "metrics": {"gain": 0.01},
           "fidelity": {"kid": 0.2}, "status": "ok", "change": {"mixed": {"mean": 0.02, "low": -0.01, "high": 0.05}}}
    curve = [{"dataset": name, "arm": arm, "k": k, "mean": m + k / 100, "low": m, "high": m + 0.3}
             for arm, m in (("real", 0.3), ("mixed", 0.4)) for k in (5, 10, 20)]  # fmt: skip
    write_json(root / "reports" / "ablation.json", {
        "rows": [row, row | {"cell": "broken", "status": "FAILED", "metrics": {}, "change": None}],
        "correlations": [{"fidelity": "kid", "gain": "pixel_ap", "rho": -0.4, "low": -0.8, "high": 0.1}],
        "label_efficiency": curve,
    })  # fmt: skip


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
