"""Generation speed of every modality with the demo's settings: records a second, median and range over repeats.

    python benchmarks/speed.py            # prints a table, writes benchmarks/results/speed.json

A base and an adapter are trained for a few steps only: speed does not depend on how well they fit.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

AIMS = {"image": 5, "series": 200, "row": 2000}  # records a second on two cores, 20 sampler steps
COUNT = {"image": 64, "series": 512, "row": 4096}
REPEATS = 3


def measure(modality: str) -> dict:
    """Records a second of `generate` over COUNT planned records, from plan to finished Records."""
    from data import demo
    from data.split import split
    from generation.inpaint import generate
    from generation.model import pick_device
    from generation.plan import plan
    from generation.training import fit_adapter, fit_base
    from pipelines.adapt import sampling_of
    from pipelines.config import load_settings

    params = load_settings()
    raw, _ = demo.read(modality=modality)
    prepare = params.prepare
    parts = split(
        raw,
        seeds=1,
        support=prepare.support,
        folds=prepare.folds,
        test_share=prepare.test_share,
        calib_share=prepare.calib_share,
        window=prepare.series.window if modality == "series" else None,
    )
    names = list(parts.support.meta["id"])
    support = parts.support.take([names.index(name) for name in parts.plan["supports"][0]])
    settings = {**params.fit.__getattribute__(modality).model_dump(), "steps": 8}
    if modality == "image":
        settings["latent"] = {**settings["latent"], "steps": 8}
    adapt = {**getattr(params.adapt, modality).model_dump(), "steps": 8}
    device = pick_device(params.device)
    base, _ = fit_base(parts.fit, settings=settings, seed=0, device=device)
    adapter, _ = fit_adapter(base, parts.fit, support, settings=adapt, seed=0)
    section = params.section("generate", modality)
    rates = []
    for repeat in range(REPEATS):
        rows = plan(parts.fit, support, parts.plan["folds"][0], count=COUNT[modality], seed=repeat, round_=1)
        began = time.monotonic()
        made = sum(len(part) for part in generate(adapter, parts.fit, support, rows, **sampling_of(section)))
        rates.append(made / (time.monotonic() - began))
    return {
        "per_second": statistics.median(rates),
        "low": min(rates),
        "high": max(rates),
        "aim": AIMS[modality],
        "steps": section.steps,
        "device": device,
    }


def main() -> None:
    results = {"cores": len(os.sched_getaffinity(0)), **{modality: measure(modality) for modality in AIMS}}
    target = Path(__file__).parent / "results" / "speed.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    for modality in AIMS:
        r = results[modality]
        print(f"{modality:7s} {r['per_second']:8.1f}/s ({r['low']:.1f} to {r['high']:.1f}), aim {r['aim']}/s")


if __name__ == "__main__":
    main()
