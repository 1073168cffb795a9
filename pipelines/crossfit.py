"""Stage crossfit: the judges, real-only detectors fitted without one fold at a time, and what they say of the real.

Reads records/fit, records/support, records/calib, splits.json. Writes judges/seed<k>/fold<j>/<role>/ (safetensors and
config; the role likelihood is a base and an adapter fitted without the fold), fold<j>/reference.json, fold<j>/seen.json
(ids that were fitted on) and judges/seed<k>/real.parquet.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from pipelines.adapt import support_of
from pipelines.stage import Run, progress, stage
from pipelines.work import Work


def main(run: Run) -> dict:
    from data.records import read_store
    from detection.judge import LIKELIHOOD, cross_fit, real_scores
    from detection.likelihood import LikelihoodRatio
    from detection.store import save

    paths, options = run.paths, run.settings.model_dump(by_alias=True)
    fit, pool, calib = (read_store(paths.records / name) for name in ("fit", "support", "calib"))
    training = {name: run.params.section(name, run.modality).model_dump(by_alias=True) for name in ("fit", "adapt")}
    own = options.pop(LIKELIHOOD)
    median = []
    with run.work(paths.records, paths.splits, also=training if own else None) as work:
        for seed in progress(run.seeds, f"crossfit {run.dataset}"):
            if work.done(f"seed{seed}"):
                continue
            support, folds = support_of(run, seed, pool), run.plan["folds"][seed]
            models = fold_models(run, work, fit, support, folds, training, seed) if own else {}
            ratios = {fold: LikelihoodRatio(adapter) for fold, (_, adapter) in models.items()}
            judges = list(cross_fit(fit, support, calib, folds, seed=seed, options=options, ratios=ratios))
            with work.unit(f"seed{seed}") as folder:
                for judge in judges:
                    home = folder / f"fold{judge.fold}"
                    for role, detector in judge.detectors.items():
                        if role != LIKELIHOOD:
                            save(detector, home / role)
                    if models:
                        base, adapter = models[judge.fold]
                        shutil.copytree(base, home / LIKELIHOOD / "base")
                        adapter.save(home / LIKELIHOOD / "adapter")
                    reference = {role: values.tolist() for role, values in judge.reference.items()}
                    (home / "reference.json").write_text(json.dumps(reference))
                    (home / "seen.json").write_text(json.dumps(judge.seen))
                table = real_scores(judges, support, folds)
                table.to_parquet(folder / "real.parquet")
                median.append(float(table["fused"].median()))
        work.assemble(paths.judges, [f"seed{seed}" for seed in run.seeds])
    return {"real anomalies' median percentile": f"{sum(median) / len(median):.3f}" if median else "kept"}


def fold_models(run: Run, work: Work, fit, support, folds: dict[str, int], training: dict, seed: int) -> dict:
    """{fold: (folder of a base, adapter on it)}, both fitted on the records outside the fold alone.

    A base is shared by the seeds whose folds hold the same normals.
    """
    from detection.judge import outside
    from generation.model import Base, pick_device
    from generation.training import fit_adapter, fit_base

    found, device = {}, pick_device(run.params.device)
    for fold in sorted({folds[i] for i in support.meta["id"]}):
        normals, odd = (outside(part, folds, fold) for part in (fit, support))
        name = hashlib.sha256("\n".join(sorted(normals.meta["id"])).encode()).hexdigest()[:12]
        home = work.scratch(f"base-{name}")
        if not work.done(f"base-{name}"):
            base, _ = fit_base(normals, settings=training["fit"], seed=0, device=device, folder=home)
            with work.unit(f"base-{name}") as folder:
                base.save(folder / "base")
        stored = work.path(f"base-{name}") / "base"
        adapter, _ = fit_adapter(Base.load(stored, device), normals, odd, settings=training["adapt"], seed=seed)
        found[fold] = stored, adapter
    return found


def load_judges(folder: Path, device: str = "auto") -> list:
    """The judges that stage crossfit saved for one seed."""
    import numpy as np

    from detection.judge import LIKELIHOOD, Judge
    from detection.store import load

    judges = []
    for home in sorted(folder.glob("fold*")):
        reference = json.loads((home / "reference.json").read_text())
        detectors = {role: load(home / role) for role in reference if role != LIKELIHOOD}
        if LIKELIHOOD in reference:
            from detection.likelihood import LikelihoodRatio

            detectors[LIKELIHOOD] = LikelihoodRatio.load(home / LIKELIHOOD, device)
        seen = json.loads((home / "seen.json").read_text())
        judges.append(Judge(int(home.name[4:]), detectors, {k: np.array(v) for k, v in reference.items()}, seen))
    return judges


if __name__ == "__main__":
    stage(main, section="crossfit")
