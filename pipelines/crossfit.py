"""Stage crossfit: the judges, real-only detectors fitted without one fold at a time, and what they say of the real.

Reads records/fit, records/support, records/calib, splits.json. Writes judges/seed<k>/fold<j>/<role>/ (safetensors and
config), judges/seed<k>/fold<j>/reference.json and judges/seed<k>/real.parquet.
"""

from __future__ import annotations

import json

from pipelines.adapt import support_of
from pipelines.stage import Run, progress, stage


def main(run: Run) -> dict:
    from data.records import read_store
    from detection.judge import cross_fit, real_scores
    from detection.store import save

    paths = run.paths
    fit, pool, calib = (read_store(paths.records / name) for name in ("fit", "support", "calib"))
    options = run.settings.model_dump(by_alias=True)
    median = []
    with run.work(paths.records, paths.splits) as work:
        for seed in progress(run.seeds, f"crossfit {run.dataset}"):
            if work.done(f"seed{seed}"):
                continue
            support, folds = support_of(run, seed, pool), run.plan["folds"][seed]
            judges = list(cross_fit(fit, support, calib, folds, seed=seed, options=options))
            with work.unit(f"seed{seed}") as folder:
                for judge in judges:
                    home = folder / f"fold{judge.fold}"
                    for role, detector in judge.detectors.items():
                        save(detector, home / role)
                    reference = {role: values.tolist() for role, values in judge.reference.items()}
                    (home / "reference.json").write_text(json.dumps(reference))
                table = real_scores(judges, support, folds)
                table.to_parquet(folder / "real.parquet")
                median.append(float(table["fused"].median()))
        work.assemble(paths.judges, [f"seed{seed}" for seed in run.seeds])
    return {"real anomalies' median percentile": f"{sum(median) / len(median):.3f}" if median else "kept"}


def load_judges(folder) -> list:
    """The judges that stage crossfit saved for one seed."""
    import numpy as np

    from detection.judge import Judge
    from detection.store import load

    judges = []
    for home in sorted(folder.glob("fold*")):
        reference = json.loads((home / "reference.json").read_text())
        detectors = {role: load(home / role) for role in reference}
        judges.append(Judge(int(home.name[4:]), detectors, {k: np.array(v) for k, v in reference.items()}))
    return judges


if __name__ == "__main__":
    stage(main, section="crossfit")
