"""Stage evaluate: every arm's detector on the real test split, the only stage that reads it.

Reads test/, detectors/, base/, adapters/, records/calib, every round's verdicts. Writes metrics/<dataset>.json and
evaluation/pr.csv (arm, recall, precision of the first seed). Intervals are Student's over seeds, gains paired by seed.
"""

from __future__ import annotations

import json
from collections import Counter

from pipelines.config import ROUNDS
from pipelines.stage import Run, progress, stage
from pipelines.work import atomic_dir, atomic_file

REFERENCE = {"image": 60, "series": 200, "row": 5000}  # calib records whose scores the fused detector is scaled by


def main(run: Run) -> dict:
    import numpy as np

    from data.records import read_store
    from detection.arms import ARMS, EXTRA
    from detection.evaluation import GAIN, curve, fused, measure, pooled
    from detection.likelihood import LikelihoodRatio
    from detection.metrics import interval, paired
    from detection.store import load
    from generation.model import Adapter, Base, pick_device

    paths, modality = run.paths, run.modality
    test, calib = read_store(paths.test), read_store(paths.records / "calib")
    calib = calib.take(np.unique(np.linspace(0, len(calib) - 1, REFERENCE[modality]).astype(int)))
    values: dict[str, list[dict]] = {}
    lines = ["arm,recall,precision"]
    names = (*ARMS, *EXTRA[modality])
    with progress(len(run.seeds) * (len(names) + 2 * run.settings.likelihood), f"evaluate {run.dataset}") as bar:

        def note(name: str, maps, seed: int) -> None:
            values.setdefault(name, []).append(measure(test, maps))
            if seed == 0:
                points = curve(*pooled(test, maps))
                lines.extend(f"{name},{recall:.3f},{precision:.5f}" for recall, precision in points)
            bar.advance()

        for seed in run.seeds:
            mixed = None
            for name in names:
                detector = load(paths.detectors / name / f"seed{seed}")
                maps = detector.score_map(test)
                note(name, maps, seed)
                if name == "mixed":
                    mixed = maps, detector.score_map(calib)
            if run.settings.likelihood:
                adapter = Adapter.load(
                    Base.load(paths.base, pick_device(run.params.device)), paths.adapters / f"seed{seed}"
                )
                ratio = LikelihoodRatio(adapter)
                both = ratio.score_map(test), ratio.score_map(calib)
                note("likelihood_ratio", both[0], seed)
                note("fused", fused([mixed[0], both[0]], [mixed[1], both[1]], modality), seed)
    tables = {name: {m: interval([v[m] for v in own]) for m in own[0]} for name, own in values.items()}
    metric = GAIN[modality]
    gain = paired(*([v[metric] for v in values[arm]] for arm in ("mixed", "classical")))
    result = {
        "modality": modality,
        "arms": {name: tables[name] for name in ARMS},
        "gain": {"metric": metric, "arm": "mixed", "over": "classical", **gain},
        "counts": ledger_counts(run),
        "detectors": {name: table for name, table in tables.items() if name not in ARMS},
        "test": {"records": len(test), "anomalies": int(test.meta["label"].sum()), "seeds": len(run.seeds)},
    }
    with atomic_file(paths.metrics) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    with atomic_dir(paths.evaluation) as folder:
        (folder / "pr.csv").write_text("\n".join(lines) + "\n")
    return {"metric": metric, **{arm: f"{tables[arm][metric]['mean']:.3f}" for arm in ("real", "classical", "mixed")}}


def ledger_counts(run: Run) -> dict:
    """Records generated and kept over rounds and seeds, and how many fell to each reason."""
    import pandas as pd

    files = [paths for r in ROUNDS for paths in sorted((run.paths.round(r) / "verdicts").glob("seed*.parquet"))]
    reasons = Counter(pd.concat([pd.read_parquet(f, columns=["reason"]) for f in files])["reason"])
    kept = reasons.get("kept", 0)
    return {"generated": sum(reasons.values()), "kept": kept, "reasons": dict(sorted(reasons.items()))}


if __name__ == "__main__":
    stage(main, section="evaluate")
