"""The whole loop on the demo, made small: every stage by its function, then what the user is given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from data.fingerprint import digests
from data.records import read_store
from pipelines.work import MANIFEST, manifest

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "image": {"fit": {"steps": 6, "batch": 8, "pool": 32, "size": 32, "widths": [16, 32]},
              "latent": {"steps": 4, "width": 8},
              "adapt": {"steps": 4, "pool": 16, "batch": 8, "match": 1}, "generate": {"count": 8, "steps": 2},
              "detector": {"segmentation": {"size": 64, "steps": 6}, "memory": {"size": 64, "bank": 100}}},
    "series": {"fit": {"steps": 8, "width": 32, "depth": 1}, "adapt": {"steps": 6, "pool": 32, "match": 2},
               "generate": {"count": 12, "steps": 3}, "detector": {"forest": {"trees": 10}}},
    "row": {"fit": {"steps": 10, "width": 32, "depth": 1}, "adapt": {"steps": 6}, "generate": {"count": 24, "steps": 3},
            "detector": {"forest": {"trees": 10}}},
}  # fmt: skip
NAMES = {"image": "textures", "series": "co2", "row": "cells"}
ROUND = ("generate", "judge", "filter")
STEPS = ("prepare", "fit", "adapt", "crossfit", *(f"{stage} 1" for stage in ROUND),
         *(f"{stage} {r}" for r in (2, 3) for stage in ("tune", *ROUND)), "gate", "train", "evaluate")  # fmt: skip


def small_params(modality: str) -> dict:
    """The demo's settings for one data set, two supports, everything tiny."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    small = SMALL[modality]
    params["datasets"] = {NAMES[modality]: params["datasets"][NAMES[modality]]}
    params["datasets"][NAMES[modality]]["source"]["path"] = str(ROOT / "data" / "demo.py")
    params["prepare"] |= {"seeds": 2, "support": 6}
    for stage in ("fit", "adapt", "generate"):
        params[stage][modality] |= small[stage]
    if modality == "image":
        params["fit"]["image"]["latent"] |= small["latent"]
    for stage in ("crossfit", "train"):
        for name, options in small["detector"].items():
            params[stage][modality].setdefault(name, {}).update(options)
    params["filter"][modality] |= {"floor": 0.0, "ceiling": 0.0, "seam": 2.0, "min_overlap": 0.0, "copy": 0.0,
                                   "contrast": [0.0, 1e9], "posterior": 0.0, "settled": 0.0,
                                   "collapse": 0.0}  # fmt: skip
    params["tune"][modality] |= {"steps": 3, "batch": 4, "pool": 8}
    params["gate"][modality] |= {"count": 8, "supports": 1, "arms": ["real", "mixed"]}
    params["train"][modality]["shuffled"] = True
    return params


def run(step: str, name: str, folder: Path, threads: int = 1) -> subprocess.CompletedProcess:
    stage, *number = step.split()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    return subprocess.run([sys.executable, "-m", f"pipelines.{stage}", name, *number], cwd=folder, env=env,
                          capture_output=True, text=True)  # fmt: skip


@pytest.fixture(scope="module", params=SMALL)
def looped(request, tmp_path_factory) -> tuple[str, Path]:
    """(modality, folder) after every stage ran, each in a process of its own, the test split away until evaluate."""
    modality, folder = request.param, tmp_path_factory.mktemp(request.param)
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(modality)))
    name = NAMES[modality]
    test, hidden = folder / "artifacts" / name / "test", folder / "hidden"
    for step in STEPS:
        if step == "evaluate":
            hidden.rename(test)
        done = run(step, name, folder)
        assert done.returncode == 0, f"{step}: {done.stderr}"
        if step == "prepare":
            test.rename(hidden)  # nothing up to train can have read it
    return modality, folder


def test_metrics_have_every_arm_with_one_value_a_support(looped):
    modality, folder = looped
    result = json.loads((folder / "metrics" / f"{NAMES[modality]}.json").read_text())
    metrics = {"image": {"image_auroc", "image_ap", "pixel_auroc", "pixel_ap"}, "series": {"ap", "auroc", "vus_pr"},
               "row": {"ap", "auroc"}}[modality]  # fmt: skip
    arms = ["real", "standard", "classical", "generated", "dropped", "filtered", "mixed", "shuffled"]
    assert list(result["arms"]) == arms
    for arm in result["arms"].values():
        assert set(arm) == metrics
        for value in arm.values():
            assert len(value["values"]) == 2 and value["low"] <= value["mean"] <= value["high"]
            assert min(value["values"]) >= 0 and max(value["values"]) <= 1
    gain, head = result["gain"], {"image": "pixel_ap", "series": "vus_pr", "row": "ap"}[modality]
    pairs = [result["arms"][arm][head]["values"] for arm in ("mixed", "classical")]
    assert gain["metric"] == head
    assert gain["mean"] == pytest.approx(sum(a - b for a, b in zip(*pairs)) / 2)
    assert {"likelihood_ratio", "fused"} <= set(result["detectors"])


def test_the_gate_measures_real_rows_without_their_fold_at_the_share_of_anomalies_in_the_data(looped):
    from sklearn.metrics import average_precision_score

    from data.records import bare, concat
    from detection.detectors import DETECTORS
    from detection.judge import outside

    modality, folder = looped
    if modality != "row":
        pytest.skip("the same code, and longer")
    home = folder / "artifacts" / NAMES[modality]
    fit, pool, calib = (bare(read_store(home / "records" / name)) for name in ("fit", "support", "calib"))
    plan, said = (json.loads((home / name).read_text()) for name in ("splits.json", "gate.json"))
    own, names = plan["folds"][0], list(pool.meta["id"])
    support = pool.take([names.index(name) for name in plan["supports"][0]])
    rest, total, options = len(fit) + len(calib), 0.0, small_params(modality)["train"]["row"]["forest"]
    for fold in set(own.values()):
        real = concat([outside(fit, own, fold), outside(support, own, fold)])
        held = support.take([own[name] == fold for name in support.meta["id"]])
        scores = DETECTORS["row"]["forest"](**options).fit(real, seed=0).score_map(concat([held, calib]))
        label = np.r_[np.ones(len(held)), np.zeros(len(calib))]
        weight = np.where(label > 0, len(pool) / rest * len(calib) / len(held), 1.0)
        total += len(held) * average_precision_score(label, scores, sample_weight=weight)
    candidate = said["candidates"][0]
    assert (candidate["arm"], candidate["detector"], candidate["fuse"]) == ("real", "forest", False)
    assert candidate["mean"] == pytest.approx(total / len(support))


def test_a_supports_own_choice_is_measured_as_that_and_not_as_the_choice_of_all(looped, tmp_path):
    modality, folder = looped
    if modality != "row":
        pytest.skip("the same code, and longer")
    copy, name = tmp_path / "copy", NAMES[modality]
    shutil.copytree(folder, copy)
    file = copy / "artifacts" / name / "gate.json"
    said, usual = json.loads(file.read_text()), small_params(modality)["train"]["row"]["forest"]["real_share"]
    real, mixed = ({"arm": arm, "detector": "forest", "weight": usual, "fuse": False} for arm in ("real", "mixed"))
    other = mixed | {"weight": 0.9}
    said |= {"best": other, "reference": real}
    said["seeds"] = [said["seeds"][0] | pair for pair in (
        {"best": mixed, "reference": real}, {"best": other | {"weight": 0.1}, "reference": real})]  # fmt: skip
    file.write_text(json.dumps(said))
    for step in ("train", "evaluate"):
        done = run(step, name, copy)
        assert done.returncode == 0, f"{step}: {done.stderr}"
    found = json.loads((copy / "metrics" / f"{name}.json").read_text())
    values = {arm: found["arms"][arm]["ap"]["values"] for arm in ("mixed", "real")}
    assert found["gate"]["seeds"][0]["gain"] == pytest.approx(values["mixed"][0] - values["real"][0])
    made = {own.parent.parent.name: json.loads(own.read_text())["config"]["options"]
            for own in (copy / "artifacts" / name / "detectors").glob("gate-*/seed1/config.json")}  # fmt: skip
    shares = {own: options["real_share"] for own, options in made.items()}
    assert shares == {"gate-best": 0.9, "gate-best-own": 0.1}
    assert not (copy / "artifacts" / name / "detectors" / "gate-best-own" / "seed0").exists()
    assert found["gate"]["seeds"][1]["gain"] != found["gate"]["gain"]["values"][1]


def test_the_ledger_has_every_record_and_its_reason_and_the_kept_store_agrees(looped):
    modality, folder = looped
    home = folder / "artifacts" / NAMES[modality]
    total = 0
    for number in (1, 2, 3):
        for seed in (0, 1):
            ledger = pd.read_parquet(home / f"r{number}" / "verdicts" / f"seed{seed}.parquet")
            made = read_store(home / f"r{number}" / "generated" / f"seed{seed}")
            kept = read_store(home / f"r{number}" / "kept" / f"seed{seed}")
            assert list(ledger["id"]) == list(made.meta["id"]) and ledger["reason"].notna().all()
            content = [f"g{own:x}-{mark[:8]}" for own, mark in zip(made.meta["seed"], digests(made))]
            assert list(made.meta["id"]) == content  # a decision on a record is none on what its seed may become
            assert list(ledger.loc[ledger["keep"], "id"]) == list(kept.meta["id"])
            assert (made.meta["round"] == number).all() and made.meta["generator"].str.startswith("diffusion-").all()
            total += len(made)
    counts = json.loads((folder / "metrics" / f"{NAMES[modality]}.json").read_text())["counts"]
    assert counts["generated"] == total == sum(counts["reasons"].values())
    assert counts["kept"] == counts["reasons"].get("kept", 0)


def test_every_parent_and_host_is_training_data(looped):
    modality, folder = looped
    home = folder / "artifacts" / NAMES[modality]
    plan = json.loads((home / "splits.json").read_text())
    fit = set(read_store(home / "records" / "fit").meta["id"])
    tested = set(read_store(home / "test").meta["id"])
    for seed in (0, 1):
        made = read_store(home / "r2" / "generated" / f"seed{seed}").meta
        support = set(plan["supports"][seed])
        assert {p for parents in made["parents"] for p in parents} <= support
        assert set(made["host"]) <= (support if modality == "row" else fit)
        assert not tested & (support | fit)


def test_a_killed_generation_resumes_to_the_same_records(looped, tmp_path):
    modality, folder = looped
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    name = NAMES[modality]
    out = copy / "artifacts" / name / "r2" / "generated"
    before = read_store(out / "seed1")
    shutil.rmtree(out)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "pipelines.generate", name, "2"], cwd=copy, env=env)
    units = (copy / ".work" / "generate-r2" / name).glob
    while process.poll() is None and not list(units(f"*/units/seed0/part000000/{MANIFEST}")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert process.returncode == -9 and not out.exists()
    assert run("generate 2", name, copy).returncode == 0
    after = read_store(out / "seed1")
    assert list(after.meta["id"]) == list(before.meta["id"])
    same = [str(a) == str(b) for a, b in zip(after.mask, before.mask)]
    assert all(same)


def test_units_side_by_side_leave_what_they_leave_one_after_another(looped, tmp_path):
    modality, folder = looped
    copy, name = tmp_path / "copy", NAMES[modality]
    shutil.copytree(folder, copy)
    home, other = folder / "artifacts" / name, copy / "artifacts" / name
    for step, out in (("adapt", "adapters"), ("generate 1", "r1/generated"), ("judge 1", "r1/scores")):
        shutil.rmtree(other / out)
        done = run(step, name, copy, threads=2)
        assert done.returncode == 0, done.stderr
        files, before = manifest(other / out), manifest(home / out)
        assert files.keys() == before.keys()
        assert modality == "image" or files == before  # of convolutions the number of threads decides the last bits
