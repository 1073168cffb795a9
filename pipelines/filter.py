"""Stage filter: a verdict and its reason for every judged record, the store of what is kept, next round's steering.

Reads r<r>/generated, r<r>/scores, judges/seed<k>/real.parquet. Writes r<r>/kept/seed<k> (stores),
r<r>/verdicts/seed<k>.parquet (the ledger) and r<r>/steer.json. Measures counts a reason.
"""

from __future__ import annotations

import json
from collections import Counter

from pipelines.stage import Run, stage
from pipelines.work import atomic_dir, atomic_file


def main(run: Run) -> dict:
    import pandas as pd

    from data.records import iter_store, write_store
    from detection.verdict import steer, verdicts

    paths, home = run.paths, run.paths.round(run.round)
    settings = run.settings.model_dump(by_alias=True)
    steering, reasons = {}, Counter()
    with atomic_dir(home / "kept") as kept, atomic_dir(home / "verdicts") as ledger:
        for seed in run.seeds:
            store = home / "generated" / f"seed{seed}"
            meta = pd.concat([part.meta for part in iter_store(store)], ignore_index=True)
            scores = pd.read_parquet(home / "scores" / f"seed{seed}.parquet")
            real = pd.read_parquet(paths.judges / f"seed{seed}" / "real.parquet")
            table = verdicts(meta, scores, real, **settings)
            steering[f"seed{seed}"] = steer(meta, table, scores["fused"].to_numpy(), real["fused"].to_numpy())
            told = meta[["kind", "host", "severity", "area", "mask_iou", "size_bin", "severity_bin"]]
            full = pd.concat([table, told, scores.drop(columns="id")], axis=1)
            full.insert(1, "seed_index", seed)
            full.insert(2, "round", run.round)
            full.to_parquet(ledger / f"seed{seed}.parquet")
            reasons.update(table["reason"])
            write_store(kept / f"seed{seed}", kept_parts(store, table))
    with atomic_file(home / "steer.json") as path:
        path.write_text(json.dumps(steering, indent=1, sort_keys=True))
    return {"generated": sum(reasons.values()), **dict(sorted(reasons.items()))}


def kept_parts(store, table):
    """The records of a store that `table` keeps, shard by shard, with their verdicts beside them."""
    from data.records import iter_store

    start = 0
    for part in iter_store(store):
        own = table.iloc[start : start + len(part)].reset_index(drop=True)
        start += len(part)
        part.meta["reason"], part.meta["band"] = list(own["reason"]), list(own["band"])
        yield part.take(own["keep"].to_numpy(bool))


if __name__ == "__main__":
    stage(main, section="filter")
