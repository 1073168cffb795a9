"""Stage judge: what detectors that saw neither host, parent nor sibling say of every generated record of a round.

Reads r<r>/generated, judges/, records/fit, records/support, splits.json, and earlier rounds' kept (for duplicates).
Writes r<r>/scores/seed<k>.parquet: id, the judges' supervised, unsupervised, likelihood, fused and control, what the
gates measured (outside, contrast_low, contrast_high, violations, posterior, copy_distance) and duplicate_of.
"""

from __future__ import annotations

import time

from pipelines.adapt import support_of
from pipelines.crossfit import load_judges
from pipelines.stage import Run, progress, stage
from pipelines.work import atomic_dir


def main(run: Run) -> dict:
    import pandas as pd

    from data.codecs import CODECS
    from data.records import concat, iter_store, read_store
    from detection.gates import Gates
    from detection.judge import judge_records
    from detection.novelty import Duplicates

    paths, home = run.paths, run.paths.round(run.round)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    codec = CODECS[run.modality].fit(fit)
    count, began, folds = 0, time.monotonic(), 0
    with atomic_dir(home / "scores") as out, progress(len(run.seeds), f"judge {run.dataset} r{run.round}") as bar:
        for seed in run.seeds:
            judges = load_judges(paths.judges / f"seed{seed}", run.params.device)
            support, seen, tables = support_of(run, seed, pool), Duplicates(), []
            gates, folds = Gates(concat([fit, support]), support, codec), len(judges)
            for before in range(1, run.round):
                for part in iter_store(paths.round(before) / "kept" / f"seed{seed}"):
                    seen.of(part)
            for part in iter_store(home / "generated" / f"seed{seed}"):
                judged = judge_records(judges, part, part.meta["fold"].to_numpy())
                table = pd.concat([judged, gates.measure(part)], axis=1)
                table.insert(0, "id", list(part.meta["id"]))
                table["duplicate_of"] = seen.of(part)
                tables.append(table)
                count += len(part)
            pd.concat(tables, ignore_index=True).to_parquet(out / f"seed{seed}.parquet")
            bar.advance()
    return {"judged": count, "rate": f"{count / (time.monotonic() - began):.0f}/s", "folds": folds}


if __name__ == "__main__":
    stage(main, section="judge")
