"""Stage adapt: LoRA and kind vectors on the base, one adapter a support, and the guidance scale of each kind.

Reads base/, records/fit, records/support, splits.json. Writes adapters/seed<k>/ (safetensors, config, loss.csv).
"""

from __future__ import annotations

from data.files import read_json
from pipelines.fit import write_losses
from pipelines.pool import each
from pipelines.stage import Run, progress, stage


def support_of(run: Run, seed: int, pool):
    """The support records of a seed, in the order of splits.json."""
    position = {name: i for i, name in enumerate(pool.meta["id"])}
    return pool.take([position[name] for name in run.plan["supports"][seed]])


def main(run: Run) -> dict:
    from data.records import read_store
    from generation.model import Base, pick_device
    from generation.training import fit_adapter, match_scales

    settings = run.settings.model_dump(by_alias=True)
    paths, device = run.paths, pick_device(run.params.device)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    sampling = neutral(sampling_of(run.params.section("generate", run.modality)))
    with run.work(paths.base, paths.records, paths.splits, also=sampling) as work:

        def adapt(seed: int) -> None:
            if work.done(f"seed{seed}"):
                return
            support = support_of(run, seed, pool)
            label = f"adapt {run.dataset} seed {seed}"
            with work.unit(f"seed{seed}") as folder, progress(settings["steps"], label) as bar:
                adapter, losses = fit_adapter(
                    Base.load(paths.base, device), fit, support, settings=settings, seed=seed,
                    folder=work.scratch(f"seed{seed}"), report=lambda step, loss: bar.to(step, f"loss {loss:.3f}"),
                )  # fmt: skip
                measured = match_scales(
                    adapter,
                    fit,
                    support,
                    run.plan["folds"][seed],
                    seed=seed,
                    count=settings["match"],
                    sampling=sampling,
                )
                adapter.save(folder, contrast=measured)
                write_losses(folder / "loss.csv", losses)

        each(adapt, run.seeds, f"adapt {run.dataset}", jobs=run.jobs, threads=run.threads)
        work.assemble(paths.adapters, [f"seed{seed}" for seed in run.seeds])
    scales = read_json(paths.adapters / f"seed{run.seeds[-1]}" / "config.json")["scales"]
    return {"adapters": len(run.seeds), "scales": str(scales)}


def neutral(sampling: dict) -> dict:
    """The keywords without what varies records on purpose: the guidance is matched to plain ones."""
    return {key: value for key, value in sampling.items() if key not in ("scale", "kind_noise", "masks")}


def sampling_of(section) -> dict:
    """The keywords of `generate` in a generate section of params.yaml."""
    return {key: value for key, value in section.model_dump(by_alias=True).items() if key != "count"}


if __name__ == "__main__":
    stage(main, section="adapt")
