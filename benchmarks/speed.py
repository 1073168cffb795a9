"""Speed of generation, judging and filtering of every modality with the demo's settings, median and range over repeats.

    python benchmarks/speed.py            # prints a table, writes benchmarks/results/speed.json

Base and adapter are trained for a few steps only: speed does not depend on how well they fit. As the stages do, series
and rows are generated in parts side by side (pipelines/pool.py). Judging is by the cross-fitted detectors in one
process, images with their features cached; `likelihood`: with the denoiser's likelihood ratio too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

# records a second on two cores
AIMS = {"generate": {"image": 5, "series": 200, "row": 2000},  # at 20 sampler steps
        "judge": {"image": 200, "series": 2000, "row": 50_000}}  # fmt: skip
SHARE = 0.2  # most that judging and filtering may take of the time of generating
COUNT = {"image": 64, "series": 512, "row": 16384}
REPEATS = 3


def rate(call, count: int) -> dict:
    """Records a second of a call over `count` records: {"per_second": median, "low", "high"}."""
    rates = []
    for repeat in range(REPEATS):
        began = time.monotonic()
        call(repeat)
        rates.append(count / (time.monotonic() - began))
    return {"per_second": statistics.median(rates), "low": min(rates), "high": max(rates)}


def measure(modality: str) -> dict:
    """{"generate", "judge", "filter", ..} of COUNT planned records, from plan to verdicts."""
    import pandas as pd

    from data import demo
    from data.records import concat
    from data.split import split
    from detection.gates import Gates
    from detection.judge import cross_fit, judge_records, real_scores
    from detection.likelihood import LikelihoodRatio
    from detection.novelty import Duplicates
    from detection.verdict import verdicts
    from generation.inpaint import generate
    from generation.model import pick_device
    from generation.plan import plan
    from generation.training import fit_adapter, fit_base
    from pipelines.adapt import sampling_of
    from pipelines.filter import STEERING
    from pipelines.pool import each
    from pipelines.settings import load_settings
    from pipelines.stage import cores

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
    names, folds = list(parts.support.meta["id"]), parts.plan["folds"][0]
    support = parts.support.take([names.index(name) for name in parts.plan["supports"][0]])
    settings = {**params.fit.__getattribute__(modality).model_dump(), "steps": 8}
    if modality == "image":
        settings["latent"] = {**settings["latent"], "steps": 8}
    adapt = {**getattr(params.adapt, modality).model_dump(), "steps": 8}
    device = pick_device(params.device)
    base, _ = fit_base(parts.fit, settings=settings, seed=0, device=device)
    adapter, _ = fit_adapter(base, parts.fit, support, settings=adapt, seed=0)
    section, count = params.section("generate", modality), COUNT[modality]
    jobs = 1 if modality == "image" or device != "cpu" else cores()

    def planned(repeat: int):
        return plan(parts.fit, support, folds, count=count, seed=repeat, round_=1)

    def made_of(rows):
        return concat(list(generate(adapter, parts.fit, support, rows, **sampling_of(section))))

    def make(repeat: int) -> None:
        rows = planned(repeat)
        each(lambda start: len(made_of(rows.iloc[start::jobs])), range(jobs), modality, jobs=jobs)

    out = {"generate": rate(make, count), "steps": section.steps, "device": device}
    options = params.section("crossfit", modality).model_dump(by_alias=True)
    options.pop("likelihood")
    made = made_of(planned(0))
    fold = made.meta["fold"].to_numpy()
    for name, ratios in (("judge", {}), ("likelihood", dict.fromkeys(set(folds.values()), LikelihoodRatio(adapter)))):
        judges = list(cross_fit(parts.fit, support, parts.calib, folds, seed=0, options=options, ratios=ratios))
        scores = judge_records(judges, made, fold)  # and the features of images
        out[name] = rate(lambda _, judges=judges: judge_records(judges, made, fold), count)
        if not ratios:
            found, real = scores, real_scores(judges, support, folds)
    limits = params.section("filter", modality).model_dump(by_alias=True)
    limits = {key: value for key, value in limits.items() if key not in STEERING}
    gates = Gates(concat([parts.fit, support]), support, base.codec)

    def sift(_) -> None:
        table = pd.concat([found, gates.measure(made)], axis=1)
        table["duplicate_of"] = Duplicates().of(made)
        verdicts(made.meta, table, real, **limits)

    out["filter"] = rate(sift, count)
    spent = sum(1 / out[name]["per_second"] for name in ("judge", "filter"))
    return out | {"share": spent * out["generate"]["per_second"]}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    modalities = tuple(COUNT)
    results = {"cores": len(os.sched_getaffinity(0)), **{modality: measure(modality) for modality in modalities}}
    target = Path(__file__).parent / "results" / "speed.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    for modality in modalities:
        found = results[modality]
        for name in ("generate", "judge", "likelihood", "filter"):
            r, aim = found[name], AIMS.get(name, {}).get(modality)
            told = f", aim {aim}/s" if aim else ""
            print(f"{modality:7s} {name:10s} {r['per_second']:9.1f}/s ({r['low']:.1f} to {r['high']:.1f}){told}")
        print(f"{modality:7s} judging and filtering take {found['share']:.2f} of the time of generating, aim {SHARE}")


if __name__ == "__main__":
    main()
