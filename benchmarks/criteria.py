"""What other rankings of the filter would keep of the same generations, by the real test split; no loop is run again.

    python benchmarks/criteria.py --only SET [SET ...]

Reads finished cells of benchmarks/proof.py (K = 10). For every support: generations and judges' scores of all rounds as
they are, a verdict by every criterion, by gates and bands without a ranking, and by the hard gates alone; what each
keeps is trained on and tested as the arm `filtered` is. Over DRAWS times as many records at random as the set's own
criterion keeps, the mean of the draws. Later rounds were steered by the set's own criterion, whatever is tried here.

Writes benchmarks/results/criteria.json: {set: {variant: {"kept", "mean", "low", "high", "values"}}}, gains in the set's
metric, one value a support; sets that were run earlier stay. And criteria.md, the table.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from proof_tables import HEAD

from data.atomic import atomic_file
from detection.verdict import CRITERIA
from pipelines.markdown import signed, table
from pipelines.stage import Run, parse

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
DRAWS = 3
NO_BANDS = {"floor": 0.0, "ceiling": 0.0, "low": 0.0, "high": 1.0, "trivial_share": 0.99}
VARIANTS = {name: {"criterion": name} for name in CRITERIA} | {
    "gates and bands": {"keep_share": 1.0}, "hard gates": {"keep_share": 1.0, **NO_BANDS},
}  # fmt: skip
SAID = """What `filtered` gains over as many records at random, the mean of three draws, if the filter ranks by another
criterion than the set's own, by none, or has the hard gates alone. Written by `python benchmarks/criteria.py`."""


def of_support(run: Run, seed: int, parts: dict) -> dict[str, tuple[int, float]]:
    """{variant: (kept, gain over the random draws)} of one support, in the set's metric."""
    import numpy as np
    import pandas as pd

    from data.records import concat, read_store
    from detection.arms import DETECTOR, training_set
    from detection.detectors import DETECTORS
    from detection.evaluation import GAIN, measure
    from detection.verdict import verdicts
    from pipelines.adapt import support_of
    from pipelines.config import ROUNDS
    from pipelines.filter import STEERING

    kind = DETECTOR[run.modality]
    options = run.settings.model_dump(by_alias=True).get(kind, {})
    support, homes = support_of(run, seed, parts["support"]), [run.paths.round(r) for r in ROUNDS]
    stores = [read_store(home / "generated" / f"seed{seed}") for home in homes]
    scores = [pd.read_parquet(home / "scores" / f"seed{seed}.parquet") for home in homes]
    real, generated = pd.read_parquet(run.paths.judges / f"seed{seed}" / "real.parquet"), concat(stores)

    def keep(changes: dict) -> np.ndarray:
        found = []
        for number, store, judged in zip(ROUNDS, stores, scores):
            limits = run.params.section("filter", run.modality, number).model_dump(by_alias=True)
            limits = {k: v for k, v in limits.items() if k not in STEERING} | changes
            found.append(verdicts(store.meta, judged, real, **limits)["keep"].to_numpy(bool))
        return np.flatnonzero(np.concatenate(found))

    def worth(rows: np.ndarray) -> float:
        records = training_set("filtered", parts["fit"], support, generated, generated.take(rows), seed=seed)
        detector = DETECTORS[run.modality][kind](**options).fit(records, seed=seed)
        return measure(parts["test"], detector.score_map(parts["test"]))[GAIN[run.modality]]

    rng, count = np.random.default_rng([seed, 19]), len(keep({}))
    shows = np.flatnonzero([np.any(mask) for mask in generated.mask])  # as in the arm `dropped`
    random = np.mean([worth(np.sort(rng.permutation(shows)[:count])) for _ in range(DRAWS)])
    kept = {name: keep(changes) for name, changes in VARIANTS.items()}
    return {name: (len(rows), worth(rows) - random) for name, rows in kept.items()}


def of_set(name: str) -> dict[str, dict]:
    """{variant: {"kept", "mean", "low", "high", "values"}} of the finished cell of a set."""
    from data.records import read_store
    from detection.metrics import interval
    from pipelines.pool import each

    os.chdir(ROOT / f".work/cells/proof--{name}--k{HEAD}/tree")
    try:
        run = parse("train", [name])
        paths = run.paths
        parts = {"fit": paths.records / "fit", "support": paths.records / "support", "test": paths.test}
        parts = {part: read_store(path) for part, path in parts.items()}
        label = f"criteria {name}"
        found = each(lambda s: of_support(run, s, parts), run.seeds, label, jobs=run.jobs, threads=run.threads)
    finally:
        os.chdir(ROOT)
    count = len(found)
    return {
        v: {"kept": sum(one[v][0] for one in found) / count, **interval([one[v][1] for one in found])} for v in VARIANTS
    }


def tables(found: dict) -> str:
    """criteria.md; the last row is the mean over sets."""
    rows = [[name, *(signed(found[name][v]) for v in VARIANTS)] for name in found]
    means = [f"{sum(entry[v]['mean'] for entry in found.values()) / len(found):+.3f}" for v in VARIANTS]
    return f"# Criteria\n\n{SAID}\n\n{table(['set', *VARIANTS], [*rows, ['mean', *means]])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="SET", required=True)
    os.chdir(ROOT)
    path = RESULTS / "criteria.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for name in parser.parse_args().only:
        found[name] = of_set(name)
        with atomic_file(path) as part:
            part.write_text(json.dumps(found, indent=1) + "\n")
        with atomic_file(RESULTS / "criteria.md") as part:
            part.write_text(tables(found))


if __name__ == "__main__":
    main()
