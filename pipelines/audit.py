"""Stage audit: does anything that was generated, judged or trained on know the test, or give itself away?

Reads fingerprints/ (of the test), records/{fit,support,calib}, splits.json, judges/seed<k>/fold<j>/seen.json, every
round's generated, kept and verdicts and, where they are there, training/, detectors/counts and metrics/<dataset>.json.
Writes audit.json, whether or not the audit passes; where it does not, the stage ends with exit code 5 and DVC leaves
the file where it is. The graph that is checked, dvc.yaml, cannot be a dep: tests/test_graph.py checks it as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import InputError
from data.files import read_json, read_table
from pipelines import graph
from pipelines.adapt import support_of
from pipelines.config import ROUNDS
from pipelines.prepare import FINGERPRINTS, near_of, write_json
from pipelines.stage import Run, progress, stage

REAL = ("fit", "support", "calib")


def main(run: Run) -> dict:
    from data import leaks
    from data.records import read_store

    real = {name: read_store(run.paths.records / name) for name in REAL}
    marks, checks = marks_of(run, real), []
    checks += leaks.checks(marks, run.modality, near=near_of(run.params.prepare, run.modality))
    checks += of_generated(run, real, marks)
    checks += [of_arms(run), of_graph(run)]
    out = run.paths.folder / "audit.json"
    write_json(out, {"passed": all(c["passed"] for c in checks), "checks": checks})
    leaks.refuse(run.dataset, checks, f"all pairs are in {out}, what to do in docs/audit.md")
    return {"checks": len(checks), "passed": len(checks)}


def marks_of(run: Run, real: dict) -> dict:
    """The fingerprints of every part: those of the test as prepare left them, the others of what is on the disk."""
    from data.fingerprint import fingerprint, read

    return {name: fingerprint(part) for name, part in real.items()} | {"test": read(run.paths.folder / FINGERPRINTS)}


def of_generated(run: Run, real: dict, marks: dict) -> list[dict]:
    """The checks of generated records, which are read shard by shard."""
    from detection import audit

    fit, pool = real["fit"], real["support"]
    metas = {seed: made_meta(run, seed) for seed in run.seeds}
    made = {name for meta in metas.values() for name in meta["id"]}
    normals, outside = set(fit.meta["id"]), {*real["calib"].meta["id"], *marks["test"]["id"]}
    strange, judged = list(of_training(run, normals, set(pool.meta["id"]), outside)), []
    for seed, meta in metas.items():
        support = set(run.plan["supports"][seed])
        strange += audit.strangers(meta, normals | support, support, outside)
        judged += audit.judged_by(seed, meta, run.plan["folds"][seed], seen_by(run, seed), normals | support, made)
        judged += [pair for r in ROUNDS for pair in ledger_of(run, seed, r)]
    looked, contents = look_at(run, metas, fit, pool)
    total, few = sum(len(meta) for meta in metas.values()), sum(len(part) for part, _ in looked)
    return [
        audit.provenance(strange, total),
        audit.synthetic(audit.synthetic_outside(marks, made, contents)),
        audit.cross_fit(judged),
        audit.outside_mask((pair for part, hosts in looked for pair in audit.changed_outside(part, hosts)), few),
        *shortcuts(run, looked, fit, pool),
        audit.memorisation(*kept_copies(run, fit, pool), copy=run.settings.copy_, copies=run.settings.copies),
    ]


def of_training(run: Run, normals: set[str], anomalies: set[str], outside: set[str]) -> Iterator[tuple[str, str]]:
    """What the exported training set must not hold or name, where there is one."""
    from data.records import iter_store
    from detection.audit import strangers

    home = run.paths.folder / "training"
    for part in iter_store(home) if home.is_dir() else ():
        yield from (("training", name) for name in part.meta["id"] if name in outside)
        made = part.meta[part.meta["synthetic"].astype(bool)]
        yield from strangers(made, normals | anomalies, anomalies, outside)


def look_at(run: Run, metas: dict, fit: Any, pool: Any) -> tuple[list, dict[str, str]]:
    """([(some of the generated records, their hosts)], {sha256: id} of all that changed; rows may coincide: none)."""
    import numpy as np

    from data.fingerprint import digests
    from data.records import concat

    real = concat([fit, pool])
    place = {name: i for i, name in enumerate(real.meta["id"])}
    looked, contents = [], {}
    for seed in progress(list(metas), f"audit {run.dataset}"):
        chosen = sample(metas[seed], run.settings.sample // len(metas), seed)
        for part in stores(run, "generated", seed):
            if run.modality != "row":  # one that has no mask is its host
                changed = part.take(np.array([bool(np.any(m)) for m in part.mask], bool))
                contents |= dict(zip(digests(changed), changed.meta["id"]))
            mine = part.take((part.meta["id"].isin(chosen) & part.meta["host"].isin(place)).to_numpy(bool))
            if len(mine):
                looked.append((mine, real.take([place[host] for host in mine.meta["host"]])))
    return looked, contents


def kept_copies(run: Run, fit: Any, pool: Any) -> tuple[Any, list, list]:
    """(distance of every kept record to its support, (record, anomaly) of each, those that are the same)."""
    import numpy as np

    from data.records.codecs import CODECS
    from detection.audit import copies_of
    from detection.novelty import Copies

    codec = CODECS[run.modality].fit(fit)
    distances, near, same = [np.zeros(0)], [], []
    for seed in run.seeds:
        support = support_of(run, seed, pool)
        copies = Copies(support, codec)
        for part in stores(run, "kept", seed):
            distance, pairs, again = copies_of(part, support, copies, codec)
            distances.append(distance)
            near, same = near + pairs, same + again
    return np.concatenate(distances), near, same


def stores(run: Run, part: str, seed: int) -> Iterator[Any]:
    """The records of a seed in every round's `part`, shard by shard."""
    from data.records import iter_store

    for r in ROUNDS:
        yield from iter_store(run.paths.round(r) / part / f"seed{seed}")


def made_meta(run: Run, seed: int) -> Any:
    """Provenance of all records generated for a seed, without their contents."""
    import pandas as pd

    columns = ["id", "host", "parents", "mask_source", "fold"]
    folders = [run.paths.round(r) / "generated" / f"seed{seed}" for r in ROUNDS]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: generated records must be there, got none; run dvc repro")
    return pd.concat([read_table(folder, columns=columns) for folder in folders], ignore_index=True)


def seen_by(run: Run, seed: int) -> dict[int, set[str]]:
    """{fold: ids that its judges were trained on}, of those folds whose seen.json is there."""
    files = sorted((run.paths.judges / f"seed{seed}").glob("fold*/seen.json"))
    return {int(file.parent.name[4:]): set(read_json(file)) for file in files}


def ledger_of(run: Run, seed: int, round_: int) -> list[tuple[str, str]]:
    """What the ledger of a round does not tell as it is."""
    from detection.audit import ledger_gaps

    home, name = run.paths.round(round_), f"seed{seed}"
    made = read_table(home / "generated" / name, columns=["id", "fold"])
    kept = read_table(home / "kept" / name, columns=["id"])
    return list(ledger_gaps(made, read_table(home / "verdicts" / f"{name}.parquet"), list(kept["id"])))


def sample(meta: Any, count: int, seed: int) -> set[str]:
    """Ids of up to `count` records, the same ones at every run."""
    import numpy as np

    order = np.random.default_rng([seed, 23]).permutation(len(meta))
    return set(meta["id"].iloc[order[: max(1, count)]])


def shortcuts(run: Run, looked: list, fit: Any, pool: Any) -> list[dict]:
    """The checks for traces on all records looked at."""
    from data.records import concat
    from detection.audit import repeats, shortcut_check

    made, hosts = (concat(list(parts)) for parts in zip(*looked)) if looked else (pool.take([]), pool.take([]))
    found = [shortcut_check(made, hosts, pool, fit, limit=run.settings.shortcut)]
    return [*found, repeats(made, pool, fit)] if run.modality == "row" else found


def of_arms(run: Run) -> dict:
    """The check of the control arms, by metrics and counts where they are there."""
    from detection.audit import controls

    counts = run.paths.detectors / "counts" / "counts.json"
    return controls(*(read_json(path, needed=False) for path in (run.paths.metrics, counts)))


def of_graph(run: Run) -> dict:
    """No path of dvc.yaml leads from the test to a stage that must not see it."""
    from data.leaks import check

    path = Path("dvc.yaml")
    if not path.is_file():
        return check("graph", [], detail="no dvc.yaml here to be read")
    datasets = {name: d.model_dump() for name, d in run.params.datasets.items()}
    try:
        edges = graph.leaks(graph.resolve(graph.load(path)["stages"], datasets))
    except ValueError as error:
        return check("graph", [], detail=f"cannot be read: {error}", passed=False)
    return check("graph", [e.split(" -> ", 1) for e in edges], detail="no path from the test to a stage blind to it")


if __name__ == "__main__":
    stage(main, section="audit")
