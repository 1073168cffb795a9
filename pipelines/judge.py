"""Stage judge: what detectors that saw neither host, parent nor sibling say of every generated record of a round.

Reads r<r>/generated, judges/, records/fit, records/support, splits.json, and earlier rounds' kept (for duplicates).
Writes r<r>/scores/seed<k>.parquet: id, the judges' supervised, unsupervised, likelihood, fused and control, what the
gates measured (outside, contrast_low, contrast_high, violations, posterior, edit_distance, copy_distance) and
duplicate_of.
"""

from __future__ import annotations

import time

from data.atomic import atomic_dir
from pipelines.adapt import support_of
from pipelines.crossfit import load_judges
from pipelines.pool import each
from pipelines.stage import Run, stage


def main(run: Run) -> dict:
    import pandas as pd

    from data.records import concat, iter_store, read_store
    from data.records.codecs import CODECS
    from detection.gates import Gates
    from detection.judge import judge_records
    from detection.novelty import Duplicates

    paths, home = run.paths, run.paths.round(run.round)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    codec = CODECS[run.modality].fit(fit)
    with atomic_dir(home / "scores") as out:

        def judge(seed: int) -> int:
            judges = load_judges(paths.judges / f"seed{seed}", run.params.device)
            support, seen, tables = support_of(run, seed, pool), Duplicates(), []
            gates = Gates(concat([fit, support]), support, codec)
            for before in range(1, run.round):
                for part in iter_store(paths.round(before) / "kept" / f"seed{seed}"):
                    seen.of(part)
            for part in iter_store(home / "generated" / f"seed{seed}"):
                judged = judge_records(judges, part, part.meta["fold"].to_numpy())
                table = pd.concat([judged, gates.measure(part)], axis=1)
                table.insert(0, "id", list(part.meta["id"]))
                table["duplicate_of"] = seen.of(part)
                tables.append(table)
            table = pd.concat(tables, ignore_index=True)
            table.to_parquet(out / f"seed{seed}.parquet")
            return len(table)

        began = time.monotonic()
        count = sum(each(judge, run.seeds, f"judge {run.dataset} r{run.round}", jobs=run.jobs, threads=run.threads))
    return {"judged": count, "rate": f"{count / (time.monotonic() - began):.0f}/s"}


if __name__ == "__main__":
    stage(main, section="judge")
