"""Stage generate: labelled synthetic anomalies of one round, every seed's from its own adapter.

Reads base/, the round's adapters, records/fit, records/support, splits.json and, from round 2 on, the round before's
generated and steer.json: where that says that the loop stops, a seed's store stays empty. Writes
r<r>/generated/seed<k>/ (record stores). Records leave memory shard by shard. An id names a record's seed and its
content, so that what a person decided on it holds for no other that the seed becomes under other settings.
"""

from __future__ import annotations

import json
import time
from functools import lru_cache
from pathlib import Path

from data.atomic import atomic_dir
from data.files import read_json
from pipelines.adapt import sampling_of, support_of
from pipelines.pool import each
from pipelines.stage import Run, progress, stage
from pipelines.work import manifest

SHARD = {"image": 128, "series": 512, "row": 8192}  # records a resumable unit


def main(run: Run) -> dict:
    import hashlib

    from data.fingerprint import digests
    from data.records import iter_store, read_store, write_store
    from generation.inpaint import generate
    from generation.model import Adapter, Base, pick_device
    from generation.plan import plan

    paths, count, sampling = run.paths, run.settings.count, sampling_of(run.settings)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    adapters, steer = paths.adapters_of(run.round), steering(run)
    before = [paths.round(run.round - 1) / "steer.json"] if run.round > 1 else []
    inputs = [paths.base, adapters, paths.records, paths.splits, *before]
    size, began, title = SHARD[run.modality], time.monotonic(), f"generate {run.dataset} r{run.round}"
    starts = {seed: [] if steer.get(f"seed{seed}", {}).get("stop") else range(0, count, size) for seed in run.seeds}
    units = {(seed, start): f"seed{seed}/part{start:06d}" for seed in run.seeds for start in starts[seed]}
    with run.work(*inputs) as work:

        @lru_cache(1)  # a seed's units come one after another
        def tools(seed: int) -> tuple:
            adapter = Adapter.load(Base.load(paths.base, pick_device(run.params.device)), adapters / f"seed{seed}")
            tag = hashlib.sha256(json.dumps(manifest(adapters / f"seed{seed}")).encode()).hexdigest()[:12]
            support = support_of(run, seed, pool)
            rows = plan(
                fit, support, run.plan["folds"][seed], count=count, seed=seed, round_=run.round,
                steer=steer.get(f"seed{seed}", {}).get("weights"),
            )  # fmt: skip
            return adapter, support, rows, tag

        def part(unit: tuple[int, int]) -> int:
            if work.done(units[unit]):
                return 0
            seed, start = unit
            adapter, support, rows, tag = tools(seed)
            rows = rows.iloc[start : start + size]

            def chunks(bar):
                for made in generate(adapter, fit, support, rows, **sampling):
                    made.meta["round"], made.meta["generator"] = run.round, f"diffusion-{tag}"
                    made.meta["id"] = [f"{own}-{mark[:8]}" for own, mark in zip(made.meta["id"], digests(made))]
                    bar.advance(len(made))
                    yield made

            with work.unit(units[unit]) as folder, progress(len(rows), f"{title} seed {seed}") as bar:
                write_store(folder / "store", chunks(bar))
            return len(rows)

        sizes = {"size": lambda unit: min(size, count - unit[1])}
        made = sum(each(part, list(units), title, jobs=run.jobs, threads=run.threads, **sizes))
        spent = time.monotonic() - began
        with atomic_dir(paths.round(run.round) / "generated") as out:
            for seed in run.seeds:
                stores = [work.path(units[seed, start]) / "store" for start in starts[seed]] or [empty_of(run, seed)]
                parts = (part for store in stores for part in iter_store(store))
                write_store(out / f"seed{seed}", parts if starts[seed] else (next(parts).take([]),))
    total = sum(count for seed in run.seeds if starts[seed])
    return {"generated": total, "rate": f"{made / spent:.1f}/s" if made else "kept"}


def steering(run: Run) -> dict:
    """What the round before says of this one: {"seed0": {"weights", "stop", ..}}, nothing for round 1."""
    return read_json(run.paths.round(run.round - 1) / "steer.json") if run.round > 1 else {}


def empty_of(run: Run, seed: int) -> Path:
    """A store with the columns of what would be generated: the round before's."""
    return run.paths.round(run.round - 1) / "generated" / f"seed{seed}"


if __name__ == "__main__":
    stage(main, section="generate")
