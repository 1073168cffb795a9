"""Tiny data sets and settings of every modality, for tests that train in a second."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data.records import Records, make_meta

SETTINGS = {
    "image": {"size": 16, "steps": 6, "batch": 8, "lr": 1e-3, "widths": [16, 16], "layers": 1, "pool": 16,
              "latent": {"kind": "pixels", "channels": 3, "factor": 2, "width": 8, "steps": 0, "lr": 1e-3}},
    "series": {"steps": 6, "batch": 8, "lr": 1e-3, "patch": 4, "width": 16, "depth": 1, "pool": 8},
    "row": {"steps": 6, "batch": 8, "lr": 1e-3, "width": 16, "depth": 1, "pool": 8},
}  # fmt: skip
ADAPT = {"rank": 2, "steps": 4, "batch": 8, "lr": 1e-2, "pool": 8, "prior": 0.25}
SAMPLING = {
    "image": {"steps": 3, "strength": 1.0, "sampler": "dpmpp_2m", "sigma_max": 10.0},
    "series": {"steps": 3, "strength": (0.4, 1.0), "sampler": "dpmpp_2m", "sigma_max": 10.0},
    "row": {"steps": 3, "strength": (0.2, 0.65), "sampler": "heun", "sigma_max": 10.0, "share": 0.5},
}  # fmt: skip
MODALITIES = tuple(SETTINGS)


def make(modality: str, normals: int = 12, odd: int = 4, seed: int = 0) -> tuple[Records, Records]:
    """(fit, support): normals and anomalies of two kinds, each record its own group."""
    rng = np.random.default_rng(seed)
    n = normals + odd
    label = np.r_[np.zeros(normals, int), np.ones(odd, int)]
    kind = ["normal"] * normals + [f"k{i % 2}" for i in range(odd)]
    meta = make_meta(n, id=[f"{modality}{i}" for i in range(n)], split="fit", label=list(label), kind=kind)
    x, mask, schema, time = {"image": images, "series": windows, "row": rows}[modality](rng, label)
    records = Records(modality, meta, x, mask, schema, time)
    return records.where(label=0), records.where(label=1).with_meta(split="support")


def images(rng, label):
    x, mask = [], []
    for odd in label:
        image = rng.integers(90, 130, (24, 30)).astype(np.uint8)
        hole = np.zeros(image.shape, bool)
        if odd:
            top, left = rng.integers(4, 14, 2)
            hole[top : top + 5, left : left + 6] = True
            image[hole] = 230
        x.append(image)
        mask.append(hole)
    return x, mask, {}, None


def windows(rng, label):
    x, mask, step = [], [], np.arange(32)
    for odd in label:
        value = np.stack([np.sin(step / 3 + rng.uniform(0, 6)), np.cos(step / 5)], axis=1) + rng.normal(
            0, 0.05, (32, 2)
        )
        hole = np.zeros(value.shape, bool)
        if odd:
            start = int(rng.integers(4, 20))
            hole[start : start + 8, 0] = True
            value[hole] += 3
        x.append(value)
        mask.append(hole)
    return x, mask, {"channels": ["a", "b"]}, [np.arange(32) for _ in label]


def rows(rng, label):
    n = len(label)
    frame = pd.DataFrame({
        "amount": rng.normal(size=n) + 4 * label,
        "count": pd.array(rng.integers(0, 9, n), dtype="Int64"),
        "shop": pd.array(rng.choice(["x", "y", "z"], n), dtype="string"),
        "known": rng.normal(size=n),
    })  # fmt: skip
    frame.loc[::5, "known"] = np.nan
    columns = [
        {"name": "amount", "type": "numeric", "nullable": False},
        {"name": "count", "type": "integer", "nullable": False},
        {"name": "shop", "type": "categorical", "nullable": False, "categories": ["x", "y", "z"]},
        {"name": "known", "type": "numeric", "nullable": True},
    ]  # fmt: skip
    return frame, np.repeat(label.astype(bool)[:, None], 4, axis=1), {"columns": columns}, None


def folds(*parts: Records) -> dict[str, int]:
    """Two folds over all records."""
    return {name: i % 2 for part in parts for i, name in enumerate(part.meta["id"])}
