"""Stage gate: the loop run again without one fold at a time, scored on the fold, decides what the training set is.

Reads base/, records/, splits.json, judges/, every round's generated and kept. Writes gate.json (detection.gate.decide
over all supports, the same per support, and a sentence) and training/, the record store of the training set that is
exported: real records and, where the gate accepted, generated ones (of images with their adapter-off twins as normals);
else the best simpler arm's. A fold's world holds
nothing of the fold: adapter, masks, hosts, judges, classical records and detectors are made anew without it. Its few
anomalies weigh against the calib normals as all labelled ones do against all normals: precision depends on their share.
"""

from __future__ import annotations

import json
from collections import Counter

from data.atomic import atomic_file
from data.files import read_table
from pipelines.adapt import neutral, sampling_of, support_of
from pipelines.config import ROUNDS
from pipelines.crossfit import load_judges
from pipelines.pool import each
from pipelines.stage import Run, stage

METRIC = "ap"
INNER = 2  # folds within what is left of a fold


def main(run: Run) -> dict:
    import pandas as pd

    from data.records import read_store
    from detection.gate import candidates, decide, sentence

    paths, settings = run.paths, run.settings
    fit, pool, calib = (read_store(paths.records / name) for name in ("fit", "support", "calib"))
    fuse = run.params.section("crossfit", run.modality).likelihood
    choices = list(candidates(settings.arms, settings.detectors, settings.weights, fuse=fuse))
    sections = {name: run.params.section(name, run.modality) for name in ("adapt", "crossfit", "train")}
    sections |= {f"{name}.r1": run.params.section(name, run.modality, 1) for name in ("generate", "filter")}
    inputs = [paths.base, paths.records, paths.splits, paths.judges]
    homes = [paths.round(r) for r in ROUNDS]
    inputs += [home / part for home in homes for part in ("generated", "kept")]
    share = len(pool) / (len(pool) + len(fit) + len(calib))  # anomalous of all that is not for the test
    seeds = run.seeds[: settings.supports]
    jobs = [(seed, fold) for seed in seeds for fold in folds_of(run.plan, seed)]
    tied = tied_by(pool)
    with run.work(*inputs, also=sections) as work:

        def one(job: tuple[int, int]) -> None:
            seed, fold = job
            unit = f"seed{seed}-fold{fold}"
            if not work.done(unit):
                odd = support_of(run, seed, pool)
                table = measure(run, choices, fit, odd, calib, tied, seed, fold, sections, share)
                with work.unit(unit) as folder:
                    table.to_parquet(folder / "values.parquet")

        each(one, jobs, f"gate {run.dataset}", jobs=run.jobs, threads=run.threads)
        tables = [read_table(work.path(f"seed{s}-fold{f}") / "values.parquet") for s, f in jobs]

        def said(parts: list) -> dict:
            names = [str(i) for i in range(len(choices))]
            rows = pd.concat([pd.DataFrame(columns=["id", "block", *names]), *parts], ignore_index=True)
            values = rows[names].to_numpy(float).T
            units = [tied[name] for name in rows["id"]]
            return decide(choices, values, units, list(rows["block"]), confidence=settings.confidence)

        by_seed = [said([t for (s, _), t in zip(jobs, tables) if s == seed]) for seed in seeds]
        whole = said(tables)
        whole |= {"metric": METRIC, "sentence": sentence(whole, METRIC)}
        whole["seeds"] = [{k: v for k, v in found.items() if k != "candidates"} for found in by_seed]
        export(run, whole["chosen"], fit, pool)
        with atomic_file(paths.gate) as path:
            path.write_text(json.dumps(whole, indent=1) + "\n")
    mean = whole["gain"]["mean"]
    return {"accepted": str(whole["accepted"]), "gain": f"{mean:+.4f}" if mean is not None else "not measured",
            "chosen": whole["chosen"]["arm"], "anomalies": whole["anomalies"]}


def measure(
    run: Run, choices: list, fit, support, calib, tied: dict, seed: int, fold: int, sections: dict, share: float
):
    """The values of every candidate (columns "0", "1", ..) for the anomalies of one fold, made without the fold."""
    import pandas as pd

    from data.records import bare, concat
    from detection.arms import training_set
    from detection.detectors import DETECTORS
    from detection.evaluation import fused
    from detection.gate import values
    from detection.judge import LIKELIHOOD, outside

    folds = run.plan["folds"][seed]
    normals, odd = (outside(part, folds, fold) for part in (fit, support))
    held = support.take([folds[i] == fold for i in support.meta["id"]])
    both = concat([bare(part) for part in (held, calib)])
    ratio = next((j.detectors.get(LIKELIHOOD) for j in load_judges(run.paths.judges / f"seed{seed}", run.params.device)
                  if j.fold == fold), None)  # fmt: skip
    generated, kept = world(run, normals, odd, calib, tied, seed, ratio.adapter if ratio else None, sections)
    lists = {"ratio": ratio.score_map(both)} if ratio else {}
    options = sections["train"].model_dump(by_alias=True)
    out = {}
    for i, choice in enumerate(choices):
        key = (choice.arm, choice.detector, choice.weight)
        if key not in lists:
            records = training_set(choice.arm, normals, odd, generated, kept, seed=seed)
            own = dict(options.get(choice.detector, {}))
            if choice.arm != "real":
                own["real_share"] = choice.weight
            lists[key] = DETECTORS[run.modality][choice.detector](**own).fit(records, seed=seed).score_map(both)
        maps = lists[key]
        if choice.fuse:
            parts, count = [maps, lists["ratio"]], len(held)
            maps = fused(parts, [part[count:] for part in parts], run.modality)
        ids, found = values(both, maps, share)
        out[str(i)] = found
    return pd.DataFrame({"id": ids, "block": f"{seed}/{fold}", **out})


def world(run: Run, normals, odd, calib, tied: dict, seed: int, adapter, sections: dict) -> tuple:
    """(generated, kept) of one round of the loop on some of the data. adapter: one fitted on these records, or None."""
    import numpy as np
    import pandas as pd

    from data.records import bare, concat
    from data.records.codecs import CODECS
    from detection.gates import Gates
    from detection.judge import cross_fit, judge_records
    from detection.novelty import Duplicates
    from detection.verdict import verdicts
    from generation.inpaint import generate
    from generation.model import Base, pick_device
    from generation.plan import plan
    from generation.training import fit_adapter, match_scales

    ids, folds = list(odd.meta["id"]), inner_folds(normals, odd, tied, seed)
    sampling = sampling_of(sections["generate.r1"])
    if adapter is None:
        base = Base.load(run.paths.base, pick_device(run.params.device))
        settings = sections["adapt"].model_dump(by_alias=True)
        adapter, _ = fit_adapter(base, normals, odd, settings=settings, seed=seed)
    match_scales(adapter, normals, odd, folds, seed=seed, count=sections["adapt"].match, sampling=neutral(sampling))
    rows = plan(normals, odd, folds, count=run.settings.count, seed=seed, round_=101)
    made = concat(list(generate(adapter, normals, odd, rows, **sampling)))
    options = sections["crossfit"].model_dump(by_alias=True)
    options.pop("likelihood")
    judges = list(cross_fit(normals, odd, calib, folds, seed=seed, options=options))
    codec = CODECS[run.modality].fit(normals)
    gates = Gates(concat([bare(normals), bare(odd)]), odd, codec)
    scores = pd.concat([judge_records(judges, made, made.meta["fold"].to_numpy()), gates.measure(made)], axis=1)
    scores["duplicate_of"] = Duplicates().of(made)
    real = judge_records(judges, odd, np.array([folds[i] for i in ids]))
    limits = sections["filter.r1"].model_dump(by_alias=True)
    limits = {key: value for key, value in limits.items() if key not in ("collapse", "settled")}
    return made, made.take(verdicts(made.meta, scores, real, **limits)["keep"].to_numpy(bool))


def folds_of(plan: dict, seed: int) -> list[int]:
    """The folds of a support that have anomalies and leave INNER of them, enough to generate from and judge by."""
    folds, support = plan["folds"][seed], plan["supports"][seed]
    held = Counter(folds[name] for name in support)
    return [fold for fold in sorted(held) if len(support) - held[fold] >= INNER]


def tied_by(pool) -> dict[str, str]:
    """{id: group or incident} of all labelled anomalies; where there is but one, each by itself."""
    from data.split import blocks

    found = blocks(pool)
    return found if len(set(found.values())) >= INNER else {name: name for name in found}


def inner_folds(normals, odd, tied: dict[str, str], seed: int) -> dict[str, int]:
    """{id: fold} of what is left of a fold. Where its normals or its anomalies are of one group, a lot, a content that
    most rows have, one long incident, they are parted by record: the judges may then know the group, not the record.

    tied: {id: group or incident} of the anomalies at least.
    """
    import numpy as np

    from data.split import blocks, fold

    ids, plain = list(odd.meta["id"]), blocks(normals)
    rare = {name: tied[name] for name in ids}
    rare = rare if len(set(rare.values())) >= INNER else {name: name for name in ids}
    alone = {name: name for name in normals.meta["id"]}
    for tied in (plain, alone):
        folds = fold(normals.meta, ids, tied | rare, INNER, np.random.default_rng([seed, 41]))
        if len({folds[name] for name in alone}) == INNER:
            break
    return folds


def export(run: Run, chosen: dict, fit, pool) -> None:
    """The training set as the gate chose it, from all labelled anomalies and the records kept for every support: with
    the twins of generated images as normals, as the detectors that were measured had them."""
    from data.records import concat, read_store, write_store
    from detection.arms import training_set

    homes = [run.paths.round(r) for r in ROUNDS]
    generated, kept = (
        concat([read_store(home / part / f"seed{seed}") for home in homes for seed in run.seeds])
        for part in ("generated", "kept")
    )
    write_store(run.paths.training, training_set(chosen["arm"], fit, pool, generated, kept, seed=0))


if __name__ == "__main__":
    stage(main, section="gate")
