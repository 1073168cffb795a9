"""Stage fidelity: how real and how varied the generated anomalies are, next to every real one that is not for testing.

Reads records/fit (scales alone), records/support, splits.json, every round's generated and kept. Writes fidelity.json,
means over supports: "all" and "kinds" of what was kept, the same under "generated" before the filter; "seeds" each.
"""

from __future__ import annotations

import json

from data.atomic import atomic_file
from pipelines.config import ROUNDS
from pipelines.pool import each
from pipelines.stage import Paths, Run, stage

SIDES = ("kept", "generated")


def main(run: Run) -> dict:
    from data.records import read_store
    from detection.fidelity import fidelity

    paths = run.paths
    fit, real = read_store(paths.records / "fit"), read_store(paths.records / "support").where(label=1)
    options = {"reference": fit, "device": run.params.device, "most": run.settings.most}
    units = [(seed, side) for seed in run.seeds for side in SIDES]

    def one(unit: tuple[int, str]) -> dict:
        seed, side = unit
        return fidelity(real, together(paths, side, seed, like=real), **options)

    found = dict(zip(units, each(one, units, f"fidelity {run.dataset}", jobs=run.jobs, threads=run.threads)))
    told = {side: [found[seed, side] for seed in run.seeds] for side in SIDES}
    means = {side: {"all": mean([t["all"] for t in told[side]]), "kinds": kinds(told[side])} for side in SIDES}
    seeds = [{side: told[side][seed]["all"] for side in SIDES} for seed in run.seeds]
    with atomic_file(paths.folder / "fidelity.json") as path:
        path.write_text(json.dumps({**means["kept"], "generated": means["generated"], "seeds": seeds}, indent=1) + "\n")
    shown = {name: means["kept"]["all"][name] for name in ("fid", "kid", "c2st", "diversity")}
    return {name: f"{value:.3f}" for name, value in shown.items() if value is not None}


def together(paths: Paths, side: str, seed: int, *, like):
    """What all rounds that there are made for a support; no records where none did."""
    from data.records import concat, read_store

    stores = [paths.round(r) / side / f"seed{seed}" for r in ROUNDS]
    parts = [read_store(store) for store in stores if store.exists()]
    return concat(parts) if parts else like.take([])


def kinds(told: list[dict]) -> dict[str, dict]:
    """The mean of every kind over supports."""
    names = sorted({kind for t in told for kind in t["kinds"]})
    return {name: mean([t["kinds"][name] for t in told if name in t["kinds"]]) for name in names}


def mean(tables: list[dict]) -> dict:
    """The mean of every measure over the tables that have a value; None where none has."""
    out = {}
    for name in tables[0] if tables else ():
        values = [table[name] for table in tables if table[name] is not None]
        out[name] = sum(values) / len(values) if values else None
    return out


if __name__ == "__main__":
    stage(main, section="fidelity")
