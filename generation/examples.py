"""Training batches: a pool of examples for base and adapter, a modality each; a batch depends on its step alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data.records import Records
from generation import images
from generation.masks import random_mask

Batch = dict[str, Tensor]
OUTSIDE = 0.03  # loss weight of what is known anyway


def rng_of(*numbers: int) -> np.random.Generator:
    """A generator of its own for these numbers, whatever was drawn before."""
    return np.random.default_rng([int(n) for n in numbers])


def tensors(device: str, **arrays: np.ndarray) -> Batch:
    """float32 (kinds: int64) tensors on `device`."""
    return {
        name: torch.as_tensor(a, dtype=torch.long if name == "kind" else torch.float32, device=device)
        for name, a in arrays.items()
    }


def kind_numbers(records: Records, kinds: list[str]) -> np.ndarray:
    """(N,) numbers of the network: 0 normal, i + 1 for kinds[i]."""
    number = {kind: i + 1 for i, kind in enumerate(kinds)}
    return np.array([number.get(kind, 0) for kind in records.meta["kind"]], dtype=np.int64)


# images


def image_crops(records: Records, *, size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`count` crops of normals (N, 3, S, S) with random holes (N, 1, S, S)."""
    crops, holes = [], []
    for i in range(count):
        rng = rng_of(seed, i)
        image = records.x[int(rng.integers(len(records)))]
        patch = images.take(image, images.normal_box(rng, image.shape[:2], size), size)
        crops.append(images.orient(rng, patch)[0])
        holes.append(random_mask(rng, (size, size), modality="image")[None].astype(np.float32))
    return np.stack(crops), np.stack(holes)


def defect_crops(support: Records, *, size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`count` crops round the support's defects, their masks, and which record each is of, every record in turn."""
    crops, masks, owner = [], [], []
    for i in range(count):
        rng, which = rng_of(seed, i), i % len(support)
        image, mask = support.x[which], support.mask[which]
        box = images.defect_box(rng, mask, size)
        patch, share = images.orient(rng, images.take(image, box, size), images.take_mask(mask, box, size))
        gain, shift = rng.uniform(0.9, 1.1), rng.uniform(-0.08, 0.08)
        crops.append(np.clip(patch * gain + shift, -1, 1))
        masks.append(share)
        owner.append(which)
    return np.stack(crops), np.stack(masks), np.array(owner)


# series


def stitch(records: Records) -> list[np.ndarray]:
    """Neighbouring windows of an entity joined into runs (T, C), in time order; others stand alone."""
    order = records.meta.sort_values(["group", "start"]).index
    runs: list[list[np.ndarray]] = []
    last: tuple[str, int] | None = None
    for i in order:
        group, start, x = records.meta.at[i, "group"], int(records.meta.at[i, "start"]), records.x[i]
        if last == (group, start):
            runs[-1].append(x)
        else:
            runs.append([x])
        last = (group, start + len(x))
    return [np.concatenate(run) for run in runs]


def series_windows(codec, records: Records) -> Callable[[np.random.Generator], np.ndarray]:
    """A drawer of encoded windows (C, T) at any offset of the normal runs."""
    length = len(records.x[0])
    runs = []
    for run in stitch(records):
        whole = Records(
            "series",
            records.meta.iloc[:1].reset_index(drop=True),
            [run],
            [np.zeros(run.shape, bool)],
            records.schema,
            [np.arange(len(run))],
        )
        runs.append(codec.encode(whole)[0][0].astype(np.float32))  # (C, T)
    places = np.array([run.shape[1] - length + 1 for run in runs], dtype=float)
    share = places / places.sum()

    def draw(rng: np.random.Generator) -> np.ndarray:
        run = runs[int(rng.choice(len(runs), p=share))]
        start = int(rng.integers(run.shape[1] - length + 1))
        return run[:, start : start + length]

    return draw


# batches


def base_batches(base, fit: Records, *, batch: int, seed: int, pool: int) -> Callable[[int], Batch]:
    """Batches of normals under random masks, kind 0, for the base of any modality."""
    device = base.device
    if base.modality == "image":
        size = base.config["settings"]["size"]
        store = images.examples(base.latent, *image_crops(fit, size=size, count=pool, seed=seed), device)

        def draw(step: int) -> Batch:
            index = torch.as_tensor(rng_of(seed, step).integers(len(store["x0"]), size=batch), device=device)
            return {**{k: v[index] for k, v in store.items()}, **tensors(device, kind=np.zeros(batch))}

        return draw
    window = series_windows(base.codec, fit) if base.modality == "series" else None
    rows = base.codec.encode(fit)[0].astype(np.float32) if base.modality == "row" else None

    def draw(step: int) -> Batch:
        rng = rng_of(seed, step)
        x0 = np.stack([window(rng) for _ in range(batch)]) if window else rows[rng.integers(len(rows), size=batch)]
        return masked(x0, np.stack([hole(base, rng, x0.shape[1:]) for _ in range(batch)]), np.zeros(batch), device)

    return draw


def hole(base, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random hole for a window (C, T) or a row (F,); one time in four a row is wholly hidden, for its likelihood."""
    if base.modality == "series":
        return random_mask(rng, shape[::-1], modality="series").T
    column = np.asarray(base.codec.feature_column)
    if rng.random() < 0.25:
        return np.ones(len(column), bool)
    return random_mask(rng, (int(column.max()) + 1,), modality="row")[column]


def masked(x0: np.ndarray, hole: np.ndarray, kind: np.ndarray, device: str) -> Batch:
    """x0, known, mask, weight, kind of encoded records and boolean holes of the same shape."""
    hole = hole.astype(np.float32)
    weight = OUTSIDE + (1 - OUTSIDE) * hole
    return tensors(device, x0=x0, known=x0 * (1 - hole), mask=hole, weight=weight, kind=kind)


def adapter_batches(
    base, fit: Records, support: Records, kinds: list[str], *, batch: int, seed: int, pool: int, prior: float
) -> Callable[[int], Batch]:
    """Batches of support anomalies under their own masks, `prior` of each batch normals under random ones.

    The normals keep kind 0: with the adapter on and no kind, the network goes on making what is normal
    (prior preservation, arXiv:2208.12242).
    """
    kind = kind_numbers(support, kinds)
    normal = min(round(batch * prior), batch - 1)  # an anomaly at least
    odd = batch - normal
    if normal:
        normals = base_batches(base, fit, batch=normal, seed=seed + 1, pool=pool)
    anomalies = anomaly_examples(base, support, fit, kind, count=pool, seed=seed)
    balance = kind_balance(anomalies["kind"])

    def draw(step: int) -> Batch:
        rng = rng_of(seed, 7, step)
        index = torch.as_tensor(rng.choice(len(balance), size=odd, p=balance), device=base.device)
        part = {k: v[index] for k, v in anomalies.items()}
        if not normal:
            return part
        other = normals(step)
        return {k: torch.cat([part[k], other[k]]) for k in part}

    return draw


def kind_balance(kind: Tensor) -> np.ndarray:
    """Probabilities that give each kind the same share of a batch."""
    kind = kind.cpu().numpy()
    share = np.array([1 / np.sum(kind == k) for k in kind])
    return share / share.sum()


def anomaly_examples(base, support: Records, fit: Records, kind: np.ndarray, *, count: int, seed: int) -> Batch:
    """Training tensors of the support set, varied by crop and orientation (images) or by hosts (series)."""
    device = base.device
    if base.modality == "image":
        size = base.config["settings"]["size"]
        crops, masks, owner = defect_crops(support, size=size, count=count, seed=seed)
        return {**images.examples(base.latent, crops, masks, device), **tensors(device, kind=kind[owner])}
    if base.modality == "row":
        x0, _ = base.codec.encode(support)
        rng = rng_of(seed, 3)
        repeat = max(1, count // len(x0))
        x0, kind = np.repeat(x0, repeat, axis=0), np.repeat(kind, repeat)
        return masked(x0, np.stack([hole(base, rng, x0.shape[1:]) for _ in x0]), kind, device)
    from generation.classical.series import Channels, paste

    rng = rng_of(seed, 3)
    hosts = fit.take(rng.integers(len(fit), size=count))
    seen = Channels.of(fit, support, base.codec)
    pasted = paste(hosts, support, [int(s) for s in rng.integers(2**31, size=count)], seen=seen)
    x, mask = base.codec.encode(support)
    x_pasted, mask_pasted = base.codec.encode(pasted)
    repeat = max(1, count // (2 * len(x)))  # a third real, the rest the real deviations on other hosts
    x0 = np.concatenate([np.repeat(x, repeat, axis=0), x_pasted]).astype(np.float32)
    holes = np.concatenate([np.repeat(mask, repeat, axis=0), mask_pasted])
    number = {k: n for k, n in zip(support.meta["kind"], kind)}
    kinds = np.concatenate([np.repeat(kind, repeat), [number[k] for k in pasted.meta["kind"]]])
    return masked(x0, np.broadcast_to(holes, x0.shape), kinds, device)
