"""Stage generate: labelled synthetic anomalies of one round, every seed's from its own adapter.

Reads base/, the round's adapters, records/fit, records/support, splits.json and, from round 2 on, the round before's
generated and steer.json: where that says that the loop stops, a seed's store stays empty. Writes
r<r>/generated/seed<k>/ (record stores). Records leave memory shard by shard.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from pipelines.adapt import sampling_of, support_of
from pipelines.stage import Run, progress, stage
from pipelines.work import atomic_dir, manifest

SHARD = {"image": 128, "series": 512, "row": 8192}  # records a resumable unit


def main(run: Run) -> dict:
    import hashlib

    from data.records import iter_store, read_store, write_store
    from generation.inpaint import generate
    from generation.model import Adapter, Base, pick_device
    from generation.plan import plan

    paths, count, sampling = run.paths, run.settings.count, sampling_of(run.settings)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    adapters, steer = paths.adapters_of(run.round), steering(run)
    before = [paths.round(run.round - 1) / "steer.json"] if run.round > 1 else []
    inputs = [paths.base, adapters, paths.records, paths.splits, *before]
    size, made, spent, total = SHARD[run.modality], 0, 0.0, 0
    with run.work(*inputs) as work, progress(count * len(run.seeds), f"generate {run.dataset} r{run.round}") as bar:
        units = {}
        for seed in run.seeds:
            told = steer.get(f"seed{seed}", {})
            starts = [] if told.get("stop") else list(range(0, count, size))
            units[seed] = [f"seed{seed}/part{start:06d}" for start in starts]
            total += count if starts else 0
            adapter = None
            for start, unit in zip(starts, units[seed]):
                if work.done(unit):
                    bar.advance(min(size, count - start))
                    continue
                if adapter is None:
                    base = Base.load(paths.base, pick_device(run.params.device))
                    adapter = Adapter.load(base, adapters / f"seed{seed}")
                    support = support_of(run, seed, pool)
                    tag = hashlib.sha256(json.dumps(manifest(adapters / f"seed{seed}")).encode()).hexdigest()[:12]
                    rows = plan(
                        fit, support, run.plan["folds"][seed], count=count, seed=seed, round_=run.round,
                        steer=told.get("weights"),
                    )  # fmt: skip

                def chunks(start=start, adapter=adapter, support=support, rows=rows, tag=tag):
                    for part in generate(adapter, fit, support, rows.iloc[start : start + size], **sampling):
                        part.meta["round"], part.meta["generator"] = run.round, f"diffusion-{tag}"
                        bar.advance(len(part))
                        yield part

                began = time.monotonic()
                with work.unit(unit) as folder:
                    write_store(folder / "store", chunks())
                spent, made = spent + time.monotonic() - began, made + min(size, count - start)
        with atomic_dir(paths.round(run.round) / "generated") as out:
            for seed in run.seeds:
                stores = [work.path(unit) / "store" for unit in units[seed]] or [empty_of(run, seed)]
                parts = (part for store in stores for part in iter_store(store))
                write_store(out / f"seed{seed}", parts if units[seed] else (next(parts).take([]),))
    return {"generated": total, "rate": f"{made / spent:.1f}/s" if spent else "kept"}


def steering(run: Run) -> dict:
    """What the round before says of this one: {"seed0": {"weights", "stop", ..}}, nothing for round 1."""
    return json.loads((run.paths.round(run.round - 1) / "steer.json").read_text()) if run.round > 1 else {}


def empty_of(run: Run, seed: int) -> Path:
    """A store with the columns of what would be generated: the round before's."""
    return run.paths.round(run.round - 1) / "generated" / f"seed{seed}"


if __name__ == "__main__":
    stage(main, section="generate")
