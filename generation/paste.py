"""What was denoised, back on its hosts: feathered or tapered in, labelled where it differs from its twin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from data.records import Records, make_meta
from generation.masks import image_place, series_place

FEATHER = 1.5  # pixels over which a paste fades in
TAPER = 0.08  # share of a span over which a series edit fades in
CHANGED_IMAGE = 0.02  # least change, of the full range, that counts as anomalous
CHANGED_SERIES = 0.15  # the same in units of the channel (its robust std)
RELATIVE = 0.2  # and at least this share of the record's own strong change


def generated_meta(
    plan: pd.DataFrame, hosts: Records, support: Records, *, source: str = "bank", **columns
) -> pd.DataFrame:
    """META of generated records from their plan rows. source: of the masks, `bank` of the parent's own reshaped,
    `label` of its own as it is, or `random`."""
    host = hosts.meta.iloc[plan["host"]].reset_index(drop=True)
    parent = support.meta.iloc[plan["parent"]].reset_index(drop=True)
    plan = plan.reset_index(drop=True)
    return make_meta(
        len(plan),
        id=[f"g{s:x}" for s in plan["seed"]], split="generated", label=1, kind=list(plan["kind"]),
        group=list(host["group"]), source=list(host["source"]), start=list(host["start"]), synthetic=True,
        host=list(host["id"]), parents=[[p] for p in parent["id"]], severity=list(plan["severity_factor"]),
        seed=list(plan["seed"]),
        mask_source=["random" if source == "random" else f"{source}:{p}" for p in parent["id"]],
        size_bin=list(plan["size"]), severity_bin=list(plan["severity_bin"]), host_bin=list(plan["host_bin"]),
        fold=list(plan["fold"]), **{"place": list(plan["place"]), **columns},
    )  # fmt: skip


def paste_images(hosts, support, plan, masks, boxes, made, control, *, source: str = "bank") -> Records:
    """Records of decoded crops (N, 3, S, S) in [-1, 1]: pasted with a feather, kept only where they really changed."""
    from scipy.ndimage import binary_dilation

    from data.records.image import feather, from_float, grey, paste, resize

    out, twins, labels, overlap = [], [], [], []
    for i, row in enumerate(plan.itertuples()):
        host, mask, (top, left, height, width) = hosts.x[row.host], masks[i], boxes[i]
        region = np.s_[top : top + height, left : left + width]
        edit = binary_dilation(mask)  # one pixel of room, so that a thin scratch is not feathered away
        alpha = feather(edit, FEATHER)[region]
        patches = [resize(patch[i].transpose(1, 2, 0), (height, width)) for patch in (made, control)]
        patches = patches if host.ndim == 3 else [grey(patch)[..., None] for patch in patches]
        change = np.abs(patches[0] - patches[1]).max(-1) / 2 * alpha
        inside = edit[region]
        strong = np.quantile(change[inside], 0.9)
        label = np.zeros(mask.shape, bool)
        changed = (change > max(CHANGED_IMAGE, RELATIVE * strong)) & inside
        label[region] = tidy(changed) & inside  # what was not edited is no anomaly, though a hole within one
        pair = []
        for patch in patches:
            value = from_float(patch if host.ndim == 3 else patch[..., 0], host.dtype)
            pair.append(
                np.where(label[..., None] if host.ndim == 3 else label, paste(host, value, boxes[i], alpha), host)
            )
        out.append(pair[0])
        twins.append(pair[1])
        labels.append(label)
        overlap.append((label & mask).sum() / max(1, (label | mask).sum()))
    meta = generated_meta(
        plan,
        hosts,
        support,
        source=source,
        mask_iou=overlap,
        intended_area=[float(m.mean()) for m in masks],
        area=[float(m.mean()) for m in labels],
        place=[image_place(m) for m in masks],
    )
    return Records("image", meta, out, labels, hosts.schema, None, twins)


def tidy(mask: np.ndarray) -> np.ndarray:
    """A thresholded change without its speckle: closed by one pixel, holes filled, specks under 4 pixels dropped."""
    from scipy import ndimage

    closed = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(mask, 2), iterations=1))[2:-2, 2:-2]
    parts, count = ndimage.label(closed, structure=np.ones((3, 3)))
    sizes = ndimage.sum_labels(closed, parts, np.arange(count + 1))
    return closed & (sizes >= 4)[parts]


def paste_series(
    codec, seen, chosen, hosts, support, plan, masks, x, made, control, strengths, *, source: str = "bank"
) -> Records:
    """Windows of denoised values (N, C, T): blended with a taper, tidied as `seen` says of the channels, labelled where
    what is left of them differs from host and control. masks: (N, T, C), the intended."""
    fade = np.stack([taper(m) for m in masks]).transpose(0, 2, 1)
    hole = masks.transpose(0, 2, 1)
    own = np.stack(chosen.x)  # (N, T, C), as all that follows
    faces = [(x + fade * (face - x)).astype(x.dtype) for face in (made, control)]
    codec = replace(codec, decimals=seen.decimals)
    values, twins = (seen.tidied(np.stack(codec.decode(face, chosen, hole)), own) for face in faces)
    change = np.abs(values - twins) / seen.unit
    strong = np.array([np.quantile(c[m], 0.9) if m.any() else 0.0 for c, m in zip(change, masks)])
    moved = change > np.maximum(CHANGED_SERIES, RELATIVE * strong)[:, None, None]
    moved &= np.abs(values - own) > CHANGED_SERIES * seen.unit
    label = np.stack([bridge(m) for m in moved]) & masks
    values, twins = (list(np.where(label, face, own)) for face in (values, twins))
    overlap = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(label, masks)]
    meta = generated_meta(
        plan,
        hosts,
        support,
        source=source,
        mask_iou=overlap,
        intended_area=masks.mean((1, 2)).tolist(),
        area=label.mean((1, 2)).tolist(),
        strength=strengths,
        place=[series_place(m) for m in masks],
    )
    return Records("series", meta, values, list(label), hosts.schema, chosen.time, twins)


def taper(mask: np.ndarray) -> np.ndarray:
    """A cosine fade (T, C) in [0, 1] over TAPER of every span's length at its ends; spans of a few steps stay whole."""
    out = mask.astype(float)
    for c in range(mask.shape[1]):
        edges = np.flatnonzero(np.diff(np.r_[0, mask[:, c].astype(int), 0]))
        for low, high in zip(edges[::2], edges[1::2]):
            fade = int(TAPER * (high - low))
            ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 1) / (fade + 1))
            out[low : low + fade, c], out[high - fade : high, c] = ramp, ramp[::-1]
    return out


def bridge(mask: np.ndarray, gap: int = 4) -> np.ndarray:
    """Spans (T, C) joined over gaps of up to `gap` steps: an anomaly that crosses the normal level stays one."""
    from scipy import ndimage

    out = np.zeros_like(mask)
    for c in np.flatnonzero(mask.any(0)):
        out[:, c] = ndimage.binary_closing(np.pad(mask[:, c], gap), np.ones(gap + 1))[gap:-gap]
    return out
