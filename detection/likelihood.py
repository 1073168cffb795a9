"""The likelihood ratio of the two faces of one denoiser: how much better the adapted face explains a record.

score = E_sigma[ |x - D_base|^2 - min_kind |x - D_kind|^2 ] / sigma^2 over the hidden part, the difference of two ELBOs
up to constants (sec. 4, arXiv:2107.00630). The noise is drawn once and shared, antithetically, by every record, so a
score depends on its record alone and the difference has little variance.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.records import Records
from generation import images
from generation.diffusion import right
from generation.fit import autocast
from generation.model import Adapter, Base, pick_device

SIGMAS = {"row": (0.15, 0.3, 0.6, 1.2, 2.4), "series": (0.3, 0.8), "image": (0.5,)}
BATCH = {"row": 128, "series": 64, "image": 32}
DRAWS = {"row": 2, "series": 2, "image": 1}  # antithetic pairs of noise
CROPS = 256  # image crops held at once
BLOCK = {"series": 8, "image": 4}  # side of the hidden blocks of the complementary gratings, in steps or latent cells


def gratings(shape: tuple[int, ...], block: int) -> list[np.ndarray]:
    """Two complementary masks (*L) of alternating blocks: every element is hidden once."""
    cells = sum(np.indices(shape) // block) % 2
    return [cells == 0, cells == 1]


class LikelihoodRatio:
    """A few-shot detector for free: needs no fit, only the adapter. Higher = more like the anomalies."""

    def __init__(self, adapter: Adapter, *, seed: int = 0, draws: int | None = None):
        self.adapter, self.seed, self.modality = adapter, seed, adapter.base.modality
        self.draws = draws or DRAWS[self.modality]

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> LikelihoodRatio:
        """Of a base in folder/base and an adapter on it in folder/adapter."""
        return cls(Adapter.load(Base.load(folder / "base", pick_device(device)), folder / "adapter"))

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        """(2 draws, *shape): antithetic pairs."""
        half = torch.randn((self.draws, *shape), generator=torch.Generator().manual_seed(self.seed))
        return torch.cat([half, -half])

    @torch.no_grad()
    def _ratio(self, x0: Tensor, known: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        """(B, *L): the ratio summed over channels at the `hidden` elements of x0 (B, C, *L), zero elsewhere."""
        adapter, total = self.adapter, 0.0
        eps_all = self._noise(tuple(x0.shape[1:])).to(x0.device)
        sigmas = SIGMAS[self.modality]
        for number, eps in ((s, e) for s in sigmas for e in eps_all):
            sigma = x0.new_full((len(x0),), number)
            x = x0 + right(sigma, x0) * eps
            cond = {"known": known, "mask": mask}

            def error(out: Tensor) -> Tensor:
                return ((out - x0) ** 2 * hidden).sum(1) / number**2  # noqa: B023

            normal = error(adapter.denoise_base(x, sigma, **cond))
            odd = None
            for k in range(1, len(adapter.kinds) + 1):
                kind = torch.full((len(x0),), k, dtype=torch.long, device=x0.device)
                part = error(adapter.denoise(x, sigma, **cond, kind=kind))
                odd = part if odd is None else torch.minimum(odd, part)
            total = total + (normal - odd)
        return total / (len(sigmas) * len(eps_all))

    def _batched(self, x0: np.ndarray, cond) -> np.ndarray:
        """`_ratio` over padded batches of one size; cond(x0 batch) gives known, mask, hidden."""
        size, parts = BATCH[self.modality], []
        for start in range(0, len(x0), size):
            index = np.arange(start, min(start + size, len(x0)))
            full = np.r_[index, np.repeat(index[-1:], size - len(index))]
            batch = torch.as_tensor(x0[full], dtype=torch.float32, device=self.adapter.base.device)
            parts.append(self._ratio(batch, *cond(batch))[: len(index)].float().float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, *x0.shape[2:]))

    def score_map(self, records: Records):
        """Per pixel (list of (H, W)), per timestamp (list of (T,)) or per row (N,)."""
        codec = self.adapter.base.codec
        if self.modality == "row":
            x0 = codec.encode(records)[0].astype(np.float32)
            every = lambda x: (torch.zeros_like(x), torch.ones_like(x), torch.ones_like(x))  # noqa: E731
            return self._batched(x0, every)
        if self.modality == "series":
            x0 = codec.encode(records)[0].astype(np.float32)
            maps = 0.0
            for hidden in gratings(x0.shape[2:], BLOCK["series"]):
                h = torch.as_tensor(hidden, dtype=torch.float32, device=self.adapter.base.device)
                maps = maps + self._batched(x0, lambda x, h=h: (x * (1 - h), h.expand_as(x), h.expand_as(x)))
            return [m / x0.shape[1] for m in maps]
        out, pending, crops = [], [], 0
        for image in records.x:
            pending.append(image)
            crops += sum(1 for _ in tiles(image.shape[:2], self.adapter.base.config["settings"]["size"]))
            if crops >= CROPS:
                out += self._images(pending)
                pending, crops = [], 0
        return out + (self._images(pending) if pending else [])

    def _images(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """(H, W) each: the ratio of crops of the model's size that tile an image, averaged where they overlap."""
        from data.records.image import resize

        base = self.adapter.base
        size, latent = base.config["settings"]["size"], base.latent
        boxes = [list(tiles(image.shape[:2], size)) for image in batch]
        crops = np.stack([images.take(image, box, size) for image, own in zip(batch, boxes) for box in own])
        cells = 0.0
        for hidden in gratings((size // latent.factor,) * 2, BLOCK["image"]):
            share = np.kron(hidden, np.ones((latent.factor, latent.factor)))[None, None].astype(np.float32)

            def cond(x: Tensor, share=share):
                c = images.condition(latent, x, torch.as_tensor(share, device=x.device).expand(len(x), -1, -1, -1))
                return c["known"], c["mask"], c["touched"]

            cells = cells + self._batched_images(crops, cond)
        found, out = iter(cells), []
        for image, own in zip(batch, boxes):
            total, count = np.zeros(image.shape[:2]), np.zeros(image.shape[:2])
            for top, left, height, width in own:
                part = resize(next(found).astype(np.float32), (height, width))
                total[top : top + height, left : left + width] += part
                count[top : top + height, left : left + width] += 1
            out.append((total / count).astype(np.float32))
        return out

    def _batched_images(self, crops: np.ndarray, cond) -> np.ndarray:
        """`_ratio` of image crops (N, 3, S, S): latents are made batch by batch."""
        size, parts = BATCH["image"], []
        for start in range(0, len(crops), size):
            index = np.arange(start, min(start + size, len(crops)))
            full = np.r_[index, np.repeat(index[-1:], size - len(index))]
            x = torch.as_tensor(crops[full], device=self.adapter.base.device)
            with torch.no_grad(), autocast(self.adapter.base.device, "image"):
                ratio = self._ratio(self.adapter.base.latent.encode(x), *cond(x))
            parts.append(ratio[: len(index)].float().cpu().numpy())
        return np.concatenate(parts)

    def score(self, records: Records) -> np.ndarray:
        """(N,): the map itself for rows, else its largest value after a light smoothing."""
        maps = self.score_map(records)
        if self.modality == "row":
            return maps
        from scipy.ndimage import uniform_filter

        return np.array([uniform_filter(m.astype(np.float64), 5).max() for m in maps])


def tiles(shape: tuple[int, int], size: int):
    """Boxes of `size` that cover an image, the last aligned to its far edges; all of it where it is smaller."""
    height, width = shape
    if min(shape) < size:
        yield (0, 0, height, width)
        return
    for top in sorted({*range(0, height - size + 1, size), height - size}):
        for left in sorted({*range(0, width - size + 1, size), width - size}):
            yield (top, left, size, size)
