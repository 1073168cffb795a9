"""Guided masked sampling: real hosts edited where the plan says, one seed a record, its adapter-off twin beside.

Rows have no twin: their host is an anomaly, so that nothing could be told from one.
"""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.records import Records, bare, concat
from generation import images
from generation.diffusion import guided, karras_sigmas, keeping, noise, sample_together, truncated
from generation.limits import within
from generation.masks import (
    deviation,
    image_mask,
    image_place,
    nuisance_cells,
    placed,
    random_mask,
    series_mask,
    series_place,
)
from generation.model import Adapter
from generation.paste import generated_meta, paste_images, paste_series
from generation.plan import PLACES, pick

# records denoised at once, see in_batches
BATCH = {"image": 16, "series": 32, "row": 192}
PART = {"image": 16, "series": 512, "row": 2048}  # records prepared and yielded at once
# rows, see row_chunk
CROSSED = (0.2, 1.0)  # share of a row's cells that come from a mate
LONE = (0.4, 1.0)  # strengths for a parent without a mate


def denoise_all(
    adapter: Adapter,
    plan: pd.DataFrame,
    x: np.ndarray,
    known: np.ndarray,
    mask: np.ndarray,
    strengths: np.ndarray,
    *,
    steps: int,
    sampler: str,
    sigma_max: float,
    edit: np.ndarray | None = None,
    scale: float = 1.0,
    kind_noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(generated, control), each like x (N, C, *L). x: the hosts; edit: what is noised in their place, such as a host
    with an exemplar; strengths: (N,) of the noise.

    Both faces start from the same noise; the control starts from the host itself, and for rows it is the host.
    """
    base, seeds = adapter.base, plan["seed"].to_numpy()

    def there(values) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=base.device)

    number = {kind: i + 1 for i, kind in enumerate(adapter.kinds)}
    scale = scale * np.array([adapter.scales[k] for k in plan["kind"]]) * plan["severity_factor"].to_numpy()
    host, cfg = there(x).float(), there(scale).float()
    cond = {"known": there(known).float(), "mask": there(mask).float()}
    cond["kind"] = there([number[k] for k in plan["kind"]])
    hole = cond["mask"][:, -1:] if host.ndim == 4 else cond["mask"]
    levels = np.unique(strengths)
    groups = [np.flatnonzero(strengths == level) for level in levels]
    ceiling = getattr(base.denoiser, "sigma_max", sigma_max)  # what a pretrained schedule ends on
    sigmas = karras_sigmas(steps, min(sigma_max, ceiling))
    schedules = [truncated(sigmas, float(level)) for level in levels]

    def noised(clean: Tensor) -> list[Tensor]:
        return [clean[g] + float(s[0]) * noise(list(seeds[g]), tuple(x.shape[1:])).to(clean)
                for g, s in zip(groups, schedules)]  # fmt: skip

    def ungrouped(parts: list[Tensor]) -> np.ndarray:
        return torch.cat(parts)[np.argsort(np.concatenate(groups))].cpu().numpy()

    def normal(x: Tensor, sigma: Tensor, index: np.ndarray, **cond) -> Tensor:
        return adapter.denoise_base(x, sigma, **cond)

    def steered(x: Tensor, sigma: Tensor, index: np.ndarray, **cond) -> Tensor:
        with adapter.jittered(list(seeds[index]), kind_noise):
            return guided(adapter.denoise_base, adapter.denoise, cfg[index])(x, sigma, **cond)

    def face(denoise):
        return lambda x, sigma, which: in_batches(denoise, x, sigma, np.concatenate([groups[i] for i in which]))

    def in_batches(denoise, x: Tensor, sigma: float, index: np.ndarray) -> Tensor:
        """Batches of one size, short ones padded: a record's bits do not depend on how many others there are."""
        size, out = BATCH[base.modality], []
        for low in range(0, len(index), size):
            own = np.resize(np.arange(low, min(low + size, len(index))), size)
            rows = index[own]
            given = {name: value[rows] for name, value in cond.items()}
            call = keeping(partial(denoise, index=rows, **given), host[rows], hole[rows])
            out.append(call(x[own], x.new_full((size,), sigma)))
        return torch.cat(out)[: len(index)]

    made = sample_together(face(steered), noised(host if edit is None else there(edit).float()), schedules, sampler)
    row = base.modality == "row"
    control = x if row else finite(ungrouped(sample_together(face(normal), noised(host), schedules, sampler)), x)
    return finite(ungrouped(made), control), control


def finite(made: np.ndarray, instead: np.ndarray) -> np.ndarray:
    """Records (N, ...) of which those that hold NaN or infinity are `instead`: nothing was made, and the filter refuses
    them as unchanged, rows as copies. A warning says how many."""
    fine = np.isfinite(made).all(axis=tuple(range(1, made.ndim)), keepdims=True)
    if not fine.all():
        warnings.warn(f"{(~fine).sum()} of {len(made)} records came out as NaN or infinity: not used", stacklevel=2)
    return np.where(fine, made, instead)


def record_rng(seed: int) -> np.random.Generator:
    """The generator of a record's own choices, apart from the one the plan used."""
    return np.random.default_rng([int(seed), 1])


# images


def image_chunk(
    adapter: Adapter,
    hosts: Records,
    support: Records,
    plan: pd.DataFrame,
    *,
    steps: int,
    strength: float,
    sampler: str,
    sigma_max: float,
    scale: float = 1.0,
    kind_noise: float = 0.0,
    masks: str = "bank",
) -> Records:
    """One chunk of image records: host, mask from the bank, native crop, inpaint, paste, realised mask."""
    latent, size, device = adapter.base.latent, adapter.base.config["settings"]["size"], adapter.base.device
    holes, boxes = [], []
    for row in plan.itertuples():
        rng = record_rng(row.seed)
        shape = hosts.x[row.host].shape[:2]
        draw = partial(image_mask, rng, support, row.parent, shape, size=row.size_factor)
        draw = draw if masks == "bank" else partial(random_mask, rng, shape, modality="image")
        holes.append(placed(draw, image_place, row.place))
        boxes.append(images.defect_box(rng, holes[-1], size))
    crops = torch.from_numpy(np.stack([images.take(hosts.x[h], box, size) for h, box in zip(plan["host"], boxes)]))
    shares = torch.from_numpy(np.stack([images.take_mask(m, box, size) for m, box in zip(holes, boxes)]))
    x, known, channels = encode(latent, crops.to(device), shares.to(device))
    made, control = denoise_all(
        adapter, plan, x, known, channels, np.full(len(plan), strength),
        steps=steps, sampler=sampler, sigma_max=sigma_max, scale=scale, kind_noise=kind_noise,
    )  # fmt: skip
    crops = decode(latent, made, device), decode(latent, control, device)
    return paste_images(hosts, support, plan, holes, boxes, *crops, source=masks)


def encode(latent, crops: Tensor, shares: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(latents, known, mask channels) of crops (N, 3, S, S) one at a time: a record ignores its neighbours."""
    parts = []
    for i in range(len(crops)):
        cond = images.condition(latent, crops[i : i + 1], shares[i : i + 1])
        parts.append((latent.encode(crops[i : i + 1]), cond["known"], cond["mask"]))
    return tuple(torch.cat(part).float().cpu().numpy() for part in zip(*parts))


def decode(latent, z: np.ndarray, device: str) -> np.ndarray:
    """Crops (N, 3, S, S) in [-1, 1] of latents, one at a time for the same reason."""
    parts = [latent.decode(torch.as_tensor(z[i : i + 1], device=device)) for i in range(len(z))]
    return torch.cat(parts).float().cpu().numpy()


# series


def series_chunk(
    adapter: Adapter,
    hosts: Records,
    support: Records,
    plan: pd.DataFrame,
    *,
    steps: int,
    strength: tuple[float, float],
    sampler: str,
    sigma_max: float,
    scale: float = 1.0,
    kind_noise: float = 0.0,
    masks: str = "bank",
) -> Records:
    """One chunk of windows: an exemplar's deviation laid on the host, noised to a strength of its own, denoised.

    A record's strength is drawn from its seed, one of four levels; at full strength there is only the exemplar's mask.
    """
    from generation.classical.series import Channels, Exemplar, paste_one

    codec = adapter.base.codec
    chosen, seen = hosts.take(plan["host"].to_numpy()), Channels.of(hosts, support, codec)
    holes, pasted, strengths = [], [], []
    for host, row in zip(chosen.x, plan.itertuples()):
        rng = record_rng(row.seed)
        strengths.append(float(rng.choice(np.linspace(*strength, 4))))
        exemplar = Exemplar.draw(rng, support.x[row.parent], support.mask[row.parent], seen)
        draw = partial(paste_one, rng, host, exemplar, seen, row.severity_factor, (row.size_factor,) * 2)
        edit, mask, _ = placed(draw, lambda e: series_place(e[1]) if e[1].any() else "", row.place)
        fresh = strengths[-1] == 1 or masks == "random" or not mask.any()
        draw = partial(series_mask, rng, exemplar.marked, host.shape, size=row.size_factor)
        draw = draw if masks == "bank" else partial(random_mask, rng, host.shape, modality="series")
        holes.append(placed(draw, series_place, row.place) if fresh else mask)
        pasted.append(host if fresh else edit)
    laid = Records("series", chosen.meta, pasted, holes, chosen.schema, chosen.time)
    x = codec.encode(chosen)[0].astype(np.float32)
    hole = np.stack(holes).transpose(0, 2, 1).astype(np.float32)
    edit = np.where(hole > 0, codec.encode(laid)[0], x).astype(np.float32)
    made, control = denoise_all(
        adapter, plan, x, x * (1 - hole), hole, np.array(strengths), edit=edit,
        steps=steps, sampler=sampler, sigma_max=sigma_max, scale=scale, kind_noise=kind_noise,
    )  # fmt: skip
    return paste_series(
        codec, seen, chosen, hosts, support, plan, np.stack(holes), x, made, control, strengths, source=masks
    )


# rows


def row_chunk(
    adapter: Adapter,
    hosts: Records,
    support: Records,
    plan: pd.DataFrame,
    *,
    steps: int,
    strength: tuple[float, float],
    sampler: str,
    sigma_max: float,
    share: float,
    scale: float = 1.0,
    kind_noise: float = 0.0,
) -> Records:
    """One chunk of rows, each made of a real anomaly (the plan's parent, its host) and denoised as an anomaly.

    Some of its cells come from its mates, each from any of them, as if columns did not depend on each other; noise of a
    `strength`, of its lower half for `slight` records and its upper half for `strong` ones, lets the denoiser put right
    what does not go together. Noised parents alone, crossed with none, are too alike: detectors learn the ten
    anomalies again, and less of them. A parent without a mate keeps the cells in which it deviates from normals, and
    of the others a `share` is made anew at the strengths LONE.
    """
    codec = adapter.base.codec
    chosen = support.take(plan["parent"].to_numpy())
    column, count = np.asarray(codec.feature_column), len(codec.columns)
    normals, real = (codec.encode(part)[0].astype(np.float32) for part in (hosts, support))
    lone = {row.parent for row in plan.itertuples() if len(row.mates) < 2}
    far = {parent: deviation(real[parent], normals, codec) for parent in sorted(lone)}
    levels = dict(zip(PLACES["row"], np.linspace(*strength, 4).reshape(2, 2)))
    cells, strengths, donors = [], [], []
    for row in plan.itertuples():
        rng, donor, cell = record_rng(row.seed), np.full(count, row.parent), np.ones(count, bool)
        if len(row.mates) > 1:
            crossed = rng.random(count) < rng.uniform(*CROSSED)
            donor = np.where(crossed, pick(rng, row.mates, count), donor)
            strengths.append(float(pick(rng, levels[row.place])))
        else:
            cell = nuisance_cells(rng, far[row.parent], support.mask[row.parent], share=share)
            strengths.append(float(rng.choice(np.linspace(*LONE, 4))))
        cells.append(cell)
        donors.append(donor)
    cells, donors = np.stack(cells), np.stack(donors)
    x, hole = real[plan["parent"].to_numpy()], cells[:, column].astype(np.float32)
    made, _ = denoise_all(
        adapter, plan, x, x * (1 - hole), hole, np.array(strengths), steps=steps, sampler=sampler, sigma_max=sigma_max,
        edit=real[donors[:, column], np.arange(len(column))], scale=scale, kind_noise=kind_noise,
    )  # fmt: skip
    meta = generated_meta(
        plan,
        hosts,
        support,
        source="label",
        area=cells.mean(1).tolist(),
        mask_iou=1.0,
        intended_area=cells.mean(1).tolist(),
        changed=[list(map(bool, c)) for c in cells],
        strength=strengths,
    )
    names = support.meta["id"].to_numpy()
    meta["host"], meta["group"] = list(chosen.meta["id"]), list(chosen.meta["group"])
    meta["parents"] = [list(dict.fromkeys(names[[parent, *own]])) for parent, own in zip(plan["parent"], donors)]
    mask = np.stack(list(support.mask))[donors, np.arange(count)]
    rows = within(codec.decode(made, chosen, cells), concat([bare(hosts), bare(support)]))
    return Records("row", meta, rows, mask, hosts.schema, None)


GENERATE = {"image": image_chunk, "series": series_chunk, "row": row_chunk}


@torch.no_grad()
def generate(adapter: Adapter, hosts: Records, support: Records, plan: pd.DataFrame, **settings):
    """Yield Records chunk by chunk in plan order; memory does not grow with the length of the plan."""
    make, part = GENERATE[adapter.base.modality], PART[adapter.base.modality]
    for start in range(0, len(plan), part):
        yield make(adapter, hosts, support, plan.iloc[start : start + part], **settings)
