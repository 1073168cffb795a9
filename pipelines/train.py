"""Stage train: the same detector on every arm's training set, one a seed, and the unsupervised ones beside them.

Reads records/fit, records/support, splits.json, every round's generated and kept, gate.json. Writes
detectors/<name>/seed<k>/ (safetensors and config) and detectors/counts/counts.json. The names gate-best and
gate-reference are the gate's two candidates, where they are none of the arms; gate-best-own and gate-reference-own
those that it chose on a support alone, where they are others.
"""

from __future__ import annotations

import json
from functools import lru_cache

from data.files import read_json
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
    said = read_json(paths.gate)
    jobs |= extra_recipes(run, said)
    by_seed = {seed: jobs | extra_recipes(run, said, seed) for seed in run.seeds}
    inputs = [paths.records, paths.splits, paths.gate, *(h / part for h in homes for part in ("generated", "kept"))]
    with run.work(*inputs) as work:

        @lru_cache(1)  # a seed's units come one after another
        def parts_of(seed: int) -> dict:
            made = {part: [read_store(home / part / f"seed{seed}") for home in homes] for part in ("generated", "kept")}
            return {"support": support_of(run, seed, pool)} | {part: concat(stores) for part, stores in made.items()}

        def one(unit: tuple[int, str]) -> dict[str, int]:
            """What counts.json says of a detector: anomalies in its support, kept, and in what it is trained on."""
            seed, name = unit
            arm, kind, share = by_seed[seed][name]
            parts = parts_of(seed)
            records = training_set(arm, fit, *parts.values(), seed=seed)
            if not work.done(f"{name}/seed{seed}"):
                own = options.get(kind, {}) | ({"real_share": share} if share is not None and arm != "real" else {})
                with work.unit(f"{name}/seed{seed}") as folder:
                    save(kinds[kind](**own).fit(records, seed=seed), folder)
            given = {part: len(parts[part]) for part in ("support", "kept")}
            return given | {name: int((records.meta["label"] == 1).sum())}

        units = [(seed, name) for seed in run.seeds for name in by_seed[seed]]
        counts: dict[str, dict] = {f"seed{seed}": {} for seed in run.seeds}
        done = each(one, units, f"train {run.dataset}", jobs=run.jobs, threads=run.threads)
        for (seed, _), found in zip(units, done):
            counts[f"seed{seed}"] |= found
        with work.unit("counts") as folder:
            (folder / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True))
        work.assemble(paths.detectors)
    return {"detectors": len(units)}


def recipe(candidate: dict) -> tuple[str, str, float]:
    """(arm, detector, real_share): all that training needs to know of a candidate."""
    return candidate["arm"], candidate["detector"], candidate["weight"]


def gate_pair(said: dict, seed: int | None = None) -> dict[str, dict]:
    """{"best": .., "reference": ..}: the gate's two candidates, over all supports, or of one, {} where it compared none
    there. said: gate.json."""
    if seed is not None:
        said = said["seeds"][seed] if seed < len(said["seeds"]) else {}
        said = said if said.get("best") else {}
    return {side: said[side] for side in ("best", "reference") if said.get(side)}


def gate_names(run: Run, said: dict, seed: int | None = None) -> dict[str, str]:
    """The name that each of `gate_pair` is trained under: an arm's or another detector's, where it is the same."""
    from detection.arms import ARMS, DETECTOR, EXTRA

    share, pooled = getattr(getattr(run.params.train, run.modality), DETECTOR[run.modality]).real_share, gate_pair(said)
    names = {}
    for side, c in gate_pair(said, seed).items():
        usual = c["detector"] == DETECTOR[run.modality] and (c["arm"] == "real" or c["weight"] == share)
        extra = c["arm"] == "real" and c["detector"] in EXTRA[run.modality]
        same = side in pooled and recipe(pooled[side]) == recipe(c)
        gate = f"gate-{side}" if same else f"gate-{side}-own"
        names[side] = c["arm"] if usual and c["arm"] in ARMS else c["detector"] if extra else gate
    return names


def extra_recipes(run: Run, said: dict, seed: int | None = None) -> dict[str, tuple[str, str, float]]:
    """{"gate-..": recipe} of those of `gate_pair` that no arm or other detector stands for."""
    pair = gate_pair(said, seed)
    return {name: recipe(pair[side]) for side, name in gate_names(run, said, seed).items() if name.startswith("gate-")}


if __name__ == "__main__":
    stage(main, section="train")
