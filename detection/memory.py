"""Unsupervised images: distance of local features to the nearest ones of normals (PatchCore, arXiv:2106.08265)."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.records import Records
from detection.features import BATCH, CACHE, LEVELS, features_of, frame, pick_device, smooth, to_size

STRIDES = (4, 8, 16)  # of the maps compared
GRID = 8  # stride of the patches
POOL = 3  # cells whose mean is a patch's feature (sec. 3.1)
PROJECTED = 64  # dimensions in which the coreset is chosen, by a random projection (sec. 3.2)
CANDIDATES = 20_000  # patches the coreset is chosen from
MARGIN = 3  # pixels about a mask that `score_near` is right in
HELD = 4  # banks of this process that `bank_of` keeps
FITTED: dict[str, MemoryBank] = {}


class MemoryBank:
    """Distance of patches to the nearest patch of a normal image; needs no anomaly.

    size: long side in pixels that images are resized to. bank: patches kept, spread out over the normal ones by a
    greedy coreset. images: most normal images used, drawn by the seed.
    """

    def __init__(self, *, size: int = 128, bank: int = 2000, images: int = 400, device: str = "auto"):
        self.options = {"size": size, "bank": bank, "images": images, "device": device}
        self.device = pick_device(device)

    def fit(self, records: Records, *, seed: int) -> MemoryBank:
        from detection.rows import normals_of

        normals, rng = normals_of(records), np.random.default_rng(seed)
        self.shape = frame(normals.x, self.options["size"])
        if len(normals) > self.options["images"]:
            normals = normals.take(np.sort(rng.permutation(len(normals))[: self.options["images"]]))
        self.scale = self._scale(normals)
        patches = torch.cat([p.flatten(0, 1) for p in self._patches(normals)])  # (N * L, D)
        image = np.repeat(np.arange(len(normals)), len(patches) // len(normals))  # that a patch is from
        if len(patches) > CANDIDATES:
            some = np.sort(rng.permutation(len(patches))[:CANDIDATES])
            patches, image = patches[torch.from_numpy(some).to(patches.device)], image[some]
        chosen = coreset(patches, self.options["bank"], rng)
        self._set(patches[chosen])
        self.source = normals.meta.iloc[image[chosen.cpu().numpy()]][["id", "group"]].reset_index(drop=True)
        return self

    def _set(self, bank: Tensor) -> None:
        self.bank, self.norm = bank, bank.square().sum(1)

    def _scale(self, normals: Records) -> dict[int, Tensor]:
        """Per stride the spread of every channel over normal images, (C, 1, 1): no channel outweighs the others."""
        first = features_of(normals, self.shape, self.device, 0, 64)
        spread = {s: first[s].transpose(0, 1).flatten(1).std(1, correction=0) for s in STRIDES}
        return {s: v.clamp_min(1e-3)[:, None, None] for s, v in spread.items()}

    def _patches(self, records: Records):
        """(B, L, D) patches of every BATCH records."""
        for low in range(0, len(records), BATCH):
            yield self._cut(features_of(records, self.shape, self.device, low, low + BATCH))

    def _cut(self, maps: dict[int, Tensor]) -> Tensor:
        """(B, L, D) locally pooled, scaled features of maps {stride: (B, C, h, w)}."""
        size, parts = self._size, []
        for stride in STRIDES:
            m = (maps[stride] / self.scale[stride]).to(self.device, memory_format=torch.channels_last)  # pools faster
            m = F.avg_pool2d(m, POOL, 1, POOL // 2, count_include_pad=False)
            m = F.adaptive_avg_pool2d(m, size) if stride < GRID else F.interpolate(m, size, mode="bilinear")
            parts.append(m / m.shape[1] ** 0.5)  # every stride counts alike
        return torch.cat(parts, dim=1).flatten(2).transpose(1, 2)

    @property
    def _size(self) -> tuple[int, int]:
        return self.shape[0] // GRID, self.shape[1] // GRID

    def _squared(self, x: Tensor) -> Tensor:
        """(L, K) squared distances of some of one image's patches (L, D), less each one's own square, which does not
        change which is nearest: of one image alone, so that its company cannot change a bit."""
        return torch.addmm(self.norm, x, self.bank.T, alpha=-2)

    @torch.no_grad()
    def _grids(self, records: Records, wanted: list[np.ndarray] | None = None) -> np.ndarray:
        """(N, h, w) float32 lightly smoothed distances; of the patches `wanted`, see `near`, others being 0."""
        out, low = torch.zeros(len(records), *self._size), 0
        for patches in self._patches(records):
            for x in patches:
                some = slice(None) if wanted is None else torch.from_numpy(np.flatnonzero(wanted[low]))
                x = x[some]
                nearest = self._squared(x).amin(1) + x.square().sum(1)
                out[low].view(-1)[some] = nearest.clamp_min(0).sqrt().cpu()
                low += 1
        return smooth(out).numpy()

    @torch.no_grad()
    def residuals(
        self, maps: dict[int, Tensor], hidden: np.ndarray | None = None, wanted: list[np.ndarray] | None = None
    ) -> Tensor:
        """(B, 1 + strides, h, w): the distance of every patch to its nearest of the bank, in all and stride by stride.

        hidden: (B, K), see `apart`, the patches of the bank that an image must do without. wanted: see `near`, others
        are left 0.
        """
        sizes, cut = [LEVELS[s][1] for s in STRIDES], self._cut(maps)
        out = cut.new_zeros(len(cut), 1 + len(sizes), cut.shape[1])
        for i, x in enumerate(cut):
            some = slice(None) if wanted is None else torch.from_numpy(np.flatnonzero(wanted[i])).to(cut.device)
            x = x[some]
            squared = self._squared(x)
            if hidden is not None:
                squared = squared.masked_fill(torch.from_numpy(hidden[i]).to(squared.device), torch.inf)
            gap = (x - self.bank[squared.argmin(1)]).square().split(sizes, dim=1)
            parts = torch.stack([part.sum(1) for part in gap])  # (strides, L)
            out[i][:, some] = torch.cat([parts.sum(0, keepdim=True), parts]).sqrt()
        return out.unflatten(2, self._size)

    def near(self, masks: list[np.ndarray], margin: int) -> list[np.ndarray]:
        """Of each mask (H, W) the patches (h, w) that it, grown by MARGIN pixels, touches, and `margin` more around
        them; all where it is empty."""
        return [touched(mask, self._size, margin) for mask in masks]

    def apart(self, meta) -> np.ndarray:
        """(N, K): patches of the bank that records with this meta, if they take part in fitting, must not be compared
        with: those of their own group, or of their own image (an edited one's host) where that would hide all.

        A normal has no distance to itself, and an edited host none where it was not edited: a detector fitted on such
        distances would meet larger ones everywhere on new images. Only right after `fit`.
        """
        group, image = self.source["group"].to_numpy(), self.source["id"].to_numpy()
        host = np.where(meta["host"] != "", meta["host"], meta["id"])
        hidden = meta["group"].to_numpy()[:, None] == group
        alone = host[:, None] == image
        hidden = np.where(hidden.all(1, keepdims=True), alone, hidden)
        return hidden & ~hidden.all(1, keepdims=True)

    def score_map(self, records: Records) -> list[np.ndarray]:
        """(H, W) float32 per record at its own size; about 1 is a channel's usual spread."""
        return [to_size(grid, image.shape) for grid, image in zip(self._grids(records), records.x)]

    def score_near(self, records: Records) -> list[np.ndarray]:
        """score_map of what lies in each record's mask or MARGIN pixels beside it, where labels place the anomaly;
        elsewhere what is given means nothing."""
        # a pixel is drawn from the two nearest patches, and a patch smoothed by its neighbours
        grids = self._grids(records, self.near(records.mask, 2))
        return [to_size(grid, image.shape) for grid, image in zip(grids, records.x)]

    def score(self, records: Records) -> np.ndarray:
        """(N,) float32: the largest value of the smoothed map."""
        return self._grids(records).max((1, 2), initial=0)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays = {f"scale.{s}": self.scale[s].cpu().numpy() for s in STRIDES} | {"bank": self.bank.cpu().numpy()}
        return arrays, {"options": self.options, "shape": list(self.shape)}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> MemoryBank:
        out = cls(**config["options"])
        out.shape = tuple(config["shape"])
        out.scale = {s: torch.from_numpy(np.array(arrays[f"scale.{s}"])) for s in STRIDES}
        out._set(torch.from_numpy(np.array(arrays["bank"])).to(out.device))
        return out


def bank_of(normals: Records, *, seed: int, **options) -> MemoryBank:
    """MemoryBank(**options).fit(normals, seed=seed), the same one again for the same records: the training sets that
    are compared share their real normals, and choosing a coreset takes as long as training on it."""
    images = [CACHE.key(image, (0, 0), "") for image in normals.x]  # the pixels alone
    key = json.dumps([options, seed, list(normals.meta["id"]), list(normals.meta["group"]), images])
    if key not in FITTED:
        while len(FITTED) >= HELD:
            FITTED.pop(next(iter(FITTED)))
        FITTED[key] = MemoryBank(**options).fit(normals, seed=seed)
    return FITTED[key]


def touched(mask: np.ndarray, size: tuple[int, int], margin: int) -> np.ndarray:
    """(h, w) bool of a grid of that size laid over a mask (H, W), see `MemoryBank.near`."""
    from scipy.ndimage import binary_dilation

    if not mask.any():
        return np.ones(size, bool)
    down, across = (
        [slice(max(0, at * side // n - MARGIN), -(-(at + 1) * side // n) + MARGIN) for at in range(n)]
        for n, side in zip(size, mask.shape)
    )
    rows = np.stack([mask[part].any(0) for part in down])
    out = np.stack([rows[:, part].any(1) for part in across], axis=1)
    return binary_dilation(out, np.ones((3, 3)), iterations=margin)


@torch.no_grad()
def coreset(points: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Indices of `count` points, each the farthest from those before (k-centre greedy, alg. 1), in projected space."""
    if len(points) <= count:
        return torch.arange(len(points), device=points.device)
    if points.shape[1] > PROJECTED:
        matrix = torch.from_numpy(rng.standard_normal((points.shape[1], PROJECTED)).astype(np.float32))
        points = points @ matrix.to(points.device) / PROJECTED**0.5
    norm = points.square().sum(1)
    chosen = [int(rng.integers(len(points)))]
    nearest = torch.full_like(norm, torch.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        nearest = torch.minimum(nearest, norm + norm[last] - 2 * (points @ points[last]))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen, device=points.device)


assert set(STRIDES) <= set(LEVELS)
