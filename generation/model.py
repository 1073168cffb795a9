"""A fitted base and the adapter on it: built from settings, saved as safetensors beside config.json, loaded whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data.errors import InputError, SettingsError
from data.records.codecs import CODECS
from generation import lora
from generation.diffusion import Denoiser, noise
from generation.fit import autocast
from generation.latent import Latent, build
from generation.networks import NETWORKS


def pick_device(setting: str = "auto") -> str:
    """'cuda' where `setting` is auto and a GPU is there, else the setting itself or 'cpu'.

    SettingsError where it is cuda and torch sees none.
    """
    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if setting == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device: must be auto or cpu where torch sees no GPU, got {setting}; set device: auto")
    return setting


def check_size(size: int, step: int) -> None:
    """SettingsError where a crop's side is no multiple of what the network takes."""
    if size % step:
        near = max(1, round(size / step)) * step
        raise SettingsError(f"fit.image.size: must be a multiple of {step} for this model, got {size}; take {near}")


def save_tensors(folder: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """model.safetensors and config.json with its sha256 under `folder`."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    blob = save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})
    (folder / "model.safetensors").write_bytes(blob)
    config = {**config, "sha256": hashlib.sha256(blob).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))


def load_tensors(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """What `save_tensors` wrote; InputError where a file is missing, torn or of another run."""
    from safetensors.torch import load

    try:
        config = json.loads((folder / "config.json").read_text())
        blob = (folder / "model.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: must hold model.safetensors and config.json ({error}); run the stage again"
        ) from error
    if hashlib.sha256(blob).hexdigest() != config.get("sha256"):
        raise InputError(f"{folder}/model.safetensors: sha256 differs from config.json; run the stage again")
    return load(blob), config


def sums(pipeline: torch.nn.Module) -> Tensor:
    """(weights,) sums of a pretrained pipeline's UNet and autoencoder, enough to know it again.

    They are of bf16, which is all that a GPU holds of the UNet, and so the same on any device.
    """
    parts = (p for part in (pipeline.net, pipeline.vae) for p in part.parameters())
    return torch.stack([p.detach().bfloat16().double().sum().cpu() for p in parts])


@dataclass
class Base:
    """A mask-conditioned denoiser of normal records: codec, optional latent space, denoiser."""

    modality: str
    codec: object
    denoiser: torch.nn.Module
    latent: torch.nn.Module | None
    config: dict
    device: str = "cpu"
    adapted: bool = False  # whether it carries an adapter

    @classmethod
    def build(
        cls, modality: str, codec, settings: dict, *, shape: tuple[int, ...], device: str = "cpu", seed: int = 0
    ) -> Base:
        """An untrained base. shape: (features,) rows, (channels, T) series, ignored for images (settings.size)."""
        if modality != "image" and device == "cpu":
            torch.set_num_threads(
                1
            )  # small nets gain nothing from a second core, and stall where it is taken (30x seen)
        config = {"modality": modality, "settings": settings, "shape": list(shape), "codec": codec.state()}
        if modality == "image" and settings.get("pretrained"):
            from generation.pretrained import load

            wrapped = load(
                settings["pretrained"],
                revision=settings.get("revision"),
                prompts=settings.get("prompts") or None,
                device=device,
            )
            check_size(settings["size"], wrapped.factor)
            return cls(modality, codec, wrapped, wrapped, config, device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            latent = None
            if modality == "image":
                keys = ("kind", "channels", "factor", "width", "source", "revision")
                latent = build(**{key: settings["latent"].get(key) for key in keys}).eval().requires_grad_(False)
                check_size(settings["size"], latent.factor * 2 ** (len(settings["widths"]) - 1))
                # mask conditioning: factor^2 sub-cell coverages and the hole
                net = NETWORKS["image"](
                    latent.channels, latent.factor**2 + 1, list(settings["widths"]), settings["layers"]
                )
            elif modality == "series":
                channels, length = shape
                net = NETWORKS["series"](channels, length, settings["patch"], settings["width"], settings["depth"])
            else:
                net = NETWORKS["row"](shape[0], settings["width"], settings["depth"])
        denoiser = Denoiser(net, sigma_data=1.0).to(device)
        return cls(modality, codec, denoiser, latent.to(device) if latent is not None else None, config, device)

    @property
    def net(self) -> torch.nn.Module:
        return self.denoiser.net

    @property
    def pretrained(self) -> bool:
        return bool(self.config["settings"].get("pretrained"))

    def save(self, folder: Path, **extra) -> None:
        """Weights and config; a pretrained pipeline is named, not copied."""
        tensors = {} if self.pretrained else {f"net.{k}": v for k, v in self.net.state_dict().items()}
        if self.latent is not None and not self.pretrained:
            tensors |= {f"latent.{k}": v for k, v in self.latent.state_dict().items()}
        if self.pretrained:
            tensors = {"fingerprint": sums(self.denoiser)}
        save_tensors(folder, tensors, {**self.config, **extra})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Base:
        tensors, config = load_tensors(folder)
        settings = config["settings"]
        codec = CODECS[config["modality"]].from_state(config["codec"])
        base = cls.build(config["modality"], codec, settings, shape=tuple(config["shape"]), device=device)
        base.config = config
        if base.pretrained:
            known, found = tensors["fingerprint"], sums(base.denoiser)
            if known.shape != found.shape or not torch.allclose(known, found, rtol=0, atol=1e-6):
                raise InputError(
                    f"{folder}: the base was fitted on other weights than {settings['pretrained']} holds; put them "
                    "back, or run fit again (dvc repro --force --single-item fit@.., or crossfit@.. for one in judges/)"
                )
        else:
            pick = lambda prefix: {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
            base.net.load_state_dict(pick("net."))
            if base.latent is not None:
                base.latent.load_state_dict(pick("latent."))
        base.denoiser.eval().requires_grad_(False)
        return base

    def take_adapter(self) -> None:
        """Note that it carries an adapter from now on; ValueError where it does: a second would be put on the first."""
        if self.adapted:
            raise ValueError("a base carries one adapter, and this one does; load the base again for another")
        self.adapted = True

    def denoise(self, x: Tensor, sigma: Tensor, **cond) -> Tensor:
        """x0 as a normal record would have it: kind 0, any adapter on the network switched off by the caller."""
        cond["kind"] = torch.zeros(len(x), dtype=torch.long, device=x.device)
        with autocast(self.device, self.modality):
            return self.denoiser(x, sigma, **cond)


@dataclass
class Adapter:
    """LoRA and kind vectors on a base. kinds: names, number i + 1 in the network; scales: cfg_scale a kind."""

    base: Base
    kinds: list[str]
    config: dict
    scales: dict[str, float] = field(default_factory=dict)
    layers: list = field(default_factory=list)
    folded: dict[str, Tensor] | None = None  # the tensors of an adapter that can only be used

    @classmethod
    def build(cls, base: Base, kinds: list[str], *, rank: int, seed: int) -> Adapter:
        """A fresh adapter, changing nothing yet; ValueError where the base carries one."""
        base.take_adapter()
        owner = base.denoiser if base.pretrained else base.net
        if base.pretrained:
            owner.kinds.name(kinds)  # kinds as prompts
        lora.add(owner, rank=rank, kinds=len(kinds), seed=seed)
        layers = lora.layers(base.denoiser)
        return cls(base, kinds, {"rank": rank, "seed": seed}, dict.fromkeys(kinds, 1.0), layers)

    @property
    def owner(self) -> torch.nn.Module:
        return self.base.denoiser if self.base.pretrained else self.base.net

    def parameters(self) -> dict[str, Tensor]:
        return lora.trainable(self.owner) if self.folded is None else self.folded

    def fold(self) -> None:
        """Make it one that is used, not trained: as fast as the base. A pretrained base, of coarser numbers, keeps it
        beside its weights."""
        if not self.base.pretrained:
            self.folded = {name: p.detach().clone() for name, p in self.parameters().items()}
            if self.layers:
                lora.unwrap(self.owner)
            self.layers = lora.fold(self.owner, self.folded, kinds=len(self.kinds))

    def save(self, folder: Path, **extra) -> None:
        config = {**self.config, "kinds": self.kinds, "scales": self.scales, "base": self.base.config.get("sha256")}
        save_tensors(folder, self.parameters(), {**config, **extra})

    @classmethod
    def load(cls, base: Base, folder: Path, *, train: bool = False) -> Adapter:
        """The adapter saved in `folder` on a fresh `base`; InputError where it is of another base or a no-op.

        Without `train` it can only be used (see `fold`).
        """
        tensors, config = load_tensors(folder)
        if config["base"] != base.config.get("sha256"):
            raise InputError(f"{folder}: adapter belongs to another base; run adapt again")
        kinds = config["kinds"]
        try:
            if train or base.pretrained:
                adapter = cls.build(base, kinds, rank=config["rank"], seed=config["seed"])
                lora.load(adapter.owner, tensors)
            else:
                base.take_adapter()
                adapter = cls(base, kinds, config, folded=tensors)
                adapter.layers = lora.fold(base.net, tensors, kinds=len(kinds))
        except ValueError as error:
            raise InputError(f"{folder}: {error}") from error
        adapter.config, adapter.scales = config, config["scales"]
        base.denoiser.eval().requires_grad_(False)
        return adapter

    @contextmanager
    def jittered(self, seeds: list[int], std: float) -> Iterator[None]:
        """Within it each record's kind vector is moved by noise of its own seed, `std` times the vectors' rms."""
        kinds, weight = self.owner.kinds, self.owner.kinds.weight.detach()
        if std:
            drawn = noise([s + 1 for s in seeds], tuple(weight.shape[1:])).to(weight)
            kinds.offset = std * weight.square().mean().sqrt() * drawn
        try:
            yield
        finally:
            kinds.offset = None

    def denoise(self, x: Tensor, sigma: Tensor, **cond) -> Tensor:
        """x0 as an anomaly of cond['kind'] would have it."""
        with autocast(self.base.device, self.base.modality):
            return self.base.denoiser(x, sigma, **cond)

    def denoise_base(self, x: Tensor, sigma: Tensor, **cond) -> Tensor:
        """x0 as a normal record would have it: the same network with this adapter off."""
        with lora.switched_off(self.layers):
            return self.base.denoise(x, sigma, **cond)


__all__ = ["Adapter", "Base", "Latent", "pick_device"]
