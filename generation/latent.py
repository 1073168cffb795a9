"""Where images are diffused: pixels themselves, an autoencoder trained here, or a pretrained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import InputError


class Latent(nn.Module):
    """An autoencoder with its latents brought to mean 0 and std 1 a channel.

    encode: (B, 3, H, W) in [-1, 1] -> (B, channels, H / factor, W / factor); decode goes back. `net` has
    `encode(x) -> z` and `decode(z) -> x`.
    """

    def __init__(self, net: nn.Module, channels: int, factor: int):
        super().__init__()
        self.net, self.channels, self.factor = net, channels, factor
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    def encode(self, images: Tensor) -> Tensor:
        return (self.net.encode(images) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.net.decode(latents * self.std + self.mean).clamp(-1, 1)

    @torch.no_grad()
    def measure(self, images: Tensor) -> None:
        """Take mean and std a channel from the latents of `images`."""
        z = torch.cat([self.net.encode(part) for part in images.split(32)])
        self.mean.copy_(z.mean(dim=(0, 2, 3), keepdim=True))
        self.std.copy_(z.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-3))


class Pixels(nn.Module):
    """Latents that are pixels, `factor` x `factor` of them folded into channels."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def encode(self, images: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(images, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(latents, self.factor)


class Autoencoder(nn.Module):
    """A diffusers autoencoder (AutoencoderTiny or AutoencoderKL), deterministic, behind encode and decode."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def encode(self, images: Tensor) -> Tensor:
        out = self.vae.encode(images)
        return out.latents if hasattr(out, "latents") else out.latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents).sample


def tiny(channels: int, factor: int, width: int) -> Latent:
    """An untrained AutoencoderTiny with `factor` 2, 4 or 8, to be trained by `fit_autoencoder`."""
    from diffusers import AutoencoderTiny

    stages = int(np.log2(factor)) + 1
    vae = AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(width,) * stages,
        decoder_block_out_channels=(width,) * stages,
        num_encoder_blocks=(1,) * stages,
        num_decoder_blocks=(1,) * stages,
    )
    return Latent(Autoencoder(vae), channels, factor)


def pretrained(source: str, revision: str | None = None) -> Latent:
    """An autoencoder from a local diffusers folder, a TAEF2 folder of plain arrays, or a hub id; its own latents.

    InputError where the folder holds no safetensors weights: nothing else is loaded.
    """
    folder = Path(source)
    if (folder / "taef2_encoder.pth").exists():
        from generation.taef2 import load

        return Latent(load(folder), 32, 8)
    import json

    import diffusers

    if folder.exists():
        if not any(folder.glob("*.safetensors")):
            raise InputError(f"{source}: an autoencoder must come as safetensors; save it again with diffusers")
        try:
            name = json.loads((folder / "config.json").read_text()).get("_class_name", "AutoencoderKL")
        except (OSError, ValueError) as error:
            what = getattr(error, "strerror", None) or error
            rule = "an autoencoder must have its config.json"
            raise InputError(f"{source}: {rule}, got {what}; save it again with diffusers") from error
        if not hasattr(diffusers, name):
            rule = "_class_name in config.json must be a class of diffusers"
            raise InputError(f"{source}: {rule}, got {name!r}; save it again with diffusers")
        vae = getattr(diffusers, name).from_pretrained(folder, use_safetensors=True, local_files_only=True)
    else:
        vae = diffusers.AutoencoderKL.from_pretrained(source, revision=revision, use_safetensors=True)
    widths = vae.config.get("encoder_block_out_channels") or vae.config.block_out_channels
    return Latent(Autoencoder(vae), vae.config.latent_channels, 2 ** (len(widths) - 1))


def build(
    *, kind: str, channels: int, factor: int, width: int, source: str | None, revision: str | None = None
) -> Latent:
    """An untrained or pretrained `Latent` by its setting: pixels, train or pretrained."""
    if kind == "pixels":
        return Latent(Pixels(factor), 3 * factor**2, factor)
    if kind == "train":
        return tiny(channels, factor, width)
    return pretrained(source, revision)


def reconstruction_loss(latent: Latent, images: Tensor) -> Tensor:
    """Mean |x - D(E(x))| on pixels and on their horizontal and vertical differences, which keeps edges sharp."""
    out = latent.net.decode(latent.net.encode(images))
    error = out - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edges
