"""Stage generate: labelled synthetic anomalies of one round, every seed's from its own adapter.

Reads base/, adapters/, records/fit, records/support, splits.json and, from round 2 on, the round before's steer.json.
Writes r<r>/generated/seed<k>/ (record stores). Records leave memory shard by shard.
"""

from __future__ import annotations

import json
import time

from pipelines.adapt import sampling_of, support_of
from pipelines.stage import Run, progress, stage
from pipelines.work import manifest

SHARD = {"image": 128, "series": 512, "row": 8192}  # records a resumable unit


def main(run: Run) -> dict:
    import hashlib

    from data.records import iter_store, read_store, write_store
    from generation.inpaint import generate
    from generation.model import Adapter, Base, pick_device
    from generation.plan import plan

    paths, count, sampling = run.paths, run.settings.count, sampling_of(run.settings)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    before = paths.round(run.round - 1) / "steer.json"
    inputs = [paths.base, paths.adapters, paths.records, paths.splits, *([before] if run.round > 1 else [])]
    steer = json.loads(before.read_text()) if run.round > 1 else {}
    size, made, spent = SHARD[run.modality], 0, 0.0
    with run.work(*inputs) as work, progress(count * len(run.seeds), f"generate {run.dataset} r{run.round}") as bar:
        for seed in run.seeds:
            units = [f"seed{seed}/part{start:06d}" for start in range(0, count, size)]
            adapter = None
            for start, unit in zip(range(0, count, size), units):
                if work.done(unit):
                    bar.advance(min(size, count - start))
                    continue
                if adapter is None:
                    base = Base.load(paths.base, pick_device(run.params.device))
                    adapter = Adapter.load(base, paths.adapters / f"seed{seed}")
                    support = support_of(run, seed, pool)
                    tag = hashlib.sha256(json.dumps(manifest(paths.adapters / f"seed{seed}")).encode()).hexdigest()[:12]
                    weights = steer.get(f"seed{seed}") if steer else None
                    rows = plan(
                        fit, support, run.plan["folds"][seed], count=count, seed=seed, round_=run.round, steer=weights
                    )

                def chunks(start=start, adapter=adapter, support=support, rows=rows, tag=tag):
                    for part in generate(adapter, fit, support, rows.iloc[start : start + size], **sampling):
                        part.meta["round"], part.meta["generator"] = run.round, f"diffusion-{tag}"
                        bar.advance(len(part))
                        yield part

                began = time.monotonic()
                with work.unit(unit) as folder:
                    write_store(folder / "store", chunks())
                spent, made = spent + time.monotonic() - began, made + min(size, count - start)
        from pipelines.work import atomic_dir

        with atomic_dir(paths.round(run.round) / "generated") as out:
            for seed in run.seeds:
                parts = [work.path(f"seed{seed}/part{start:06d}") / "store" for start in range(0, count, size)]
                write_store(out / f"seed{seed}", (chunk for part in parts for chunk in iter_store(part)))
    return {"generated": count * len(run.seeds), "rate": f"{made / spent:.1f}/s" if spent else "kept"}


if __name__ == "__main__":
    stage(main, section="generate")
