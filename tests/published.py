"""What the stages leave of a tiny data set, as the stage publish finds it: stores, ledger, gate, audit, metrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tiny
import yaml

from data.records import Records, concat, write_store

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"image": "tiles", "series": "pumps", "row": "claims"}
STAMPS = 1_600_000_000 * 10**9  # ns since the epoch, a date of 2020


def stores(modality: str) -> dict[str, Records]:
    """training (real and kept synthetic), calib and test records."""
    fit, support = tiny.make(modality)
    other, odd = tiny.make(modality, seed=1)
    calib = renamed(other.take(range(5)), "c", "calib")
    test = renamed(concat([other.take(range(5, 12)), odd]), "t", "test")
    made = support.take([0, 1, 2]).with_meta(
        id=["gb", "gc", "ga"], split="generated", synthetic=True, host=list(fit.meta["id"][:3]), severity=1.5,
        parents=[[name] for name in support.meta["id"][:3]], seed=[2**53 - 1, 7, 8], round=1, generator="diffusion-ab",
        mask_source="bank", group=["gb", "gc", "ga"])  # fmt: skip
    made.meta["band"] = "like"
    train = concat([fit, support, made])
    if modality == "series":
        train, calib, test = (dated(part) for part in (train, calib, test))
    return {"training": train, "calib": calib, "test": test}


def renamed(records: Records, mark: str, split: str) -> Records:
    names = [f"{mark}{i}" for i in range(len(records))]
    return records.with_meta(id=names, group=names, split=split)


def dated(records: Records) -> Records:
    return Records(records.modality, records.meta, records.x, records.mask, records.schema,
                   [STAMPS + np.arange(len(x), dtype=np.int64) * 60 * 10**9 for x in records.x])  # fmt: skip


def ledger() -> pd.DataFrame:
    """Verdicts of the three that were kept and two that were not."""
    return pd.DataFrame({
        "id": ["ga", "gb", "gc", "gd", "ge"], "keep": [True, True, True, False, False],
        "reason": ["kept", "kept", "kept", "copy", "seam"], "band": ["like", "easy", "like", "", ""],
        "area": [0.05, 0.04, 0.03, 0.02, 0.01], "mask_iou": [0.9, 0.8, 0.7, 0.6, 0.5],
        "fused": [0.5, 1.25, np.nan, 2, 3], "supervised": [0.1, 0.2, 0.3, 0.4, 0.5],
        "copy_distance": [0.5, 0.75, 1.0, 0.01, 0.8], "rank": [3, 2, 1, 4, 5],
    })  # fmt: skip


def place(root: Path, *modalities: str, **publish: object) -> Path:
    """`root` with params.yaml and everything below artifacts/ and metrics/ for one data set a modality."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    source = {"reader": "demo", "path": "data/demo.py"}
    raw["datasets"] = {NAMES[m]: {"modality": m, "source": source} for m in modalities}
    raw["publish"] = {"enabled": False, "repo": "", "private": True, "licence": "cc-by-4.0", **publish}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    for modality in modalities:
        fill(root, modality)
    return root


def fill(root: Path, modality: str, **changed: Records) -> Path:
    """artifacts/<name>; changed: stores in place of `stores(modality)`."""
    name = NAMES[modality]
    home, made = root / "artifacts" / name, stores(modality) | changed
    rows = {"training": 8, "calib": None, "test": None}  # three shards of training
    for part, folder in (("training", "training"), ("calib", "records/calib"), ("test", "test")):
        write_store(home / folder, made[part], rows[part])
    (home / "r1" / "verdicts").mkdir(parents=True, exist_ok=True)
    ledger().to_parquet(home / "r1" / "verdicts" / "seed0.parquet")
    gate = {"accepted": True, "sentence": "Generated records helped on held-out folds (+0.030)."}
    (home / "gate.json").write_text(json.dumps(gate))
    check = {"name": "near duplicates", "passed": True, "figure": 0.01, "limit": 0.05, "pairs": [], "detail": ""}
    (home / "audit.json").write_text(json.dumps({"passed": True, "checks": [check]}))
    gain = {"metric": "ap", "arm": "mixed", "over": "classical", "mean": 0.03, "low": -0.01, "high": 0.07,
            "values": [0.02, 0.03, 0.04]}  # fmt: skip
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics" / f"{name}.json").write_text(json.dumps({"gain": gain}))
    return home
