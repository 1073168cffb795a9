"""Supervised images: a small convolutional head on frozen features, and on their distance to the nearest normal ones,
tells anomalous pixels from normal ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.errors import InputError
from data.records import Records
from data.records.image import resize
from detection.features import BATCH, LEVELS, features_of, pick_device, smooth, to_size
from detection.memory import STRIDES as COMPARED
from detection.memory import MemoryBank, bank_of

STRIDE = 2  # of the map that the head gives, in resized pixels
TOP = 0.01  # share of the pixels whose mean logit stands for an image without a mask
FOCAL = 20.0  # of the focal loss beside dice: both start near 1
POSITIVE = 1.0  # weight of an anomalous pixel
DROP = 0.3  # chance of a channel to be left out of a step: a few anomalies must not be known by a few channels
BANK, NORMALS = 1000, 200  # patches of normal images that all are compared with, and the images they come from
NEAR = "near"  # the key of the distances beside the strides
CHANNELS = {stride: channels for stride, (_, channels) in LEVELS.items()} | {NEAR: 1 + len(COMPARED)}


class Head(nn.Module):
    """Logits (B, H / 2, W / 2) of standardised maps {stride: (B, C, h, w)} and, under NEAR, distances.

    All maps are lifted to `width` channels at their own stride (a 1x1 convolution commutes with upsampling), summed at
    stride 4, seen by a 3x3 convolution, and refined at stride 2 with the finest map, which thin anomalies need.
    """

    def __init__(self, width: int):
        super().__init__()
        fine = width // 2
        self.lift = nn.ModuleDict({str(s): nn.Conv2d(c, width, 1) for s, c in CHANNELS.items() if s != STRIDE})
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, fine, 1)
        self.detail = nn.Conv2d(CHANNELS[STRIDE], fine, 1)
        self.refine = nn.Conv2d(fine, fine, 3, padding=1)
        self.out = nn.Conv2d(fine, 1, 1)

    @classmethod
    def empty(cls, width: int) -> Head:
        """A head whose weights are yet to be filled; no global generator is touched."""
        with torch.device("meta"):
            head = cls(width)
        return head.to_empty(device="cpu")

    def reset(self, generator: torch.Generator) -> Head:
        """He's initialisation from a generator of its own; at first everything is thought normal."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                with torch.no_grad():
                    layer.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                    layer.bias.zero_()
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.fill_(-3.0)  # a chance of 5 %
        return self

    def forward(self, maps: dict[int | str, Tensor]) -> Tensor:
        lifted = {key: layer(maps[key if key == NEAR else int(key)]) for key, layer in self.lift.items()}
        size = lifted["4"].shape[-2:]
        x = sum(F.interpolate(m, size, mode="bilinear") if m.shape[-2:] != size else m for m in lifted.values())
        x = F.relu(x)
        x = x + F.relu(self.mix(x))
        fine = maps[STRIDE]
        x = F.relu(F.interpolate(self.down(x), fine.shape[-2:], mode="bilinear") + self.detail(fine))
        x = x + F.relu(self.refine(x))
        return self.out(x)[:, 0]


def draw(meta, weight: np.ndarray, *, steps: int, batch: int, real_share: float, rng) -> np.ndarray:
    """Records of every step (steps, batch): half normal, half anomalous, each half at least `real_share` real where
    both origins are there; within an origin by weight."""
    label, made = meta["label"].to_numpy() > 0, meta["synthetic"].to_numpy(bool)
    out = np.empty((steps, batch), np.int64)
    halves = {False: batch - batch // 2, True: batch // 2}
    at = 0
    for anomalous, count in halves.items():
        part = [(label == anomalous) & (made == origin) & (weight > 0) for origin in (False, True)]
        mass = [float(weight[p].sum()) for p in part]
        share = mass[0] / sum(mass)
        if min(mass) > 0:
            share = max(share, real_share)
        chance = np.zeros(len(meta))
        for p, m, s in zip(part, mass, (share, 1 - share)):
            if m > 0:
                chance[p] = s * weight[p] / m
        out[:, at : at + count] = rng.choice(len(meta), (steps, count), p=chance / chance.sum())
        at += count
    return out


def loss_of(logit: Tensor, target: Tensor, known: Tensor, label: Tensor, *, positive: float = POSITIVE) -> Tensor:
    """Focal loss per pixel, |p - y|^2 times the cross-entropy (arXiv:1708.02002, gamma 2, soft labels), and dice.

    logit, target: (B, h, w), target the share of a pixel that is anomalous. known (B,): whether the mask says where; an
    anomalous image without a mask counts by its highest pixels alone. positive: weight of an anomalous pixel.
    """
    where, chance = known[:, None, None], logit.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    focal = (chance - target).square() * entropy * (1 + (positive - 1) * target) * where
    pixels = (where.sum() * logit[0].numel()).clamp_min(1)
    chance, shared = chance * where, target * where
    dice = 1 - (2 * (chance * shared).sum() + 1) / (chance.square().sum() + shared.square().sum() + 1)
    loss = FOCAL * focal.sum() / pixels + dice
    if bool((known < 1).any()):
        flat = logit[known < 1].flatten(1)
        top = flat.topk(max(1, int(TOP * flat.shape[1])), dim=1).values.mean(1)
        loss = loss + F.binary_cross_entropy_with_logits(top, label[known < 1])
    return loss


def keep(m: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, 1, 1): 0 for a channel left out, by chance DROP, 1 / (1 - DROP) for the others."""
    drawn = torch.rand(*m.shape[:2], 1, 1, generator=generator) >= DROP
    return drawn.to(m.device, m.dtype) / (1 - DROP)


class Segmentation:
    """The chance of an anomaly per pixel, in [0, 1], by a head trained on the labelled images' frozen features.

    Beside the features the head sees how far they are from the nearest ones of real normal images, a memory bank's
    distances: what a few anomalies cannot teach. An image that takes part in fitting is compared with other groups'
    normals alone, as a new one will be. Channels are left out at random in training.

    size: long side in pixels that images are resized to, at most about their own. steps, batch, lr: of AdamW. width:
    channels of the head. positive: weight of an anomalous pixel. real_share: least part of the anomalous half of a
    batch, and of the normal half, that is real where generated records are there too.
    """

    def __init__(self, *, size: int = 128, steps: int = 200, batch: int = 16, lr: float = 2e-3, width: int = 32,
                 positive: float = POSITIVE, real_share: float = 0.5, device: str = "auto"):  # fmt: skip
        self.options = {"size": size, "steps": steps, "batch": batch, "lr": lr, "width": width, "positive": positive,
                        "real_share": real_share, "device": device}  # fmt: skip
        self.device = pick_device(device)

    def fit(self, records: Records, *, seed: int) -> Segmentation:
        o, meta = self.options, records.meta
        weight = meta["weight"].to_numpy(np.float64, na_value=1.0) if "weight" in meta else np.ones(len(meta))
        label = meta["label"].to_numpy() > 0
        if not (label & (weight > 0)).any() or not (~label & (weight > 0)).any():
            raise InputError(f"records: a segmentation needs normal and anomalous images, got {int((~label).sum())} "
                             f"and {int(label.sum())}; add labelled images")  # fmt: skip
        rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        plan = draw(meta, weight, steps=o["steps"], batch=o["batch"], real_share=o["real_share"], rng=rng)
        used, place = np.unique(plan, return_inverse=True)
        plan, part = place.reshape(plan.shape), records.take(used)
        normal = ~label & (weight > 0)
        real = normal & ~meta["synthetic"].to_numpy(bool)
        normals = records.take(real if real.any() else normal)
        self.memory = bank_of(normals, seed=seed, size=o["size"], bank=BANK, images=NORMALS, device=o["device"])
        self.shape = self.memory.shape
        maps, target, known = self._examples(part)
        self._scale(maps, ~label[used])
        self.head = Head.empty(o["width"]).reset(generator).to(self.device, memory_format=torch.channels_last)
        self._train(plan, maps, target, known, torch.from_numpy(label[used]).float(), rng, generator)
        return self

    def _examples(self, part: Records) -> tuple[dict[int, Tensor], Tensor, Tensor]:
        """Maps (half the memory in float16), targets (N, h, w), and whether the mask says where (N,)."""
        from detection.features import CACHE, unpack

        maps = unpack(CACHE.features(part.x, self.shape, self.device), self.shape)
        grid = self.shape[0] // STRIDE, self.shape[1] // STRIDE
        target = np.stack([np.clip(resize(m.astype(np.float32), grid), 0, 1) for m in part.mask])
        known = [bool(m.any()) or not label for m, label in zip(part.mask, part.meta["label"])]
        maps[NEAR] = self._distances(maps, self.memory.apart(part.meta))
        return maps, torch.from_numpy(target).float(), torch.tensor(known).float()

    def _distances(self, maps: dict[int, Tensor], hidden: np.ndarray) -> Tensor:
        """(N, C, h, w) of all images, BATCH at a time."""
        parts = []
        for low in range(0, len(hidden), BATCH):
            some = slice(low, low + BATCH)
            near = self.memory.residuals({s: maps[s][some].float() for s in COMPARED}, hidden[some])
            parts.append(near.cpu())
        return torch.cat(parts)

    def _scale(self, maps: dict[int | str, Tensor], normal: np.ndarray) -> None:
        """Mean and spread of every channel over at most 200 of the normal images."""
        index = torch.from_numpy(np.flatnonzero(normal)[:200])
        self.centre, self.spread = {}, {}
        for stride, m in maps.items():
            values = m[index].float().transpose(0, 1).flatten(1)
            self.centre[stride] = values.mean(1)[:, None, None]
            self.spread[stride] = values.std(1, correction=0).clamp_min(1e-3)[:, None, None]

    def _standard(self, maps: dict[int | str, Tensor]) -> dict[int | str, Tensor]:
        scaled = {s: (m.float() - self.centre[s]) / self.spread[s] for s, m in maps.items()}
        return {s: m.to(self.device, memory_format=torch.channels_last) for s, m in scaled.items()}

    def _train(self, plan: np.ndarray, maps, target: Tensor, known: Tensor, label: Tensor, rng, generator) -> None:
        steps, lr = len(plan), self.options["lr"]
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=lr, weight_decay=1e-2)
        # a rise of a tenth needs a second step, or it would be divided by its length of nought
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 11), pct_start=0.1)
        for chosen in plan:
            index = torch.from_numpy(chosen)
            flips = [axis for axis in (-1, -2) if rng.random() < 0.5]
            x = {s: m.flip(flips) * keep(m, generator)
                 for s, m in self._standard({s: m[index] for s, m in maps.items()}).items()}  # fmt: skip
            y = target[index].flip(flips).to(self.device)
            logit = self.head(x)
            loss = loss_of(logit, y, known[index].to(self.device), label[index].to(self.device),
                           positive=self.options["positive"])  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self.head.eval()

    @torch.no_grad()
    def _grids(self, records: Records, wanted: list[np.ndarray] | None = None) -> np.ndarray:
        """(N, h, w) float32 lightly smoothed chances, in passes of one size, padded. wanted: the patches of each record
        whose distances are computed, all where none are given."""
        out = [np.zeros((0, self.shape[0] // STRIDE, self.shape[1] // STRIDE), np.float32)]
        for low in range(0, len(records), BATCH):
            maps = features_of(records, self.shape, self.device, low, low + BATCH)
            maps[NEAR] = self.memory.residuals(maps, wanted=wanted and wanted[low : low + BATCH]).cpu()
            count = len(maps[STRIDE])
            maps = {s: F.pad(m, (0, 0) * 3 + (0, BATCH - count)) for s, m in maps.items()}
            out.append(smooth(self.head(self._standard(maps)).sigmoid())[:count].cpu().numpy())
        return np.concatenate(out)

    def score_map(self, records: Records) -> list[np.ndarray]:
        """(H, W) float32 per record at its own size."""
        return [to_size(grid, image.shape) for grid, image in zip(self._grids(records), records.x)]

    def score_near(self, records: Records) -> list[np.ndarray]:
        """As MemoryBank.score_near."""
        # a pixel is seen through a bilinear step, a smoothing and a 3x3 convolution at stride 2, then at stride 4
        # through both again, then through the bilinear step from the patches' stride: 22 pixels, under 3 patches of 8
        grids = self._grids(records, self.memory.near(records.mask, 3))
        return [to_size(grid, image.shape) for grid, image in zip(grids, records.x)]

    def score(self, records: Records) -> np.ndarray:
        """(N,) float32: the largest value of the smoothed map."""
        return self._grids(records).max((1, 2))

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays = {f"head.{name}": value.cpu().numpy() for name, value in self.head.state_dict().items()}
        for key in CHANNELS:
            arrays[f"centre.{key}"] = self.centre[key].numpy()
            arrays[f"spread.{key}"] = self.spread[key].numpy()
        bank, memory = self.memory.state()
        arrays |= {f"memory.{name}": value for name, value in bank.items()}
        return arrays, {"options": self.options, "shape": list(self.shape), "memory": memory}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], config: dict) -> Segmentation:
        out = cls(**config["options"])
        out.shape = tuple(config["shape"])
        bank = {name[7:]: value for name, value in arrays.items() if name.startswith("memory.")}
        out.memory = MemoryBank.from_state(bank, config["memory"])
        arrays = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        out.head = Head.empty(out.options["width"])
        out.head.load_state_dict({name[5:]: value for name, value in arrays.items() if name.startswith("head.")})
        out.head.to(out.device, memory_format=torch.channels_last).eval()
        out.centre, out.spread = ({s: arrays[f"{part}.{s}"] for s in CHANNELS} for part in ("centre", "spread"))
        return out
