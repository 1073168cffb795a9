"""Learning from verdicts: an adapter drawn towards what the filter kept and away from what it refused.

Preference optimisation of a diffusion model without a reward model (Diffusion-DPO, eq. 14, arXiv:2311.12908): for a
kept record a and a refused one r under the same noise, L = -log sigmoid(-beta ((e(a) - e_ref(a)) - (e(r) - e_ref(r)))),
e the denoising error of the adapter as it is trained, e_ref that of the adapter it started as. The support's own
denoising loss is added as an anchor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from data.records import Records
from generation import examples
from generation.diffusion import loss_weight, right
from generation.fit import Trainer, autocast, train
from generation.model import Adapter
from generation.training import Report, draws

SIDES = ("kept", "refused", "support")
MOST = 256  # records of a side that are learnt from, drawn by the seed


def record_examples(adapter: Adapter, records: Records, *, seed: int) -> dict[str, Tensor]:
    """x0, known, mask, weight, kind of generated records, each under its own mask."""
    base = adapter.base
    kind = examples.kind_numbers(records, adapter.kinds)
    if base.modality == "image":
        size = base.config["settings"]["size"]
        crops, masks, owner = examples.defect_crops(records, size=size, count=len(records), seed=seed)
        made = examples.images.examples(base.latent, crops, masks, base.device)
        return {**made, **examples.tensors(base.device, kind=kind[owner])}
    x0, mask = base.codec.encode(records)
    if base.modality == "row":
        cells = np.array([list(c) for c in records.meta["changed"]], bool)
        hole = cells[:, np.asarray(base.codec.feature_column)]
    else:
        hole = np.broadcast_to(mask, x0.shape)
    return examples.masked(x0.astype(np.float32), hole, kind, base.device)


def error(adapter: Adapter, part: dict[str, Tensor], sigma: Tensor, eps: Tensor) -> Tensor:
    """(B,) lambda(sigma) times the weighted mean squared error of the adapter's x0 (eq. 2, arXiv:2206.00364)."""
    denoiser, x0 = adapter.base.denoiser, part["x0"]
    cond = {key: part[key] for key in ("known", "mask", "kind")}
    with autocast(adapter.base.device, adapter.base.modality):
        off = (denoiser(x0 + right(sigma, x0) * eps, sigma, **cond) - x0) ** 2
    weight = part["weight"].expand_as(off)
    mean = (weight * off).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-8)
    return loss_weight(sigma, denoiser.sigma_data) * mean.float()


@contextmanager
def as_it_was(parameters: dict[str, Tensor], reference: dict[str, Tensor]) -> Iterator[None]:
    """Within it the parameters hold the reference's values; no gradient is recorded."""
    with torch.no_grad():
        now = {name: p.detach().clone() for name, p in parameters.items()}
        for name, p in parameters.items():
            p.copy_(reference[name])
        try:
            yield
        finally:
            for name, p in parameters.items():
                p.copy_(now[name])


def preference(kept: Tensor, kept_ref: Tensor, refused: Tensor, refused_ref: Tensor, beta: float) -> Tensor:
    """The mean preference loss of pairs of errors (B,); log 2 where nothing has changed."""
    return -logsigmoid(-beta * ((kept - kept_ref) - (refused - refused_ref))).mean()


def tune(
    adapter: Adapter,
    fit: Records,
    support: Records,
    kept: Records,
    refused: Records,
    *,
    steps: int,
    batch: int,
    lr: float,
    beta: float,
    pool: int,
    seed: int,
    folder: Path | None = None,
    report: Report = None,
) -> list[float]:
    """Tune the adapter in place; its losses. Without steps, kept or refused records nothing is changed: [].

    kept, refused: records that changed their hosts, few enough to be held and encoded at once (`picked`).
    """
    if not steps or not len(kept) or not len(refused):
        return []
    base, parameters = adapter.base, adapter.parameters()
    some = {"kept": kept, "refused": refused}
    stores = {name: record_examples(adapter, part, seed=seed) for name, part in some.items()}
    real = examples.adapter_batches(
        base, fit, support, adapter.kinds, batch=batch, seed=seed + 17, pool=pool, prior=0.0
    )
    reference = {name: p.detach().clone() for name, p in parameters.items()}
    for p in parameters.values():
        p.requires_grad_(True)

    def batch_at(step: int) -> dict[str, Tensor]:
        rng = examples.rng_of(seed, 19, step)
        parts = {"support": real(step)}
        for name, store in stores.items():
            index = torch.as_tensor(rng.integers(len(store["x0"]), size=batch), device=base.device)
            parts[name] = {key: value[index] for key, value in store.items()}
        sigma, eps = draws(seed + 2, step, batch, tuple(parts["kept"]["x0"].shape[1:]), base.device)
        flat = {f"{side}.{key}": value for side in SIDES for key, value in parts[side].items()}
        return {**flat, "sigma": sigma, "eps": eps}

    def loss(part: dict[str, Tensor]) -> Tensor:
        side = {s: {k.split(".")[1]: v for k, v in part.items() if k.startswith(f"{s}.")} for s in SIDES}
        noise = part["sigma"], part["eps"]
        with as_it_was(parameters, reference):
            before = [error(adapter, side[s], *noise) for s in ("kept", "refused")]
        now = {s: error(adapter, side[s], *noise) for s in SIDES}
        return preference(now["kept"], before[0], now["refused"], before[1], beta) + now["support"].mean()

    losses = train(
        Trainer(parameters, loss, batch_at, steps=steps, lr=lr, ema=0.99), folder=folder, report=report
    )
    base.denoiser.eval().requires_grad_(False)
    return losses


def picked(usable: np.ndarray, seed: int) -> np.ndarray:
    """Ascending positions of at most MOST of the `usable` (N,) records of a side, drawn by the seed."""
    found = np.flatnonzero(usable)
    return found[np.sort(examples.rng_of(seed, 23).permutation(len(found))[:MOST])]
