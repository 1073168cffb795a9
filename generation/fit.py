"""The one training loop: base on normals, then LoRA on the support set; resumable, same result as uninterrupted."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from data.atomic import atomic_file
from data.errors import ResourceError

Batch = dict[str, Tensor]
CHECKPOINT_SECONDS = 30.0


class Trainer:
    """AdamW with warm-up, cosine decay and an averaged copy of the trained parameters.

    `loss(batch) -> scalar`; `batch(step) -> dict of tensors with a leading batch axis` must depend on its argument
    alone, which is what makes a resumed run equal to an uninterrupted one. `parameters` by name.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        loss: Callable,
        batch: Callable[[int], Batch],
        *,
        steps: int,
        lr: float,
        ema: float = 0.999,
        weight_decay: float = 0.0,
        warmup: int = 50,
    ):
        self.parameters, self.loss, self.batch = parameters, loss, batch
        self.steps, self.lr, self.ema, self.warmup = steps, lr, ema, min(warmup, max(1, steps // 10))
        self.optimizer = torch.optim.AdamW(
            parameters.values(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True
        )
        self.average = {name: p.detach().clone() for name, p in parameters.items()}
        self.step, self.losses, self.micro = 0, [], None

    def rate(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then half a cosine down to 2 % of `lr`."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def _gradient(self, batch: Batch) -> float:
        """Mean loss of a batch, its gradient left in the parameters; halves the micro-batch when memory runs out."""
        size = len(next(iter(batch.values())))
        self.micro = min(self.micro or size, size)
        while True:
            try:
                total = 0.0
                for start in range(0, size, self.micro):
                    part = {k: v[start : start + self.micro] for k, v in batch.items()}
                    share = len(next(iter(part.values()))) / size
                    value = self.loss(part) * share
                    value.backward()
                    total += float(value.detach())
                return total
            except torch.OutOfMemoryError as error:
                self.optimizer.zero_grad(set_to_none=True)
                if self.micro == 1:
                    raise ResourceError(
                        "device memory: one record does not fit; lower fit.*.batch, fit.*.size or the widths"
                    ) from error
                self.micro = max(1, self.micro // 2)
                torch.cuda.empty_cache()

    def run(self) -> Iterator[tuple[int, float]]:
        """Yield (step, loss) after each step until `steps`; ResourceError where the loss is not finite."""
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            value = self._gradient(self.batch(self.step))
            if not math.isfinite(value):
                raise ResourceError(f"training: loss must be finite, got {value} at step {self.step}; lower the lr")
            norm = float(nn.utils.clip_grad_norm_(self.parameters.values(), 1.0))
            if not math.isfinite(norm):
                what = f"gradient must be finite, got {norm} at step {self.step}"
                raise ResourceError(f"training: {what}; lower the lr")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.losses.append(value)
            decay = min(self.ema, self.step / (self.step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)
            yield self.step, value

    def finish(self) -> None:
        """Put the averaged parameters in place of the last ones."""
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.average[name])

    def save(self, folder: Path) -> None:
        """Write the state, and beside it step, losses and hash; the pair before stays, in case this one is torn."""
        from safetensors.torch import save

        tensors = {}
        for index, (name, p) in enumerate(self.parameters.items()):
            tensors[f"p.{name}"], tensors[f"a.{name}"] = p.detach(), self.average[name]
            state = self.optimizer.state.get(p, {})
            tensors |= {f"o.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        blob = save({k: v.contiguous().cpu() for k, v in tensors.items()})
        digest = hashlib.sha256(blob).hexdigest()
        target = folder / f"checkpoint-{self.step:09d}.safetensors"
        with atomic_file(target) as path:
            path.write_bytes(blob)
        note = {"step": self.step, "losses": self.losses, "sha256": digest}
        with atomic_file(target.with_suffix(".json")) as path:
            path.write_text(json.dumps(note))
        for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-2]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()

    def resume(self, folder: Path) -> bool:
        """Continue from the newest whole checkpoint of `folder`, if there is one; torn ones are named on stderr."""
        from safetensors.torch import load

        for note_path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
            note, blob = whole(note_path)
            if note is not None:
                break
            print(f"{note_path}: checkpoint torn; training goes on from before it", file=sys.stderr, flush=True)
            note_path.unlink()
        else:
            return False
        for newer in folder.glob("checkpoint-*.safetensors"):  # torn, or without a note: it shall push no whole one out
            if newer.stem > note_path.stem:
                newer.unlink()
        tensors = load(blob)
        with torch.no_grad():
            for index, (name, p) in enumerate(self.parameters.items()):
                p.copy_(tensors[f"p.{name}"])
                self.average[name].copy_(tensors[f"a.{name}"])
                prefix = f"o.{index}."
                state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                if state:  # laid out as the parameter is: the fused optimizer walks memory
                    self.optimizer.state[p] = {
                        k: v.to(p.device) if k == "step" else torch.empty_like(p).copy_(v) for k, v in state.items()
                    }
        self.step, self.losses = note["step"], note["losses"]
        return True


def train(
    trainer: Trainer, *, folder: Path | None = None, report: Callable[[int, float], None] | None = None
) -> list[float]:
    """The losses of a run to its end, checkpointed under `folder` every half minute; parameters end averaged."""
    if folder:
        trainer.resume(folder)
    saved = time.monotonic()
    for step, value in trainer.run():
        if report:
            report(step, value)
        if folder and time.monotonic() - saved > CHECKPOINT_SECONDS:
            trainer.save(folder)
            saved = time.monotonic()
    trainer.finish()
    return trainer.losses


def autocast(device: str, modality: str):
    """bf16 on a GPU, and for images on a CPU with units for it; else nothing.

    With AVX512-BF16 alone that pays for large latents and wide networks; for the demo's small ones it changes little.
    """
    kind = device.split(":")[0]
    units = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("amx_tile", "avx512_bf16"))
    pays = kind == "cuda" or (kind == "cpu" and modality == "image" and any(has() for has in units))
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=pays)


def whole(note_path: Path) -> tuple[dict | None, bytes]:
    """(what a checkpoint's note says, the checkpoint), (None, b"") where one of them is missing or torn."""
    try:
        note, blob = json.loads(note_path.read_text()), note_path.with_suffix(".safetensors").read_bytes()
        same = hashlib.sha256(blob).hexdigest() == note["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None, b""
    return (note, blob) if same else (None, b"")
