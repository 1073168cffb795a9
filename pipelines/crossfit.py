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

from data.files import read_json, read_table
from pipelines.adapt import support_of
from pipelines.pool import each
from pipelines.stage import Run, stage
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
    with run.work(paths.records, paths.splits, also=training if own else None) as work:

        def judges_of(seed: int) -> None:
            if work.done(f"seed{seed}"):
                return
            support, folds = support_of(run, seed, pool), run.plan["folds"][seed]
            models = adapters_of(run, work, fit, support, folds, training["adapt"], seed) if own else {}
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
                real_scores(judges, support, folds).to_parquet(folder / "real.parquet")

        if own:
            fit_bases(run, work, fit, pool, training["fit"])
        each(judges_of, run.seeds, f"crossfit {run.dataset}", jobs=run.jobs, threads=run.threads)
        work.assemble(paths.judges, [f"seed{seed}" for seed in run.seeds])
    median = [read_table(paths.judges / f"seed{seed}" / "real.parquet")["fused"].median() for seed in run.seeds]
    return {"real anomalies' median percentile": f"{sum(median) / len(median):.3f}"}


def fit_bases(run: Run, work: Work, fit, pool, settings: dict) -> None:
    """A base on the normals outside each fold of each seed; seeds whose folds hold the same normals share one."""
    from detection.judge import outside
    from generation.model import pick_device
    from generation.training import fit_base

    wanted = {}
    for seed in (s for s in run.seeds if not work.done(f"seed{s}")):
        folds = run.plan["folds"][seed]
        for fold in folds_of(support_of(run, seed, pool), folds):
            normals = outside(fit, folds, fold)
            wanted.setdefault(base_name(normals), normals)
    device = pick_device(run.params.device)

    def base_of(name: str) -> None:
        if not work.done(name):
            base, _ = fit_base(wanted[name], settings=settings, seed=0, device=device, folder=work.scratch(name))
            with work.unit(name) as folder:
                base.save(folder / "base")

    each(base_of, list(wanted), f"crossfit {run.dataset}, bases", jobs=run.jobs, threads=run.threads)


def adapters_of(run: Run, work: Work, fit, support, folds: dict[str, int], settings: dict, seed: int) -> dict:
    """{fold: (folder of its base, adapter on it)}, fitted on the records outside the fold alone."""
    from detection.judge import outside
    from generation.model import Base, pick_device
    from generation.training import fit_adapter

    found, device = {}, pick_device(run.params.device)
    for fold in folds_of(support, folds):
        normals, odd = (outside(part, folds, fold) for part in (fit, support))
        stored = work.path(base_name(normals)) / "base"
        found[fold] = stored, fit_adapter(Base.load(stored, device), normals, odd, settings=settings, seed=seed)[0]
    return found


def folds_of(support, folds: dict[str, int]) -> list[int]:
    return sorted({folds[i] for i in support.meta["id"]})


def base_name(normals) -> str:
    return "base-" + hashlib.sha256("\n".join(sorted(normals.meta["id"])).encode()).hexdigest()[:12]


def load_judges(folder: Path, device: str = "auto") -> list:
    """The judges that stage crossfit saved for one seed."""
    import numpy as np

    from detection.judge import LIKELIHOOD, Judge
    from detection.store import load

    judges = []
    for home in sorted(folder.glob("fold*")):
        reference = read_json(home / "reference.json")
        detectors = {role: load(home / role) for role in reference if role != LIKELIHOOD}
        if LIKELIHOOD in reference:
            from detection.likelihood import LikelihoodRatio

            detectors[LIKELIHOOD] = LikelihoodRatio.load(home / LIKELIHOOD, device)
        seen = read_json(home / "seen.json")
        judges.append(Judge(int(home.name[4:]), detectors, {k: np.array(v) for k, v in reference.items()}, seen))
    return judges


if __name__ == "__main__":
    stage(main, section="crossfit")
