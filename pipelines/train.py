"""Stage train: the same detector on every arm's training set, one a seed, and the unsupervised ones beside them.

Reads records/fit, records/support, splits.json, every round's generated and kept. Writes detectors/<name>/seed<k>/
(safetensors and config) and detectors/counts/counts.json.
"""

from __future__ import annotations

import json

from pipelines.adapt import support_of
from pipelines.config import ROUNDS
from pipelines.stage import Run, progress, stage


def main(run: Run) -> dict:
    from data.records import concat, read_store
    from detection.arms import ARMS, DETECTOR, EXTRA, training_set
    from detection.detectors import DETECTORS
    from detection.store import save

    paths, options = run.paths, run.settings.model_dump(by_alias=True)
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    homes = [paths.round(r) for r in ROUNDS]
    kinds = DETECTORS[run.modality]
    jobs = [(seed, name) for seed in run.seeds for name in (*ARMS, *EXTRA[run.modality])]
    inputs = [paths.records, paths.splits, *(home / part for home in homes for part in ("generated", "kept"))]
    counts: dict[str, dict] = {}
    with run.work(*inputs) as work, progress(len(jobs), f"train {run.dataset}") as bar:
        for seed in run.seeds:
            support = support_of(run, seed, pool)
            generated, kept = (
                concat([read_store(home / part / f"seed{seed}") for home in homes]) for part in ("generated", "kept")
            )
            counts[f"seed{seed}"] = {"support": len(support), "generated": len(generated), "kept": len(kept)}
            for name in (*ARMS, *EXTRA[run.modality]):
                unit = f"{name}/seed{seed}"
                bar.advance()
                if work.done(unit):
                    continue
                kind = DETECTOR[run.modality] if name in ARMS else name
                arm = name if name in ARMS else "real"
                records = training_set(arm, fit, support, generated, kept, seed=seed)
                with work.unit(unit) as folder:
                    save(kinds[kind](**options.get(kind, {})).fit(records, seed=seed), folder)
                counts[f"seed{seed}"][name] = int((records.meta["label"] == 1).sum())
        with work.unit("counts") as folder:
            (folder / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True))
        work.assemble(paths.detectors)
    return {"detectors": len(jobs)}


if __name__ == "__main__":
    stage(main, section="train")
