"""Cut-paste of real defects: their contrast against their own surroundings, laid on a normal host's.

A plain paste shows its seam; a defect is moved as its difference to the background that its surroundings predict, and
added to what the host's surroundings predict (the guidance-field idea of Poisson editing, Perez et al. 2003; as an
augmentation CutPaste, arXiv:2104.04015, and NSA, arXiv:2109.15222).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from data.records import Records
from data.records.image import feather, from_float, full_scale, grey
from generation.classical.provenance import check_sets, provenance
from generation.masks import MIN_PIXELS, carry, carry_mask, grow_to, parts_to_place, placement

SCALE = (0.7, 1.4)  # linear size over the parent's, drawn log-uniformly
GAIN = (0.8, 1.25)  # contrast over the parent's
SHIFT = 0.1  # brightness shift, in standard deviations of the difference
LIGHT = (0.5, 2.0)  # least and most that a difference is scaled for a darker or brighter host
FEATHER = (1.0, 2.0)  # pixels
# random places tried for one that looks like the parent's surroundings, and how much it may differ: mean (from the
# image's own) plus std of the full range
PLACES, ALIKE = 4, 0.15
REPLACE = 0.5  # share of pastes that replace the host's texture; the others add to it
LARGE = 0.02  # share of the host from which a paste always replaces, and keeps to the grain
GRAIN = 1.3  # ratio of the gradients across and along from which a texture has a grain
CHANGED, RELATIVE = 0.012, 0.25  # least change that is labelled: of the full range, of the record's strong change
TRIES = 6
FLAT = 0.12  # contrast of the last resort, where a parent does not differ from its surroundings at all


def unit(image: np.ndarray, channels: int) -> np.ndarray:
    """The image in [0, 1] as float32 (H, W, channels); grey is repeated, colour averaged."""
    x = image.astype(np.float32) / full_scale(image.dtype)
    x = x[..., None] if x.ndim == 2 else x
    return np.repeat(x, channels, axis=2) if x.shape[2] == 1 else x if channels == 3 else grey(x)[..., None]


def background(image: np.ndarray, mask: np.ndarray, finest: int = 2) -> np.ndarray:
    """What the surroundings predict: image (H, W, C) smoothed, inside `mask` filled from outside, float32.

    A pyramid of normalised averages (pull-push, Gortler et al. 1996) from the coarsest level down to `finest`,
    whose cells are 2^finest pixels wide: noise and fine texture do not get in. Where all is masked: the mean.
    """
    import cv2

    weight = (~mask).astype(np.float32)
    if weight.sum() < 1:
        return np.broadcast_to(image.mean((0, 1)), image.shape).astype(np.float32)
    levels = [(np.ascontiguousarray(image * weight[..., None]), weight)]
    while min(levels[-1][1].shape) > 2:
        levels.append(tuple(cv2.pyrDown(part) for part in levels[-1]))
    levels = [(value.reshape(*w.shape, -1), w) for value, w in levels]
    out = np.broadcast_to((image * weight[..., None]).sum((0, 1)) / weight.sum(), (1, 1, image.shape[2]))
    for value, w in levels[min(finest, len(levels) - 1) :][::-1]:
        up = cv2.resize(np.ascontiguousarray(out, np.float32), w.shape[::-1], interpolation=cv2.INTER_LINEAR)
        trust = np.clip(w / 0.25, 0, 1)[..., None]
        out = trust * value / np.maximum(w, 1e-6)[..., None] + (1 - trust) * up.reshape(value.shape)
    full = cv2.resize(np.ascontiguousarray(out, np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return full.reshape(image.shape)


def around(mask: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) of a mask and `margin` of its longer side (at least 8 pixels) around it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad = max(8, round(margin * max(np.ptp(rows), np.ptp(columns))))
    top, left = max(0, rows[0] - pad), max(0, columns[0] - pad)
    bottom, right = min(mask.shape[0], rows[-1] + 1 + pad), min(mask.shape[1], columns[-1] + 1 + pad)
    return int(top), int(left), int(bottom - top), int(right - left)


def cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """A view of the box."""
    return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]


def grained(image: np.ndarray) -> bool:
    """Whether the texture (H, W, C) runs one way, so that turning a large piece of it would show."""
    across, down = (np.abs(np.diff(image, axis=a)).mean() + 1e-6 for a in (1, 0))
    return bool(max(across / down, down / across) > GRAIN)


def best_place(rng: np.random.Generator, source: np.ndarray, part: np.ndarray, host: np.ndarray) -> np.ndarray:
    """The map of the part to the first of PLACES random places ALIKE the part's surroundings, else to the most alike.

    So a defect of a part does not land on the empty ground beside it.
    """
    scale = np.exp(rng.uniform(*np.log(SCALE))) * np.exp(rng.uniform(-0.1, 0.1, 2))
    free = part.sum() < LARGE * host[..., 0].size or not grained(source)
    turn = float(rng.choice([0.0, 45.0 if free else 0.0]))
    ring = cut(source, around(part, 0.25))[~cut(part, around(part, 0.25))]
    ring = ring if len(ring) else source.reshape(-1, source.shape[2])
    look = np.r_[ring.mean(0) - source.mean((0, 1)), ring.std(0)]
    level = host.mean((0, 1))
    rows, columns = np.nonzero(part)
    ends = np.array([[columns.min(), columns.max() + 1], [rows.min(), rows.max() + 1]])
    corners = np.array([[x, y, 1] for x in ends[0] for y in ends[1]]).T
    found = []
    for _ in range(PLACES):
        affine = placement(rng, part, host.shape[:2], scale=(scale[0], scale[1]), turn=turn, quarter=free)
        x, y = affine @ corners
        left, top = max(0, int(x.min())), max(0, int(y.min()))
        under = host[top : max(top + 1, int(y.max())), left : max(left + 1, int(x.max()))].reshape(-1, host.shape[2])
        differs = np.abs(np.r_[under.mean(0) - level, under.std(0)] - look).sum() / len(level) if len(under) else 1.0
        found.append((differs, affine))
        if differs < ALIKE:
            break
    return min(found, key=lambda pair: pair[0])[1]


def lay(
    rng: np.random.Generator, host: np.ndarray, source: np.ndarray, difference: np.ndarray, under: np.ndarray,
    noise: float, part: np.ndarray, gain: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(host with the part's difference laid on, the part's shape there), images (H, W, C) in [0, 1]. The feather takes
    a pixel more on all sides.

    difference, under: of the source, its difference to its background and that background. noise: std of the source's
    own texture. A difference is scaled by the share of light (or of headroom, for what is brighter) that the host has,
    so that a dark scratch stays a dark scratch on a darker photograph and nothing clips.
    """
    affine = best_place(rng, source, part, host)
    mask = carry_mask(part, affine, host.shape[:2])
    mask = grow_to(mask, 1)
    grown = ndimage.binary_dilation(mask)  # the feather lies around the outline, not inside
    alpha = feather(grown, float(rng.uniform(*FEATHER)))
    box = around(grown, 0.25)
    target, hole = cut(host, box), cut(grown, box)
    shape = target.shape
    delta = carry(difference, affine, box, cubic=True).reshape(shape)
    below = carry(under, affine, box).reshape(shape)
    plain = background(target, hole)
    darker = np.clip(plain / np.maximum(below, 1e-3), *LIGHT)
    brighter = np.clip((1 - plain) / np.maximum(1 - below, 1e-3), *LIGHT)
    spread = float(delta[hole].std()) if hole.any() else 0.0
    delta = gain * delta * np.where(delta < 0, darker, brighter)
    new = plain + delta
    if grown.mean() < LARGE and rng.random() > REPLACE:
        # keep the host's texture; damp what may be the source's own, for two on top of each other are too rough
        new = target + delta * delta**2 / (delta**2 + noise**2 + 1e-12)
    new = new + rng.uniform(-SHIFT, SHIFT) * spread
    out = host.copy()
    cut(out, box)[...] = target + cut(alpha, box)[..., None] * (np.clip(new, 0, 1) - target)
    return out, mask


def changed(before: np.ndarray, after: np.ndarray, core: np.ndarray) -> np.ndarray:
    """Where a paste shows: bool (H, W) in the defect's own shape `core` and the ring of a pixel around it that its
    feather takes, from the smoothed change of images (H, W, C) in [0, 1].

    At least CHANGED and RELATIVE of the strong change (its 90th percentile), averaged over a neighbourhood that grows
    with the defect (half a pixel to 6); closed and without holes or specks. The ring's pixels must show by themselves:
    what is beside a thin scratch is not the scratch.
    """
    import cv2

    within = ndimage.binary_dilation(core)
    reach = float(np.clip(0.06 * np.sqrt(within.sum()), 0.5, 6.0))
    inside = within.astype(np.float32)
    own = np.abs(after - before).max(-1)
    change = cv2.GaussianBlur(own * inside, (0, 0), reach)
    change = change / np.maximum(cv2.GaussianBlur(inside, (0, 0), reach), 1e-3)
    strong = np.quantile(change[within], 0.9) if within.any() else 0.0
    mask = within & (change > max(CHANGED, RELATIVE * strong))
    mask = ndimage.binary_closing(np.pad(mask, pad := round(2 * reach) + 2), iterations=round(2 * reach))
    mask = ndimage.binary_fill_holes(mask)[pad:-pad, pad:-pad] & within
    mask &= core | (own > max(CHANGED, RELATIVE * (np.quantile(own[core], 0.9) if core.any() else 0.0)))
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return mask & (sizes >= min(4, sizes.max()))[labels]


def paste_once(
    rng: np.random.Generator, image: np.ndarray, parent: np.ndarray, mask: np.ndarray, severity: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """(image, mask, gain): a parent's defect on a host image; outside the mask the host is bit-exact."""
    channels = 3 if image.ndim == 3 else 1
    host = unit(image, channels)
    box = around(mask, 1.0)
    whole = unit(parent, channels)
    inner = cut(mask, box)
    near = ndimage.binary_dilation(inner, iterations=2)
    near = inner if near.all() else near
    under = whole.copy()
    cut(under, box)[...] = background(cut(whole, box), near)
    difference = np.where(ndimage.binary_dilation(mask, iterations=2)[..., None], whole - under, 0)
    ring = cut(whole, box)[~near] - cut(under, box)[~near]
    noise = float(1.4826 * np.median(np.abs(ring))) if len(ring) else 0.0
    for _ in range(TRIES):
        gain = float(rng.uniform(*GAIN))
        after, core = host, np.zeros(host.shape[:2], bool)
        for part in parts_to_place(rng, mask):
            after, more = lay(rng, after, whole, difference, under, noise, part, gain * severity)
            core |= more
        out, label = finish(image, host, after, changed(host, after, core))
        if label.sum() >= min(MIN_PIXELS, mask.sum()):
            return out, label, gain * severity
    within = ndimage.binary_dilation(core)
    after = np.where(within[..., None], host + (-FLAT if host[within].mean() > 0.5 else FLAT), host)
    out, label = finish(image, host, after, within)
    return out, label, gain * severity


def finish(image: np.ndarray, host: np.ndarray, after: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(image of the host's dtype with only labelled pixels replaced, the label without pixels that rounding left)."""
    value = from_float(2 * after - 1, image.dtype).reshape(image.shape)
    out = np.where(label[..., None] if image.ndim == 3 else label, value, image)
    moved = out != image
    return out, label if (moved.any(-1) if image.ndim == 3 else moved).any() else np.zeros_like(label)


def cutpaste(hosts: Records, support: Records, seeds: list[int], *, severity: float = 1.0) -> Records:
    """One normal image a seed with a real support defect pasted in; the mask is where it shows.

    Hosts and parents may differ in size and dtype; the defect keeps its native resolution up to SCALE.
    severity: contrast over the parent's. Raises InputError where no support record has a mask.
    """
    usable = check_sets(hosts, support, need_mask=True)
    images, masks, host, parents, gains = [], [], [], [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        parent, at = usable[int(rng.integers(len(usable)))], int(rng.integers(len(hosts)))
        shape = np.asarray(support.mask[parent], bool)
        out, mask, gain = paste_once(rng, hosts.x[at], support.x[parent], shape, severity)
        images.append(out)
        masks.append(mask)
        host.append(at)
        parents.append([parent])
        gains.append(gain)
    meta = provenance(
        "cutpaste", hosts, support, seeds, host=host, parents=parents, severity=gains,
        mask_source=[f"paste:{support.meta['id'].iloc[p]}" for (p,) in parents],
    )  # fmt: skip
    return Records("image", meta, images, masks, hosts.schema)
