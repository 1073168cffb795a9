"""Stage train: the same detector on every arm's training set, one a seed, and the unsupervised ones beside them.

Reads records/fit, records/support, splits.json, every round's generated and kept, gate.json. Writes
detectors/<name>/seed<k>/ (safetensors and config) and detectors/counts/counts.json. The names gate-best and
gate-reference are the gate's two candidates, where they are none of the arms.
"""

from __future__ import annotations

import json
from functools import lru_cache

from pipelines.adapt import support_of
from pipelines.config import ROUNDS
from pipelines.pool import each
from pipelines.stage import Run, stage


def main(run: Run) -> dict:
    from data.records import concat, read_store
    from detection.arms import ARMS, DETECTOR, EXTRA, SHUFFLED, training_set
    from detection.detectors import DETECTORS
    from detection.store import save

    paths, options = run.paths, run.settings.model_dump(by_alias=True)
    arms = (*ARMS, *([SHUFFLED] if options.pop("shuffled") else []))
    fit, pool = read_store(paths.records / "fit"), read_store(paths.records / "support")
    homes = [paths.round(r) for r in ROUNDS]
    kinds = DETECTORS[run.modality]
    jobs = {name: (name, DETECTOR[run.modality], None) for name in arms}  # name: (arm, detector, real_share)
    jobs |= {name: ("real", name, None) for name in EXTRA[run.modality]}
    jobs |= {name: (c["arm"], c["detector"], c["weight"]) for name, c in extra_candidates(run).items()}
    inputs = [paths.records, paths.splits, paths.gate, *(h / part for h in homes for part in ("generated", "kept"))]
    with run.work(*inputs) as work:

        @lru_cache(1)  # a seed's units come one after another
        def parts_of(seed: int) -> dict:
            made = {part: [read_store(home / part / f"seed{seed}") for home in homes] for part in ("generated", "kept")}
            return {"support": support_of(run, seed, pool)} | {part: concat(stores) for part, stores in made.items()}

        def one(unit: tuple[int, str]) -> dict[str, int]:
            """What counts.json says of a detector: anomalies in its support, kept, and in what it is trained on."""
            seed, name = unit
            arm, kind, share = jobs[name]
            parts = parts_of(seed)
            records = training_set(arm, fit, *parts.values(), seed=seed)
            if not work.done(f"{name}/seed{seed}"):
                own = options.get(kind, {}) | ({"real_share": share} if share is not None and arm != "real" else {})
                with work.unit(f"{name}/seed{seed}") as folder:
                    save(kinds[kind](**own).fit(records, seed=seed), folder)
            given = {part: len(parts[part]) for part in ("support", "kept")}
            return given | {name: int((records.meta["label"] == 1).sum())}

        units = [(seed, name) for seed in run.seeds for name in jobs]
        counts: dict[str, dict] = {f"seed{seed}": {} for seed in run.seeds}
        for (seed, _), found in zip(units, each(one, units, f"train {run.dataset}", jobs=run.jobs)):
            counts[f"seed{seed}"] |= found
        with work.unit("counts") as folder:
            (folder / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True))
        work.assemble(paths.detectors)
    return {"detectors": len(units)}


def gate_names(run: Run) -> dict[str, str]:
    """{"best": .., "reference": ..}: the name that each of the gate's candidates was trained under, if there is one."""
    from detection.arms import ARMS, DETECTOR, EXTRA

    said = json.loads(run.paths.gate.read_text())
    share = getattr(getattr(run.params.train, run.modality), DETECTOR[run.modality]).real_share
    names = {}
    for side in ("best", "reference"):
        c = said[side]
        if c is None:
            continue
        usual = c["detector"] == DETECTOR[run.modality] and (c["arm"] == "real" or c["weight"] == share)
        extra = c["arm"] == "real" and c["detector"] in EXTRA[run.modality]
        names[side] = c["arm"] if usual and c["arm"] in ARMS else c["detector"] if extra else f"gate-{side}"
    return names


def extra_candidates(run: Run) -> dict[str, dict]:
    """{"gate-best" or "gate-reference": candidate} of those that no arm or other detector stands for."""
    said = json.loads(run.paths.gate.read_text())
    return {name: said[side] for side, name in gate_names(run).items() if name.startswith("gate-")}


if __name__ == "__main__":
    stage(main, section="train")
