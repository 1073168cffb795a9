"""Stage judge: what detectors that saw neither host, parent nor sibling say of every generated record of a round.

Reads r<r>/generated, judges/, records/fit, records/support, splits.json, and earlier rounds' kept (for duplicates).
Writes r<r>/scores/seed<k>.parquet: id, supervised, unsupervised, fused, control, copy_distance, duplicate_of.
"""

from __future__ import annotations

import time

from pipelines.adapt import support_of
from pipelines.crossfit import load_judges
from pipelines.stage import Run, progress, stage
from pipelines.work import atomic_dir


def main(run: Run) -> dict:
    import numpy as np
    import pandas as pd

    from data.codecs import CODECS
    from data.records import iter_store, read_store
    from detection.judge import judge_records
    from detection.novelty import Duplicates, copy_distance, edit_vectors

    paths, home = run.paths, run.paths.round(run.round)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    codec = CODECS[run.modality].fit(fit)
    count, began = 0, time.monotonic()
    with atomic_dir(home / "scores") as out, progress(len(run.seeds), f"judge {run.dataset} r{run.round}") as bar:
        for seed in run.seeds:
            judges, support = load_judges(paths.judges / f"seed{seed}"), support_of(run, seed, pool)
            real, seen, tables = edit_vectors(support, codec), Duplicates(), []
            for part in iter_store(home / "generated" / f"seed{seed}"):
                table = judge_records(judges, part, part.meta["fold"].to_numpy())
                table.insert(0, "id", list(part.meta["id"]))
                table["copy_distance"] = copy_distance(edit_vectors(part, codec), real)
                table["duplicate_of"] = seen.of(part)
                tables.append(table)
                count += len(part)
            pd.concat(tables, ignore_index=True).to_parquet(out / f"seed{seed}.parquet")
            bar.advance()
    return {"judged": count, "rate": f"{count / (time.monotonic() - began):.0f}/s", "folds": int(np.size(judges))}


if __name__ == "__main__":
    stage(main, section="judge")
