"""Stage tune: the adapters of a round from 2 on, drawn towards what the filter of the round before kept.

Reads base/, the round before's adapters, generated and verdicts, records/fit, records/support, splits.json. Writes
r<r>/adapters/seed<k>/ (safetensors, config, loss.csv). With 0 steps, or nothing kept or refused, they stay the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.files import read_table
from pipelines.adapt import support_of
from pipelines.fit import write_losses
from pipelines.pool import each
from pipelines.stage import Run, progress, stage

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from data.records import Records


def main(run: Run) -> dict:
    from data.records import read_store
    from generation.model import Adapter, Base, pick_device
    from generation.tuning import tune

    settings = run.settings.model_dump(by_alias=True)
    paths, device, number = run.paths, pick_device(run.params.device), run.round - 1
    before, home = paths.adapters_of(number), paths.round(number)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    inputs = [paths.base, paths.records, paths.splits, before, home / "generated", home / "verdicts"]
    with run.work(*inputs) as work:

        def one(seed: int) -> bool:
            if work.done(f"seed{seed}"):
                return False
            keep = read_table(home / "verdicts" / f"seed{seed}.parquet", columns=["keep"])["keep"].to_numpy(bool)
            label = f"tune {run.dataset} r{run.round} seed {seed}"
            with work.unit(f"seed{seed}") as folder, progress(settings["steps"], label) as bar:
                adapter = Adapter.load(Base.load(paths.base, device), before / f"seed{seed}", train=True)
                losses = []
                if settings["steps"]:
                    kept, refused = sides(home / "generated" / f"seed{seed}", keep, seed)
                    losses = tune(
                        adapter, fit, support_of(run, seed, pool), kept, refused, **settings, seed=seed,
                        folder=work.scratch(f"seed{seed}"), report=lambda step, loss: bar.to(step, f"loss {loss:.3f}"),
                    )  # fmt: skip
                adapter.save(folder, contrast=adapter.config.get("contrast", {}))
                write_losses(folder / "loss.csv", losses)
            return bool(losses)

        tuned = each(one, run.seeds, f"tune {run.dataset} r{run.round}", jobs=run.jobs, threads=run.threads)
        work.assemble(paths.adapters_of(run.round), [f"seed{seed}" for seed in run.seeds])
    return {"adapters": len(run.seeds), "tuned": sum(tuned)}


def sides(store: Path, keep: np.ndarray, seed: int) -> list[Records]:
    """The kept and the refused records of a store that are learnt from; it is read shard by shard, once to draw them.

    keep: (N,) bool.
    """
    import numpy as np

    from data.records import concat, iter_store
    from generation.tuning import picked

    changed = np.concatenate([[bool(np.any(mask)) for mask in part.mask] for part in iter_store(store)])
    chosen, found, start = [picked(changed & side, seed) for side in (keep, ~keep)], ([], []), 0
    for part in iter_store(store):
        for positions, parts in zip(chosen, found):
            own = positions[(positions >= start) & (positions < start + len(part))] - start
            parts.append(part.take(own))
        start += len(part)
    return [concat(parts) for parts in found]


if __name__ == "__main__":
    stage(main, section="tune")
