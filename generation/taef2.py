"""TAEF2, the tiny autoencoder distilled from FLUX.2's latent space, rebuilt from its plain tensors.

The weights come as PyTorch zip files. A zip of tensors holds each tensor's raw bytes as one member, in state-dict
order, so names and shapes from `tensor_shapes.json` beside them are enough: nothing is unpickled.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import InputError

WIDTH, LATENT = 64, 32


class Residual(nn.Module):
    """relu(x + convs(x)), with a grouped-norm bottleneck added to x first where `pool` is set."""

    def __init__(self, pool: bool = False):
        super().__init__()
        conv = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])
        self.pool = None
        if pool:
            wide, narrow = nn.Conv2d(WIDTH, 256, 1, bias=False), nn.Conv2d(256, WIDTH, 1, bias=False)
            self.pool = nn.Sequential(wide, nn.GroupNorm(4, 256), nn.ReLU(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(x + self.conv(x))


class Squash(nn.Module):
    """3 tanh(x / 3): keeps latents within the decoder's range."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def encoder() -> nn.Sequential:
    """RGB in [0, 1] -> (B, 32, H / 8, W / 8)."""
    layers = [nn.Conv2d(3, WIDTH, 3, padding=1), Residual()]
    for stage in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        layers += [Residual(pool=stage == 2) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, LATENT, 3, padding=1))


def decoder() -> nn.Sequential:
    """(B, 32, h, w) -> RGB in about [0, 1], eight times the size."""
    layers = [Squash(), nn.Conv2d(LATENT, WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        layers += [Residual(pool=stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Residual(), nn.Conv2d(WIDTH, 3, 3, padding=1))


class TAEF2(nn.Module):
    """encode and decode on images in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder(), decoder()

    def encode(self, images: Tensor) -> Tensor:
        return self.encoder(images / 2 + 0.5)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents) * 2 - 1


def zipped_tensors(path: Path, shapes: list[tuple[str, list[int]]]) -> dict[str, Tensor]:
    """Half-precision tensors of a PyTorch zip file by name, as float32; InputError where sizes do not fit."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {i.filename.rsplit("/data/", 1)[-1]: i for i in archive.infolist() if "/data/" in i.filename}
            if len(members) != len(shapes):
                raise InputError(f"{path}: must hold {len(shapes)} tensors, has {len(members)}; download it again")
            out = {}
            for index, (name, shape) in enumerate(shapes):
                raw = archive.read(members[str(index)])
                if len(raw) != 2 * math.prod(shape):
                    raise InputError(f"{path}: {name} must be {shape} in half precision, has {len(raw)} bytes")
                values = np.frombuffer(raw, "<f2").astype(np.float32).reshape(shape)
                out[name] = torch.from_numpy(values)
            return out
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{path}: must be a readable zip of tensors ({error}); download it again") from error


def load(folder: Path) -> TAEF2:
    """The autoencoder from `taef2_encoder.pth`, `taef2_decoder.pth` and `tensor_shapes.json` in `folder`."""
    model = TAEF2()
    try:
        shapes = json.loads((folder / "tensor_shapes.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}/tensor_shapes.json: must list every tensor ({error})") from error
    for part, net in (("taef2_encoder", model.encoder), ("taef2_decoder", model.decoder)):
        entries = shapes[part]
        items = list(entries.items()) if isinstance(entries, dict) else [(e[0], e[1]) for e in entries]
        net.load_state_dict(zipped_tensors(folder / f"{part}.pth", items))
    return model.eval()
