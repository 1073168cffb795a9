"""Fitting a base on normals and an adapter on the support set, and the guidance scale each kind needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from data.records import Records
from data.records.codecs import CODECS
from generation import examples
from generation.contrast import contrast
from generation.diffusion import denoising_loss, training_sigma
from generation.fit import Trainer, autocast, train
from generation.inpaint import generate
from generation.latent import reconstruction_loss
from generation.model import Adapter, Base
from generation.plan import plan

Report = Callable[[int, float], None] | None
SCALES = (1.0, 1.5, 2.0, 3.0)  # cfg_scales tried for each kind; pilots found 1.2 to 2


def shape_of(codec, fit: Records) -> tuple[int, ...]:
    """Shape of one encoded record: (features,), (channels, T), or () for images, whose crops have the model's size."""
    return () if fit.modality == "image" else tuple(codec.encode(fit.take([0]))[0].shape[1:])


def draws(seed: int, step: int, count: int, shape: tuple[int, ...], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(sigma (count,), eps (count, *shape)) of a training step, from seed and step alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    sigma = training_sigma(torch.rand(count, generator=generator))
    return sigma.to(device), torch.randn((count, *shape), generator=generator).to(device)


def with_noise(batch: Callable[[int], dict], seed: int, device: str) -> Callable[[int], dict]:
    """Batches that carry their own sigma and eps, so that a micro-batch of them is a part of the whole."""

    def draw(step: int) -> dict:
        part = batch(step)
        sigma, eps = draws(seed, step, len(part["x0"]), tuple(part["x0"].shape[1:]), device)
        return {**part, "sigma": sigma, "eps": eps}

    return draw


def loss_of(base: Base) -> Callable[[dict], torch.Tensor]:
    """The denoising loss of a batch with sigma, eps, weight and conditions."""

    def loss(batch: dict) -> torch.Tensor:
        cond = {key: batch[key] for key in ("known", "mask", "kind")}
        with autocast(base.device, base.modality):
            return denoising_loss(
                base.denoiser,
                batch["x0"],
                batch["sigma"],
                batch["eps"],
                batch["weight"],
                base.denoiser.sigma_data,
                **cond,
            )

    return loss


def fit_autoencoder(
    base: Base,
    fit: Records,
    *,
    steps: int,
    batch: int,
    lr: float,
    pool: int,
    seed: int,
    folder: Path | None = None,
    report: Report = None,
) -> list[float]:
    """Train the latent's autoencoder on crops of normals, half of them with drawn blots, then measure its latents.

    The blots are random shapes of random tone: nothing of the labelled defects, but the decoder learns to draw what a
    normal image does not hold.
    """
    size = base.config["settings"]["size"]
    crops, holes = examples.image_crops(fit, size=size, count=pool, seed=seed + 11)
    store = torch.as_tensor(blotted(crops, holes, seed), device=base.device)
    latent = base.latent
    if steps:
        parameters = dict(latent.net.named_parameters())
        latent.net.train().requires_grad_(True).to(memory_format=torch.channels_last)  # faster on CPUs
        store = store.contiguous(memory_format=torch.channels_last)

        def batch_at(step: int) -> dict:
            index = torch.as_tensor(examples.rng_of(seed, 5, step).integers(len(store), size=batch), device=base.device)
            return {"images": store[index]}

        def loss(part: dict) -> torch.Tensor:
            with autocast(base.device, base.modality):
                return reconstruction_loss(latent, part["images"])

        trainer = Trainer(parameters, loss, batch_at, steps=steps, lr=lr, ema=0.99)
        losses = train(trainer, folder=folder, report=report)
        latent.net.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    else:
        losses = []
    latent.measure(store[:512])
    return losses


def blotted(crops: np.ndarray, holes: np.ndarray, seed: int) -> np.ndarray:
    """Crops (N, 3, S, S), every other one with its hole shifted in tone by a random amount, softly edged."""
    from scipy.ndimage import gaussian_filter

    out = crops.copy()
    for i in range(0, len(out), 2):
        rng = examples.rng_of(seed, 13, i)
        soft = gaussian_filter(holes[i, 0], rng.uniform(0.3, 2.0))
        out[i] = np.clip(out[i] + rng.uniform(-1.2, 1.2) * soft, -1, 1)
    return out


def base_steps(modality: str, settings: dict) -> int:
    """Training steps of `fit_base`, those of an autoencoder of its own first."""
    latent = settings["latent"] if modality == "image" and not settings.get("pretrained") else {}
    return settings["steps"] + (latent["steps"] if latent.get("kind") == "train" else 0)


def fit_base(
    fit: Records, *, settings: dict, seed: int, device: str, folder: Path | None = None, report: Report = None
) -> tuple[Base, list[float]]:
    """A base fitted on normals under random masks, and its losses. `folder` keeps checkpoints for a rerun.

    report: told of the steps done, out of `base_steps`, and the loss.
    """
    codec = CODECS[fit.modality].fit(fit)
    base = Base.build(fit.modality, codec, settings, shape=shape_of(codec, fit), device=device, seed=seed)
    before = base_steps(fit.modality, settings) - settings["steps"]
    if fit.modality == "image" and not base.pretrained:
        part = settings["latent"]
        fit_autoencoder(
            base,
            fit,
            steps=before,
            batch=settings["batch"],
            lr=part["lr"],
            pool=min(1024, settings["pool"]),
            seed=seed,
            folder=folder / "autoencoder" if folder else None,
            report=report,
        )
    if base.pretrained:  # it knows what is normal already
        return base, []
    batches = examples.base_batches(base, fit, batch=settings["batch"], seed=seed, pool=settings["pool"])
    parameters = {k: p for k, p in base.net.named_parameters() if p.numel() and not k.endswith("kinds.weight")}
    base.net.requires_grad_(True)
    trainer = Trainer(
        parameters, loss_of(base), with_noise(batches, seed, device), steps=settings["steps"], lr=settings["lr"]
    )
    after = (lambda step, loss: report(before + step, loss)) if report else None
    losses = train(trainer, folder=folder / "denoiser" if folder else None, report=after)
    base.denoiser.eval().requires_grad_(False)
    return base, losses


def fit_adapter(
    base: Base,
    fit: Records,
    support: Records,
    *,
    settings: dict,
    seed: int,
    folder: Path | None = None,
    report: Report = None,
) -> tuple[Adapter, list[float]]:
    """An adapter fitted on the support set with prior preservation, folded for use, and its losses."""
    kinds = sorted(set(support.meta["kind"]))
    adapter = Adapter.build(base, kinds, rank=settings["rank"], seed=seed)
    batches = examples.adapter_batches(
        base, fit, support, kinds, batch=settings["batch"], seed=seed, pool=settings["pool"], prior=settings["prior"]
    )
    parameters = adapter.parameters()
    for p in parameters.values():
        p.requires_grad_(True)
    trainer = Trainer(
        parameters, loss_of(base), with_noise(batches, seed + 1, base.device),
        steps=settings["steps"], lr=settings["lr"], ema=0.99,
    )  # fmt: skip
    losses = train(trainer, folder=folder, report=report)
    adapter.fold()
    base.denoiser.eval().requires_grad_(False)
    return adapter, losses


def match_scales(
    adapter: Adapter, fit: Records, support: Records, folds: dict[str, int], *, seed: int, count: int, sampling: dict
) -> dict[str, dict]:
    """Set adapter.scales to the cfg_scale whose generations stand out like the support, a kind each; what was measured.

    Rows keep 1: what makes a row anomalous is kept from the host, not generated.
    """
    if adapter.base.modality == "row":
        return {}
    codec, target = adapter.base.codec, contrast(support, adapter.base.codec)
    trial = plan(fit, support, folds, count=8 * count * len(adapter.kinds), seed=seed + 101, round_=0)
    trial = trial.groupby("kind", sort=True).head(count).sort_values("kind", kind="stable")
    trial["severity_factor"] = 1.0
    found: dict[str, dict[float, float]] = {kind: {} for kind in adapter.kinds}
    for scale in SCALES:
        adapter.scales = dict.fromkeys(adapter.kinds, scale)
        made = np.concatenate([contrast(part, codec) for part in generate(adapter, fit, support, trial, **sampling)])
        for kind in adapter.kinds:
            found[kind][scale] = float(np.median(made[(trial["kind"] == kind).to_numpy()]))
    measured: dict[str, dict] = {}
    for kind in adapter.kinds:
        goal = float(np.median(target[(support.meta["kind"] == kind).to_numpy()]))
        by_scale = found[kind]
        adapter.scales[kind] = min(by_scale, key=lambda s: abs(np.log((by_scale[s] + 1e-6) / (goal + 1e-6))))
        measured[kind] = {"support": goal, "by_scale": by_scale, "chosen": adapter.scales[kind]}
    return measured
