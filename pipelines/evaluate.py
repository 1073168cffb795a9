"""Stage evaluate: every arm's detector on the real test split, the only stage that reads it.

Reads test/, detectors/, gate.json, base/, adapters/, records/calib, every round's verdicts. Writes
metrics/<dataset>.json and evaluation/pr.csv (arm, recall, precision of the first seed). Intervals are Student's over
seeds, gains paired by seed.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache

from data.atomic import atomic_dir, atomic_file
from data.files import read_json, read_table
from pipelines.config import ROUNDS
from pipelines.pool import each
from pipelines.stage import Run, progress, stage

RATIO = "likelihood_ratio"
REFERENCE = {"image": 60, "series": 200, "row": 5000}  # calib records whose scores the fused detector is scaled by


def main(run: Run) -> dict:
    import numpy as np

    from data.records import read_store
    from detection.arms import ARMS, EXTRA, SHUFFLED
    from detection.evaluation import GAIN, curve, fused, measure, pooled
    from detection.metrics import interval, paired
    from detection.store import load
    from pipelines.train import gate_names, gate_pair

    paths, modality, settings = run.paths, run.modality, run.settings
    test, calib = read_store(paths.test), read_store(paths.records / "calib")
    calib = calib.take(np.unique(np.linspace(0, len(calib) - 1, REFERENCE[modality]).astype(int)))
    said = read_json(paths.gate)
    gated = gate_names(run, said)
    own, pairs = ({s: gate_names(run, said, s) for s in run.seeds}, {s: gate_pair(said, s) for s in run.seeds})
    fuses = [said[side]["fuse"] for side in gated] + [c["fuse"] for pair in pairs.values() for c in pair.values()]
    arms = [name for name in (*ARMS, SHUFFLED) if (paths.detectors / name).is_dir()]
    names = list(dict.fromkeys((*arms, *EXTRA[modality], *gated.values())))
    fuse, metric = settings.likelihood or any(fuses), GAIN[modality]

    def of_seed(seed: int) -> tuple[dict[str, dict], list[str], float | None]:
        """({detector: its measures}, lines of pr.csv, for the first seed, the gain of the support's own choice)."""
        found, lines, maps = {}, [], {}
        here = list(dict.fromkeys((*names, *own[seed].values())))

        def scores(name: str, fuse: bool):
            return fused(*zip(maps[name], maps[RATIO]), modality) if fuse else maps[name][0]

        @cache  # an arm may be the gate's choice too
        def measured(name: str, fuse: bool) -> dict[str, float]:
            return measure(test, scores(name, fuse))

        def note(title: str, name: str, fuse: bool = False) -> None:
            found[title] = measured(name, fuse)
            if seed == 0:
                points = curve(*pooled(test, scores(name, fuse)))
                lines.extend(f"{title},{recall:.3f},{precision:.5f}" for recall, precision in points)

        with progress(len(here), f"evaluate {run.dataset} seed {seed}") as bar:
            for name in here:
                detector = load(paths.detectors / name / f"seed{seed}")
                maps[name] = detector.score_map(test), detector.score_map(calib) if fuse else None
                if not name.startswith("gate-"):
                    note(name, name)
                bar.advance()
        if fuse:
            maps[RATIO] = ratio_maps(run, seed, test, calib)
            note(RATIO, RATIO)
            note("fused", "mixed", True)
        for side, name in gated.items():
            note(f"gate_{side}", name, said[side]["fuse"])
        worth = {side: measured(name, pairs[seed][side]["fuse"])[metric] for side, name in own[seed].items()}
        return found, lines, worth["best"] - worth["reference"] if worth else None

    by_seed = each(of_seed, run.seeds, f"evaluate {run.dataset}", jobs=run.jobs, threads=run.threads)
    values = {name: [found[name] for found, *_ in by_seed] for name in by_seed[0][0]}
    lines = ["arm,recall,precision", *by_seed[0][1]]
    tables = {name: {m: interval([v[m] for v in own]) for m in own[0]} for name, own in values.items()}
    gain = paired(*([v[metric] for v in values[arm]] for arm in ("mixed", "classical")))
    result = {
        "modality": modality,
        "arms": {name: tables[name] for name in arms},
        "gain": {"metric": metric, "arm": "mixed", "over": "classical", **gain},
        "gate": truth(said, values, metric, [gain for *_, gain in by_seed]),
        "counts": ledger_counts(run),
        "detectors": {name: table for name, table in tables.items() if name not in arms},
        "test": {"records": len(test), "anomalies": int(test.meta["label"].sum()), "seeds": len(run.seeds)},
    }
    with atomic_dir(paths.evaluation) as folder:
        (folder / "pr.csv").write_text("\n".join(lines) + "\n")
    with atomic_file(paths.metrics) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    return {"metric": metric, **{arm: f"{tables[arm][metric]['mean']:.3f}" for arm in ("real", "classical", "mixed")}}


def ratio_maps(run: Run, seed: int, test, calib) -> tuple:
    """The likelihood ratio's maps of test and calib, by the adapter of a seed."""
    from detection.likelihood import LikelihoodRatio
    from generation.model import Adapter, Base, pick_device

    base = Base.load(run.paths.base, pick_device(run.params.device))
    ratio = LikelihoodRatio(Adapter.load(base, run.paths.adapters / f"seed{seed}"))
    return ratio.score_map(test), ratio.score_map(calib)


def truth(said: dict, values: dict[str, list[dict]], metric: str, own: list[float | None]) -> dict:
    """The gate's decision beside what the test says of it: the paired gain of its best candidate with generations over
    its best without, on the test split; truly_helpful where that is above 0 on the mean. seeds: what it decided on each
    support alone, the confidence it would hold at, and `own`, the gain of the pair that it compared there."""
    from detection.metrics import paired

    out = {key: said[key] for key in ("accepted", "holds_at", "chosen", "best", "reference")}
    if said["best"] is None:
        return out | {"gain": None, "truly_helpful": None, "seeds": []}
    gain = paired(*([v[metric] for v in values[f"gate_{side}"]] for side in ("best", "reference")))
    seeds = [{"accepted": s["accepted"], "holds_at": s["holds_at"], "gain": g}
             for s, g in zip(said["seeds"], own) if g is not None]  # fmt: skip
    return out | {"gain": {"metric": metric, **gain}, "truly_helpful": gain["mean"] > 0, "seeds": seeds}


def ledger_counts(run: Run) -> dict:
    """Records generated and kept over rounds and seeds, and how many fell to each reason."""
    import pandas as pd

    files = [paths for r in ROUNDS for paths in sorted((run.paths.round(r) / "verdicts").glob("seed*.parquet"))]
    ledger = pd.concat([read_table(f, columns=["reason", "keep"]) for f in files])
    reasons = Counter(ledger["reason"])
    return {"generated": len(ledger), "kept": int(ledger["keep"].sum()), "reasons": dict(sorted(reasons.items()))}


if __name__ == "__main__":
    stage(main, section="evaluate")
