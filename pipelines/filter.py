"""Stage filter: a verdict and its reason for every judged record, the store of what is kept, next round's steering.

Reads r<r>/generated, r<r>/scores, judges/seed<k>/real.parquet, records/, splits.json, decisions.json and the round
before's steer.json. Writes r<r>/kept/seed<k> (stores), r<r>/verdicts/seed<k>.parquet (the ledger) and r<r>/steer.json
(counts, weights, diversity and why the loop stops, if it does). Measures counts a reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.atomic import atomic_dir, atomic_file
from data.errors import InputError, closest
from data.files import read_table
from pipelines.adapt import support_of
from pipelines.stage import Run, stage, tell

DECISIONS = Path("decisions.json")
WORDS = ("accept", "reject")
FORM = 'must be {"data set": {"record id": "accept" or "reject"}}'
TOLD = ["kind", "host", "severity", "area", "mask_iou", "size_bin", "severity_bin", "place", "host_bin", "fold"]
STEERING = ("collapse", "settled")  # settings of the steering, not of the verdicts


def main(run: Run) -> dict:
    import pandas as pd

    from data.records import iter_store, read_store, write_store
    from data.records.codecs import CODECS
    from detection.novelty import edit_vectors
    from detection.verdict import verdicts
    from pipelines.generate import steering

    paths, home = run.paths, run.paths.round(run.round)
    settings = run.settings.model_dump(by_alias=True)
    limits = {name: settings.pop(name) for name in STEERING}
    by_hand, before = decisions(run.dataset), steering(run)
    for line in unused(read_json(), run.params.datasets) if run.round == 1 else ():
        tell(f"filter {run.dataset}: {line}")
    codec, pool = CODECS[run.modality].fit(read_store(paths.records / "fit")), read_store(paths.records / "support")
    steer, reasons = {}, Counter()
    with atomic_dir(home / "kept") as kept, atomic_dir(home / "verdicts") as ledger:
        for seed in run.seeds:
            store, name = home / "generated" / f"seed{seed}", f"seed{seed}"
            parts = [(part.meta, edit_vectors(part, codec)) for part in marked(iter_store(store), run.dataset, by_hand)]
            meta = pd.concat([m for m, _ in parts], ignore_index=True)
            scores = read_table(home / "scores" / f"{name}.parquet")
            real = read_table(paths.judges / name / "real.parquet")
            table = verdicts(meta, scores, real, **settings, decisions=by_hand)
            own = support_of(run, seed, pool)
            known = before.get(name) or {"counts": untried(own)}
            varied = [[v for _, v in parts], edit_vectors(own, codec)]
            steer[name] = feedback(meta, table, scores, real, *varied, known, limits)
            full = pd.concat([table, meta[TOLD], scores.drop(columns="id")], axis=1)
            full.insert(1, "seed_index", seed)
            full.insert(2, "round", run.round)
            full.to_parquet(ledger / f"{name}.parquet")
            reasons.update(table["reason"])
            write_store(kept / name, kept_parts(store, table))
    with atomic_file(home / "steer.json") as path:
        path.write_text(json.dumps(steer, indent=1, sort_keys=True))
    stops = sorted({found["stop"] for found in steer.values() if found["stop"]})
    told = {"stop": stops[0]} if stops else {}
    return {"generated": sum(reasons.values()), **dict(sorted(reasons.items())), **told}


def untried(support) -> dict[str, list[int]]:
    """The counts of every arm that a support's plans draw from, before anything was drawn."""
    from generation.plan import arms

    choices = arms(sorted(set(support.meta["kind"])), support.modality)
    return {name: [0, 0, 0] for names in choices.values() for name in names}


def feedback(meta, table, scores, real, vectors: list, support, before: dict, limits: dict) -> dict:
    """One seed's entry of steer.json: counts, weights, diversity, stop; once stopped it stays as it was. before: that
    of the round before, or the counts alone that the first round begins with."""
    import numpy as np

    from detection import steering

    if before.get("stop"):
        return before
    keep, fused = table["keep"].to_numpy(bool), scores["fused"].to_numpy(float)
    counts = steering.tally(meta, keep, fused, real["fused"].to_numpy(float), before["counts"])
    varied = steering.diversity(meta, keep, np.concatenate(vectors), support)
    now = {"counts": counts, "weights": steering.weights(counts), "diversity": varied}
    return now | {"stop": steering.stop(now, before if "weights" in before else None, **limits)}


def decisions(dataset: str, path: Path = DECISIONS) -> dict[str, str]:
    """{record id: "accept" | "reject"} of a data set in decisions.json; InputError where the file has another form."""
    own = read_json(path).get(dataset, {})
    if not isinstance(own, dict):
        raise InputError(f"{path}: {dataset}: {FORM}, got {str(own)[:60]}; export it again")
    for name, word in own.items():
        if word not in WORDS:
            raise InputError(f"{path}: {dataset}: {name}: {FORM}, got {word!r}; export it again")
    return own


def read_json(path: Path = DECISIONS) -> dict:
    """The decisions on all data sets, none without the file; InputError where it does not hold data sets."""
    try:
        read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: must be JSON ({error}); export it again or put {{}} there") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: {FORM}, got {str(read)[:60]}; export it again")
    return read


def unused(decided: dict, datasets: Iterable[str]) -> list[str]:
    """A line for every data set with decisions that params.yaml does not name: misspelt, or set aside for a while."""
    strange = [name for name, own in decided.items() if own and name not in datasets]
    return [f"{DECISIONS}: decisions on {name!r} are not used, it is no data set of params.yaml "
            f"({closest(name, datasets)})" for name in strange]  # fmt: skip


def marked(parts: Iterable, dataset: str, by_hand: dict[str, str]) -> Iterator:
    """The parts of a store as they come; InputError where a record is accepted by hand in which nothing changed."""
    for part in parts:
        for name, mask in zip(part.meta["id"], part.mask):
            if by_hand.get(name) == "accept" and not mask.any():
                raise InputError(
                    f"{DECISIONS}: {dataset}: {name}: what is accepted must have a mask, got an empty one: nothing "
                    "changed in it, so there is nothing to label; take it out"
                )
        yield part


def kept_parts(store, table):
    """The records of a store that `table` keeps, shard by shard, with their verdicts beside them."""
    from data.records import iter_store

    start = 0
    for part in iter_store(store):
        own = table.iloc[start : start + len(part)].reset_index(drop=True)
        start += len(part)
        part.meta["reason"], part.meta["band"] = list(own["reason"]), list(own["band"])
        yield part.take(own["keep"].to_numpy(bool))


if __name__ == "__main__":
    stage(main, section="filter")
