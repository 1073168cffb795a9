"""Images for the denoiser: which crops to take, and the latents, known part and mask channels made of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pixel_unshuffle

from data.records.image import crop, resize, to_float
from generation.fit import autocast

Box = tuple[int, int, int, int]  # top, left, height, width
IN_MASK, IN_HOLE, OUTSIDE = 1.0, 0.4, 0.03  # loss weights that worked in pilots
NEAR, FAR = 1.6, 3.0  # crop side over the defect's longer side
ENCODE_BATCH = 32


def window(rng: np.random.Generator, shape: tuple[int, int], side: int) -> Box:
    """A square of `side` at a uniform place, or the whole image where `side` does not fit."""
    height, width = shape
    if side > min(height, width):
        return (0, 0, height, width)
    return (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def normal_box(rng: np.random.Generator, shape: tuple[int, int], size: int, zoom: float = 2.0) -> Box:
    """A crop of a normal image: side log-uniform in `size` * [1, zoom], as far as the image allows."""
    side = min(round(size * zoom ** rng.uniform(0, 1)), min(shape))
    return window(rng, shape, side)


def defect_box(rng: np.random.Generator, mask: np.ndarray, size: int) -> Box:
    """A crop at native resolution around a mask (H, W): side NEAR..FAR times the defect, at least `size` pixels, the
    defect anywhere inside; the whole image where that does not fit."""
    shape = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    longer = max(bottom - top, right - left)
    side = max(size, round(longer * rng.uniform(NEAR, FAR)))
    if side > min(shape):
        side = min(shape) if longer * NEAR <= min(shape) or longer <= min(shape) * 0.9 else max(shape) + 1
    if side > min(shape):
        return (0, 0, *shape)
    place = []
    for low, high, limit in ((top, bottom, shape[0]), (left, right, shape[1])):
        first, last = max(0, high - side), min(low, limit - side)
        place.append(int(rng.integers(min(first, last), max(first, last) + 1)))
    return (place[0], place[1], side, side)


def take(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The crop at model size, (3, size, size) float32 in [-1, 1]; grey is repeated."""
    patch = resize(to_float(crop(image, box)), (size, size))
    patch = patch if patch.ndim == 3 else np.repeat(patch[..., None], 3, axis=2)
    return np.ascontiguousarray(patch.transpose(2, 0, 1), dtype=np.float32)


def take_mask(mask: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The mask's share of every pixel of the crop at model size, (1, size, size) float32 in [0, 1]."""
    share = resize(crop(mask, box).astype(np.float32), (size, size))
    return share[None].astype(np.float32)


def orient(rng: np.random.Generator, *arrays: np.ndarray) -> list[np.ndarray]:
    """One of the eight flips and quarter turns, the same for all (C, S, S)."""
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    out = []
    for a in arrays:
        a = np.rot90(a, turns, axes=(1, 2))
        out.append(np.ascontiguousarray(a[:, :, ::-1] if flip else a))
    return out


def condition(latent, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """known, mask and hole for a batch: images (B, 3, S, S) in [-1, 1], mask (B, 1, S, S) in [0, 1].

    hole (B, 1, s, s) is every latent cell the mask touches, dilated by one cell; known is the latent of the image with
    the hole greyed out, so that nothing of what was there leaks through the encoder's receptive field.
    """
    coverage = pixel_unshuffle(mask, latent.factor)  # (B, f^2, s, s)
    hole = max_pool2d((coverage.amax(1, keepdim=True) > 0).float(), 3, stride=1, padding=1)
    open_px = interpolate(hole, scale_factor=latent.factor, mode="nearest")
    known = latent.encode(images * (1 - open_px))
    if getattr(latent, "mask_channels", 0) == 1:  # a pretrained pipeline: the hole alone, grey latents left in it
        channels = hole
    else:
        known, channels = known * (1 - hole), torch.cat([coverage, hole], dim=1)
    return {"known": known, "mask": channels, "hole": hole, "touched": (coverage.amax(1, keepdim=True) > 0).float()}


@torch.no_grad()
def examples(latent, images: np.ndarray, masks: np.ndarray, device: str) -> dict[str, Tensor]:
    """Training tensors x0, known, mask, weight of crops (N, 3, S, S) and their masks (N, 1, S, S)."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(images), ENCODE_BATCH):
        x = torch.from_numpy(images[start : start + ENCODE_BATCH]).to(device)
        with autocast(device, "image"):
            cond = condition(latent, x, torch.from_numpy(masks[start : start + ENCODE_BATCH]).to(device))
            x0 = latent.encode(x)
        touched, hole = cond.pop("touched"), cond.pop("hole")
        weight = OUTSIDE + (IN_HOLE - OUTSIDE) * hole + (IN_MASK - IN_HOLE) * touched
        part = {"x0": x0, "weight": weight, **cond}
        parts.append({key: value.float() for key, value in part.items()})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
