"""Stage fit: the base denoiser of a data set, trained on its normals under random masks.

Reads records/fit. Writes base/ (model.safetensors, config.json, loss.csv). Measures the loss over the last tenth.
"""

from __future__ import annotations

from pathlib import Path

from data.atomic import atomic_dir
from pipelines.stage import Run, progress, stage


def main(run: Run) -> dict:
    import numpy as np

    from data.records import read_store
    from generation.attention import backend
    from generation.model import pick_device
    from generation.training import base_steps, fit_base

    settings = run.settings.model_dump(by_alias=True)
    device = pick_device(run.params.device)
    fit = read_store(run.paths.records / "fit")
    steps = base_steps(run.modality, settings)
    source = settings.get("latent", {}).get("source")  # a folder may be filled anew under its name
    inputs = [run.paths.records / "fit", *([Path(source)] if source else [])]
    with run.work(*inputs) as work, progress(steps, f"fit {run.dataset}") as bar:
        base, losses = fit_base(
            fit, settings=settings, seed=0, device=device, folder=work.scratch("base"),
            report=lambda step, loss: bar.to(step, f"loss {loss:.3f}"),
        )  # fmt: skip
        with atomic_dir(run.paths.base) as folder:
            base.save(folder, device=device, attention=backend(device))
            write_losses(folder / "loss.csv", losses)
    tail = losses[-max(1, len(losses) // 10) :]
    return {"records": len(fit), "loss": f"{np.mean(tail):.4f}" if losses else "none", "device": device}


def write_losses(path, losses: list[float]) -> None:
    """step,loss: means over up to 200 equal stretches of the run, as `dvc plots` and the report show them."""
    stretch = max(1, len(losses) // 200)
    lines = ["step,loss"]
    for start in range(0, len(losses) - stretch + 1, stretch):
        part = losses[start : start + stretch]
        lines.append(f"{start + stretch},{sum(part) / len(part):.6f}")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    stage(main, section="fit")
