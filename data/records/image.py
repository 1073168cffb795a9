"""Images as arrays in [-1, 1] and back onto their hosts; crop, paste, resize and feather for edits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.records import Records

FULL = {"uint8": 255, "uint16": 65535}  # the value of white
Box = tuple[int, int, int, int]  # top, left, height, width


def full_scale(dtype) -> int:
    """White of an image dtype: 255 or 65535; ValueError for any other dtype."""
    name = np.dtype(dtype).name
    if name not in FULL:
        raise ValueError(f"an image must be {' or '.join(FULL)}, got {name}")
    return FULL[name]


def to_float(image: np.ndarray) -> np.ndarray:
    """The image in [-1, 1], float32: exact, every level of 8 or 16 bits keeps a number of its own."""
    return (image / (full_scale(image.dtype) / 2) - 1).astype(np.float32)


def from_float(x: np.ndarray, dtype) -> np.ndarray:
    """The nearest levels of `dtype` to x in [-1, 1]; values outside are clipped, NaN raises ValueError."""
    white = full_scale(dtype)
    if np.isnan(x).any():
        raise ValueError("image values must be numbers, got NaN")
    return np.clip(np.rint((np.asarray(x, np.float64) + 1) * (white / 2)), 0, white).astype(dtype)


def grey(x: np.ndarray) -> np.ndarray:
    """The mean of the channels of a float image, (H, W, 3) -> (H, W): three equal ones come back."""
    return x.mean(-1)


def check_box(shape: tuple[int, ...], box: Box) -> tuple[slice, slice]:
    """The slices of a box; ValueError where it does not lie in an image of `shape`."""
    top, left, height, width = box
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > shape[0] or left + width > shape[1]:
        size = f"{shape[0]} x {shape[1]}"
        raise ValueError(f"box (top, left, height, width) must lie in {size}, got {tuple(box)}")
    return slice(top, top + height), slice(left, left + width)


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """A copy of what lies in the box of an image or mask (H, W) or (H, W, 3)."""
    return image[check_box(image.shape, box)].copy()


def paste(host: np.ndarray, patch: np.ndarray, box: Box, alpha: np.ndarray) -> np.ndarray:
    """A copy of the host with the patch blended in: host + alpha (patch - host), rounded, inside the box.

    patch: like the host, of the box's size. alpha: (height, width) in [0, 1]; at 0 the host stays bit-exact.
    """
    region = check_box(host.shape, box)
    out, under = host.copy(), host[region]
    if patch.shape != under.shape or alpha.shape != under.shape[:2]:
        got = f"{patch.shape} and {alpha.shape}"
        raise ValueError(f"patch and alpha must be of the box's size {under.shape}, got {got}")
    weight = alpha[..., None] if host.ndim == 3 else alpha
    out[region] = np.rint(under + weight * (patch.astype(np.float64) - under)).astype(host.dtype)
    return out


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image (H, W) or (H, W, 3) at size (height, width), within the range it had.

    Shrinking averages areas, so nothing aliases; growing is cubic. A mask stays one: half a pixel or more.
    """
    import cv2

    if image.dtype == bool:
        return resize(image.astype(np.float32), size) >= 0.5
    out, (height, width) = image, size
    smaller = min(height, image.shape[0]), min(width, image.shape[1])
    if smaller != image.shape[:2]:
        out = cv2.resize(out, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        out = cv2.resize(out, (width, height), interpolation=cv2.INTER_CUBIC)
    return image.copy() if out is image else np.clip(out, image.min(), image.max())


def feather(mask: np.ndarray, radius: float) -> np.ndarray:
    """How much of an edit shows, float32 in [0, 1]: 0 outside the mask, 1 from `radius` pixels inside it on.

    The image's own border is no edge: what touches it stays whole there.
    """
    from scipy import ndimage

    if mask.all():
        return np.ones(mask.shape, np.float32)
    depth = ndimage.distance_transform_edt(mask)  # 1 for the outermost pixels of the mask
    return np.clip(depth / (radius + 1), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class ImageCodec:
    """Images as x (N, channels, H, W) in [-1, 1]; `channels` is 3 if any fitted image has colour, else 1."""

    channels: int

    @classmethod
    def fit(cls, records: Records) -> ImageCodec:
        return cls(3 if any(image.ndim == 3 for image in records.x) else 1)

    def encode(self, records: Records) -> tuple[np.ndarray, np.ndarray]:
        """x (N, C, H, W) float32, exact, and mask (N, 1, H, W) bool.

        Raises ValueError where sizes differ, InputError for colour in a grey codec or not 8 or 16 bits.
        """
        if not len(records):
            return np.zeros((0, self.channels, 0, 0), np.float32), np.zeros((0, 1, 0, 0), bool)
        sizes = {image.shape[:2] for image in records.x}
        if len(sizes) > 1:
            raise ValueError(f"images of one call must be equally sized, got {sorted(sizes)}")
        x = np.stack([self._planes(image, name) for image, name in zip(records.x, records.meta["id"])])
        return x, np.stack(list(records.mask))[:, None].astype(bool)

    def _planes(self, image: np.ndarray, name: str) -> np.ndarray:
        """One image as (C, H, W)."""
        if image.dtype.name not in FULL:
            raise InputError(f"{name}: an image must be uint8 or uint16, got {image.dtype}; convert it")
        if image.ndim == 3 and self.channels == 1:
            raise InputError(f"{name}: image must be grey as the fitted ones, got colour; fit on colour too")
        x = to_float(image)
        return np.broadcast_to(x, (self.channels, *x.shape)) if x.ndim == 2 else x.transpose(2, 0, 1)

    def decode(self, x: np.ndarray, hosts: Records, mask) -> list[np.ndarray]:
        """The hosts with their masked pixels taken from x (N, C, H, W), all others bit for bit their own.

        mask: (N, 1, H, W) or N masks (H, W). Grey hosts get the mean of the channels. ValueError for NaN.
        """
        out = []
        for planes, host, hole in zip(x, hosts.x, mask, strict=True):
            hole = np.asarray(hole, bool).reshape(host.shape[:2])
            value = np.moveaxis(np.asarray(planes), 0, -1)[hole].astype(np.float64)  # (pixels, C)
            image = host.copy()
            image[hole] = from_float(value if host.ndim == 3 else grey(value), host.dtype)
            out.append(image)
        return out

    def state(self) -> dict:
        return {"channels": self.channels}

    @classmethod
    def from_state(cls, state: dict) -> ImageCodec:
        return cls(int(state["channels"]))
