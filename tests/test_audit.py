"""The audit: a clean loop passes, and every leak planted in one fails it with its pairs named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.ndimage import binary_dilation
from test_leaks import images, prepare, recordings

from data.errors import LeakError
from data.fingerprint import fingerprint, read, write
from data.records import Records, bare, concat, make_meta, read_store, write_store
from detection import audit as checks
from detection import shortcut
from detection.arms import ARMS
from pipelines import audit as stage
from pipelines.config import ROUNDS
from pipelines.prepare import divide
from pipelines.settings import load_settings
from pipelines.stage import Run

ROOT = Path(__file__).resolve().parent.parent
SEEDS, COUNT, KEPT = 3, 14, 10  # supports; records generated and kept a support and round
COLUMNS = [{"name": f"c{i}", "type": "numeric", "nullable": True} for i in range(5)]


def table() -> Records:
    """120 rows, 60 of them anomalous: every cell two standard deviations up."""
    rng, label = np.random.default_rng(5), np.repeat([0, 1], [60, 60])
    x = pd.DataFrame(rng.normal(0, 1, (120, 5)) + 2 * label[:, None], columns=[c["name"] for c in COLUMNS])
    meta = make_meta(120, id=[f"r{i}" for i in range(120)], label=list(label), given="")
    return Records("row", meta, x, np.repeat(label.astype(bool)[:, None], 5, 1), {"columns": COLUMNS})


RAW: dict[str, Callable[[], Records]] = {"image": lambda: images(60, 24), "series": recordings, "row": table}


def edited(rng: np.random.Generator, host: Records, i: int, mask: np.ndarray) -> object:
    """The content of host `i`, changed where `mask` is."""
    if host.modality == "row":
        row = host.x.iloc[[i]].copy()
        row.iloc[0, np.flatnonzero(mask)] = rng.normal(2, 1, int(mask.sum()))
        return row
    x = host.x[i].copy()
    if host.modality == "image":
        x[mask] = np.clip(x[mask].astype(int) + rng.integers(40, 90, int(mask.sum())), 0, 255)
    else:
        x[mask] += rng.normal(4, 1, int(mask.sum()))
    return x


def draw_mask(rng: np.random.Generator, modality: str, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    if modality == "row":
        mask[rng.choice(shape[0], 3, replace=False)] = True
    elif modality == "image":
        top, left = rng.integers(4, np.subtract(shape, 16))
        mask[top : top + rng.integers(6, 12), left : left + rng.integers(6, 12)] = True
    else:
        start = int(rng.integers(2, shape[0] - 5))
        mask[start : start + int(rng.integers(2, 4)), int(rng.integers(shape[1]))] = True
    return mask


def generated(fit: Records, support: Records, folds: dict[str, int], seed: int, round_: int) -> Records:
    """COUNT records: parent and host of one fold, changed in their mask alone."""
    rng, columns, x, masks, changed = np.random.default_rng([seed, round_]), [], [], [], []
    hosts = support if fit.modality == "row" else fit
    for i in range(COUNT):
        parent = int(rng.integers(len(support)))
        name = support.meta["id"].iloc[parent]
        near = [j for j, other in enumerate(hosts.meta["id"]) if folds[other] == folds[name]]
        host = parent if fit.modality == "row" else int(rng.choice(near))
        shape = (5,) if fit.modality == "row" else np.shape(hosts.mask[host])
        mask = draw_mask(rng, fit.modality, shape)
        x.append(edited(rng, hosts, host, mask))
        masks.append(np.ones(5, bool) if fit.modality == "row" else mask)
        changed.append(list(map(bool, mask)) if fit.modality == "row" else [])
        columns.append({"id": f"g{seed}-{round_}-{i}", "host": hosts.meta["id"].iloc[host], "parents": [name],
                        "mask_source": f"bank:{name}", "fold": folds[name], "seed": i})  # fmt: skip
    meta = make_meta(COUNT, **{k: [c[k] for c in columns] for k in columns[0]}, label=1, kind="anomaly", synthetic=True,
                     split="generated", **({"changed": changed} if fit.modality == "row" else {}))  # fmt: skip
    if fit.modality == "row":
        return Records("row", meta, pd.concat(x, ignore_index=True), np.stack(masks), fit.schema)
    time = [np.arange(len(v)) for v in x] if fit.modality == "series" else None
    return Records(fit.modality, meta, x, masks, fit.schema, time)


def write_round(home: Path, made: Records, seed: int) -> None:
    """generated, kept and verdicts of one support: the first KEPT records are kept."""
    keep = np.arange(len(made)) < KEPT
    write_store(home / "generated" / f"seed{seed}", made)
    write_store(home / "kept" / f"seed{seed}", made.take(keep))
    (home / "verdicts").mkdir(exist_ok=True)
    ledger = pd.DataFrame({"id": made.meta["id"], "keep": keep, "fold": made.meta["fold"]})
    ledger.to_parquet(home / "verdicts" / f"seed{seed}.parquet")


def build(folder: Path, modality: str) -> None:
    """Everything the stage reads of a loop without a leak, below `folder`."""
    parts = divide(RAW[modality](), prepare(seeds=SEEDS, support=5 if modality != "series" else 3))
    home = folder / "artifacts" / "d"
    for name in ("fit", "support", "calib"):
        write_store(home / "records" / name, getattr(parts, name))
    (home / "fingerprints").mkdir()
    write(home / "fingerprints", fingerprint(parts.test))
    write_store(folder / "hidden", parts.test)  # for planting only
    (home / "splits.json").write_text(json.dumps(parts.plan))
    for seed in range(SEEDS):
        chosen, folds = parts.plan["supports"][seed], parts.plan["folds"][seed]
        support = parts.support.take(parts.support.meta["id"].isin(chosen).to_numpy(bool))
        for fold in (0, 1):
            judge = home / "judges" / f"seed{seed}" / f"fold{fold}"
            judge.mkdir(parents=True)
            (judge / "seen.json").write_text(json.dumps(sorted(i for i, f in folds.items() if f != fold)))
        for r in ROUNDS:
            write_round(home / f"r{r}", generated(parts.fit, support, folds, seed, r), seed)
    values = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.4, 0.5, 0.6]}
    arms = {arm: {"ap": values} for arm in ARMS}
    (folder / "metrics").mkdir()
    write_json(folder / "metrics" / "d.json", {"arms": arms, "gain": {"arm": "mixed", "over": "classical", **values}})
    sizes = dict.fromkeys(("standard", "classical", "dropped", "filtered", "mixed"), 30)
    (home / "detectors" / "counts").mkdir(parents=True)
    write_json(home / "detectors" / "counts" / "counts.json", {f"seed{k}": {"kept": 20, **sizes} for k in range(SEEDS)})
    write_json(folder / "params.yaml", params(modality))
    shutil.copy(ROOT / "dvc.yaml", folder)


def params(modality: str) -> dict:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["datasets"] = {"d": {"modality": modality, "source": {"reader": "demo", "path": "data/demo.py"}}}
    raw["audit"][modality]["sample"] = 80
    return raw


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> dict[str, Path]:
    out = {}
    for modality in RAW:
        out[modality] = tmp_path_factory.mktemp(modality)
        build(out[modality], modality)
    return out


@pytest.fixture
def loop(clean, tmp_path, monkeypatch) -> Callable[[str], Path]:
    """A fresh copy of a clean loop, in which the stage would run."""
    monkeypatch.setattr(shortcut, "TREES", 50)
    monkeypatch.setattr(shortcut, "REDRAWS", 100)

    def copy(modality: str) -> Path:
        folder = tmp_path / modality
        shutil.copytree(clean[modality], folder)
        monkeypatch.chdir(folder)
        return folder / "artifacts" / "d"

    return copy


def run() -> tuple[str, dict]:
    """(the error's line or '', audit.json by check) of the stage in the current folder."""
    settings = load_settings()
    modality = settings.datasets["d"].modality
    message = ""
    try:
        stage.main(Run("audit", "d", modality, None, settings.section("audit", modality), settings))
    except LeakError as error:
        message = str(error)
    told = read_json(Path("artifacts/d/audit.json"))
    assert told["passed"] == (not message) == all(c["passed"] for c in told["checks"])
    for c in told["checks"]:
        assert set(c) == {"name", "passed", "figure", "limit", "pairs", "detail"}
        assert not c["passed"] or not c["pairs"] or c["name"] == "shortcut"
        assert all(len(pair) == 2 for pair in c["pairs"])
    return message, {c["name"]: c for c in told["checks"]}


def failed(found: dict) -> set[str]:
    return {name for name, c in found.items() if not c["passed"]}


def change(path: Path, edit: Callable[[Records], Records]) -> Records:
    out = edit(read_store(path))
    write_store(path, out)
    return out


def set_meta(records: Records, i: int, **columns) -> Records:
    meta = records.meta.copy()
    for name, value in columns.items():
        meta.at[i, name] = value
    return Records(records.modality, meta, records.x, records.mask, records.schema, records.time)


def with_content(records: Records, i: int, x: np.ndarray, mask: np.ndarray) -> Records:
    xs, masks = list(records.x), list(records.mask)
    xs[i], masks[i] = x, mask
    return Records(records.modality, records.meta, xs, masks, records.schema, records.time)


# clean


@pytest.mark.parametrize("modality", RAW)
def test_a_loop_without_a_leak_passes_and_says_the_same_twice(loop, modality):
    loop(modality)
    message, found = run()
    assert message == "" and len(found) == {"image": 12, "series": 12, "row": 11}[modality]
    assert found["shortcut"]["figure"] < 0.75 and found["control arms"]["figure"] == 3
    assert run() == ("", found)


@pytest.mark.parametrize("modality", RAW)
def test_a_training_set_of_real_records_alone_passes(loop, modality):
    """What the gate exports where it refuses generations and real records are the best."""
    home = loop(modality)
    write_store(home / "training", read_store(home / "records" / "fit"))
    assert run()[0] == ""


def test_the_stage_ends_with_5_and_one_line_and_leaves_its_file(loop):
    home = loop("row")
    change(home / "r1" / "generated" / "seed0", lambda r: set_meta(r, 0, parents=["nobody"]))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "pipelines.audit", "d"], env=env, capture_output=True, text=True)
    assert done.returncode == 5 and done.stderr.count("\n") == 1, done.stderr
    assert "provenance: " in done.stderr and "(g0-1-0 = nobody)" in done.stderr and "docs/audit.md" in done.stderr
    told = read_json(home / "audit.json")
    assert not told["passed"] and [c["pairs"] for c in told["checks"] if c["name"] == "provenance"] == [
        [["g0-1-0", "nobody"]]]  # fmt: skip


# planted in the split


@pytest.mark.parametrize("how", ["same", "brighter", "jpeg", "smaller"])
def test_a_test_image_among_the_normals(loop, how):
    home = loop("image")
    stolen = read_store(Path("hidden")).where(label=0).take([2])
    x, name = stolen.x[0], stolen.meta["id"][0]
    x = {"same": x, "brighter": np.clip(x.astype(int) + 18, 0, 255).astype(np.uint8),
         "jpeg": cv2.imdecode(cv2.imencode(".jpg", x, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0),
         "smaller": cv2.resize(x, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)}[how]  # fmt: skip
    planted = with_content(stolen.with_meta(id=["planted"], split="fit"), 0, x, np.zeros(x.shape, bool))
    change(home / "records" / "fit", lambda r: concat([r, planted]))
    message, found = run()
    assert ["planted", name] in found["look-alikes"]["pairs"] and f"planted = {name}" in message
    assert (["planted", name] in found["identical"]["pairs"]) == (how == "same")
    assert found["groups"]["pairs"] == [["planted", name]]


def test_windows_without_an_embargo(loop):
    home = loop("series")
    marks = read(home / "fingerprints")
    other = read_store(home / "records" / "support").meta.iloc[-1]
    i = int(marks.index[marks["group"] == other["group"]][0])
    marks.loc[i, ["start", "end"]] = [other["start"] + 15, other["start"] + 25]
    write(home / "fingerprints", marks)
    _, found = run()
    assert failed(found) == {"time blocks"} and found["time blocks"]["figure"] == 0.5
    assert [other["id"], marks["id"][i]] in found["time blocks"]["pairs"]


def test_a_row_of_the_test_among_the_normals(loop):
    home = loop("row")
    stolen = read_store(Path("hidden")).where(label=0).take([0])
    change(home / "records" / "fit", lambda r: concat([r, stolen.with_meta(id=["planted"], group=["planted"])]))
    _, found = run()
    assert failed(found) == {"identical"} and found["identical"]["pairs"] == [["planted", stolen.meta["id"][0]]]


# planted in what was generated


@pytest.mark.parametrize("column, value", [("parents", "[]"), ("host", "'{}'"), ("mask_source", "'bank:{}'")])
@pytest.mark.parametrize("part", ["test", "calib"])
def test_a_parent_host_or_mask_from_test_or_calib(loop, column, value, part):
    home = loop("row")
    store = Path("hidden") if part == "test" else home / "records" / "calib"
    name = read_store(store).meta["id"].iloc[1]
    planted = [name] if value == "[]" else value[1:-1].format(name)
    change(home / "r2" / "generated" / "seed1", lambda r: set_meta(r, 3, **{column: planted}))
    message, found = run()
    assert found["provenance"]["pairs"] == [["g1-2-3", name]] and f"g1-2-3 = {name}" in message
    assert failed(found) <= {"provenance", "cross-fit"}


@pytest.mark.parametrize("source", ["bank", "label"])
def test_an_anomaly_of_another_support_is_no_parent(loop, source):
    home = loop("row")
    supports = read_json(home / "splits.json")["supports"]
    other = next(name for name in supports[1] if name not in supports[0])
    change(home / "r1" / "generated" / "seed0", lambda r: set_meta(r, 0, parents=[other], host=other))
    change(home / "r1" / "generated" / "seed0", lambda r: set_meta(r, 1, mask_source=f"{source}:{other}"))
    found = run()[1]["provenance"]["pairs"]
    assert ["g0-1-0", other] in found and ["g0-1-1", other] in found


@pytest.mark.parametrize("hide", [False, True], ids=["as it is", "under another name"])
def test_a_synthetic_record_in_calib(loop, hide):
    home = loop("image")
    made = bare(read_store(home / "r1" / "generated" / "seed2").take([4]))
    name = "tile-99" if hide else made.meta["id"][0]
    made = made.with_meta(id=[name], label=0, kind="normal", synthetic=not hide, group=[name])
    change(home / "records" / "calib", lambda r: concat([r, made]))
    _, found = run()
    assert found["synthetic"]["pairs"] == [["calib", name]]
    assert failed(found) == ({"synthetic"} if hide else {"synthetic", "provenance"})


def test_an_exported_training_set_with_a_test_record_or_a_stranger_as_parent(loop):
    home = loop("row")
    fit, test = read_store(home / "records" / "fit"), read_store(Path("hidden"))
    made = set_meta(bare(read_store(home / "r1" / "kept" / "seed0")), 0, parents=["x9"])
    write_store(home / "training", concat([bare(fit), bare(test.take([0])), made]))
    pairs = run()[1]["provenance"]["pairs"]
    assert sorted(pairs) == sorted([["training", test.meta["id"][0]], ["g0-1-0", "x9"]])


# planted in the judges


def test_a_judge_that_saw_the_parent(loop):
    home = loop("row")
    made = read_store(home / "r1" / "generated" / "seed0").meta.iloc[0]
    path = home / "judges" / "seed0" / f"fold{made['fold']}" / "seen.json"
    write_json(path, [*read_json(path), made["parents"][0]])
    message, found = run()
    pair = [f"judges/seed0/fold{made['fold']}", made["parents"][0]]
    assert failed(found) == {"cross-fit"} and found["cross-fit"]["pairs"] == [pair] and " = ".join(pair) in message


@pytest.mark.parametrize("what", ["sibling", "calib", "test", "another support"])
def test_a_judge_that_saw_what_is_not_its_business(loop, what):
    home = loop("row")
    supports = read_json(home / "splits.json")["supports"]
    name = {"sibling": "g0-1-3", "calib": read_store(home / "records" / "calib").meta["id"].iloc[0],
            "test": read_store(Path("hidden")).meta["id"].iloc[0],
            "another support": next(n for n in supports[1] if n not in supports[0])}[what]  # fmt: skip
    path = home / "judges" / "seed0" / "fold1" / "seen.json"
    write_json(path, [*read_json(path), name])
    _, found = run()
    assert failed(found) == {"cross-fit"} and found["cross-fit"]["pairs"] == [["judges/seed0/fold1", name]]


def test_judges_that_do_not_say_what_they_saw_fail(loop):
    home = loop("row")
    (home / "judges" / "seed1" / "fold0" / "seen.json").unlink()
    assert run()[1]["cross-fit"]["pairs"] == [["judges/seed1/fold0", "seen.json, missing"]]


def test_a_record_in_a_wrong_fold_and_a_ledger_that_does_not_tell_all(loop):
    home = loop("row")
    made = read_store(home / "r1" / "generated" / "seed0")
    change(home / "r1" / "generated" / "seed0", lambda r: set_meta(r, 0, fold=1 - int(made.meta["fold"][0])))
    path = home / "r2" / "verdicts" / "seed1.parquet"
    ledger = pd.read_parquet(path)
    ledger.loc[1, "keep"] = False
    ledger.iloc[:-1].to_parquet(path)
    pairs = run()[1]["cross-fit"]["pairs"]
    assert sorted(pairs) == sorted([
        ["g0-1-0", made.meta["parents"][0][0]], ["g0-1-0", "another fold in the ledger"],
        [f"g1-2-{COUNT - 1}", "not in the ledger"], ["g1-2-1", "kept against the ledger"],
    ])  # fmt: skip


# planted in contents


def checker(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A checkerboard of two grey levels in a ring of five pixels round the mask: nothing that an eye sees."""
    ring = binary_dilation(mask, np.ones((3, 3)), iterations=6) & ~binary_dilation(mask)
    board = np.where(np.indices(mask.shape).sum(0) % 2, 2, -2)
    return np.where(ring, np.clip(x.astype(int) + board, 0, 255), x).astype(np.uint8)


def test_a_seam_that_every_generated_image_has(loop):
    home = loop("image")
    everywhere(home, lambda s: Records(
        "image", s.meta, [checker(x, m) for x, m in zip(s.x, s.mask)], s.mask, s.schema))  # fmt: skip
    message, found = run()
    assert failed(found) == {"shortcut", "outside the mask"}
    assert found["shortcut"]["figure"] > 0.9 and len(found["shortcut"]["pairs"]) == checks.TELLING
    made = {n: h for s in range(SEEDS) for r in ROUNDS for n, h in
            read_store(home / f"r{r}" / "generated" / f"seed{s}").meta[["id", "host"]].to_numpy()}  # fmt: skip
    assert all(made[name] == host for name, host in found["shortcut"]["pairs"]) and "AUROC" in message


def everywhere(home: Path, edit: Callable[[Records], Records]) -> None:
    """The edit on all that was generated."""
    for r in ROUNDS:
        for seed in range(SEEDS):
            change(home / f"r{r}" / "generated" / f"seed{seed}", edit)


def test_a_step_at_the_flanks_of_every_generated_window(loop):
    def stepped(s: Records) -> Records:
        flank = [binary_dilation(m, np.ones((3, 1)), iterations=2) & ~m for m in s.mask]
        return Records("series", s.meta, [v + 4 * f for v, f in zip(s.x, flank)], s.mask, s.schema, s.time)

    everywhere(loop("series"), stepped)
    _, found = run()
    assert failed(found) == {"shortcut", "outside the mask"} and found["shortcut"]["figure"] > 0.75


def test_cells_that_always_get_the_same_value(loop):
    def marked(s: Records) -> Records:
        x = s.x.mask(pd.DataFrame(np.stack([np.asarray(c, bool) for c in s.meta["changed"]]), columns=s.x.columns), 2.5)
        return Records("row", s.meta, x, s.mask, s.schema)

    everywhere(loop("row"), marked)
    _, found = run()
    assert failed(found) == {"repeats"} and found["repeats"]["pairs"] and found["repeats"]["figure"] == 1


def test_values_that_generated_rows_alone_have(loop):
    def shifted(s: Records) -> Records:
        cells = pd.DataFrame(np.stack([np.asarray(c, bool) for c in s.meta["changed"]]), columns=s.x.columns)
        return Records("row", s.meta, s.x + 6 * cells, s.mask, s.schema)

    everywhere(loop("row"), shifted)
    _, found = run()
    assert failed(found) == {"shortcut"} and found["shortcut"]["pairs"] and found["shortcut"]["figure"] > 0.98


@pytest.mark.parametrize("modality, whole", [("image", True), ("image", False), ("series", True), ("row", True)])
def test_a_memorised_copy(loop, modality, whole):
    home = loop(modality)
    support = read_store(home / "records" / "support")
    name = read_json(home / "splits.json")["supports"][2][1]
    i = list(support.meta["id"]).index(name)
    path = home / "r2" / "kept" / "seed2"
    if whole and modality != "row":
        change(path, lambda r: with_content(r, 5, support.x[i], support.mask[i]))
    elif modality == "image":  # the anomaly alone, on another host, at another place and mirrored
        def moved(r: Records) -> Records:
            x, mask = r.x[5].copy(), np.zeros_like(r.mask[5])
            x[30:40, 20:30], mask[30:40, 20:30] = support.x[i][10:20, 10:20][:, ::-1], True
            return with_content(r, 5, x, mask)

        change(path, moved)
    else:
        def paste(r: Records) -> Records:
            x = r.x.copy()
            x.iloc[5] = support.x.iloc[i]
            return Records("row", r.meta, x, r.mask, r.schema)

        change(path, paste)
    message, found = run()
    assert failed(found) == {"memorisation"} and found["memorisation"]["pairs"] == [["g2-2-5", name]]
    assert f"g2-2-5 = {name}" in message


def test_too_many_near_copies(loop):
    home = loop("row")
    support = read_store(home / "records" / "support")

    def near(r: Records) -> Records:
        x = support.x.set_index(support.meta["id"]).loc[[p[0] for p in r.meta["parents"]]].reset_index(drop=True)
        return Records("row", r.meta, x + 0.002, r.mask, r.schema)

    change(home / "r1" / "kept" / "seed0", near)
    found = run()[1]["memorisation"]
    assert not found["passed"] and found["limit"] == 0.05
    assert found["figure"] == pytest.approx(KEPT / (KEPT * SEEDS * len(ROUNDS)))
    assert sorted(pair[0] for pair in found["pairs"]) == sorted(f"g0-1-{i}" for i in range(KEPT))


@pytest.mark.parametrize("modality", ["image", "series", "row"])
def test_a_change_outside_the_mask_of_the_least_bit(loop, modality):
    home = loop(modality)
    raw = yaml.safe_load(Path("params.yaml").read_text())
    raw["audit"][modality]["sample"] = 10_000  # look at every record
    write_json(Path("params.yaml"), raw)

    def touch(r: Records) -> Records:
        if modality == "row":
            x, cell = r.x.copy(), list(r.meta["changed"][7]).index(False)
            x.iloc[7, cell] = np.nextafter(x.iloc[7, cell], np.inf)
            return Records("row", r.meta, x, r.mask, r.schema)
        x, place = r.x[7].copy(), tuple(np.argwhere(~r.mask[7])[11])
        x[place] = x[place] ^ 1 if modality == "image" else np.nextafter(x[place], np.inf)
        return with_content(r, 7, x, r.mask[7])

    made = change(home / "r1" / "generated" / "seed1", touch)
    _, found = run()
    assert failed(found) == {"outside the mask"}
    assert found["outside the mask"]["pairs"] == [["g1-1-7", made.meta["host"][7]]]


# planted elsewhere


def test_arms_of_unequal_size_and_a_gain_without_interval(loop):
    home = loop("row")
    counts = home / "detectors" / "counts" / "counts.json"
    told = read_json(counts)
    told["seed1"]["dropped"] = 29
    write_json(counts, told)
    assert ["seed1/dropped", "29 anomalies"] in run()[1]["control arms"]["pairs"]
    told["seed1"]["kept"] = 0  # without generations there is nothing to be equal to
    write_json(counts, told)
    assert run()[0] == ""
    metrics = read_json(Path("metrics/d.json"))
    metrics["gain"]["low"] = None
    write_json(Path("metrics/d.json"), metrics)
    assert run()[1]["control arms"]["pairs"] == [["mixed", "no paired interval over classical"]]


def test_two_supports_are_told_and_pass_and_so_does_a_loop_not_evaluated_yet(loop):
    loop("row")
    metrics = read_json(Path("metrics/d.json"))
    for cells in metrics["arms"].values():
        cells["ap"]["values"] = [0.4, 0.5]
    write_json(Path("metrics/d.json"), metrics)
    found = run()[1]["control arms"]
    assert found["passed"] and found["figure"] == 2 and "2 supports, 3 or more" in found["detail"]
    Path("metrics/d.json").unlink()
    assert "not evaluated" in run()[1]["control arms"]["detail"]


def test_a_path_from_the_test_to_the_filter(loop):
    loop("row")
    graph = yaml.safe_load(Path("dvc.yaml").read_text())
    graph["stages"]["filter-r1"]["do"]["deps"].append("artifacts/${key}/test")
    Path("dvc.yaml").write_text(yaml.safe_dump(graph))
    message, found = run()
    assert failed(found) == {"graph"}
    assert ["artifacts/d/test (of prepare@d)", "filter-r1@d"] in found["graph"]["pairs"] and "filter-r1@d" in message


# the shortcut's own oracle


def test_the_area_is_that_of_sklearn_and_its_interval_holds_it():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], 60)
    score = label * 0.8 + rng.normal(0, 1, 120)
    value, low, high = shortcut.area(label, score, np.tile(np.arange(60), 2))
    assert value == pytest.approx(roc_auc_score(label, score)) and low < value < high
    alone = [np.sign(score[i] - score[j]) for i in range(60) for j in range(60, 120)]
    assert value == pytest.approx((np.mean(alone) + 1) / 2)


def test_a_real_record_borrows_a_mask_of_its_own_part_and_not_that_of_its_child():
    part, real = np.repeat(np.arange(4), 10), images(40, 0)
    masks = [np.eye(60, 48, k=i, dtype=bool) for i in range(40)]
    at = {mask.tobytes(): i for i, mask in enumerate(masks)}
    lenders = np.array([at[mask.tobytes()] for mask in shortcut.borrow(masks, part, real, part)])
    assert (part[lenders] == part).all() and (lenders != np.arange(40)).all()


def test_a_mask_keeps_its_place_at_another_size():
    mask = np.zeros((20, 30), bool)
    mask[5:10, 15:30] = True
    assert shortcut.fitted(mask, (20, 30)) is mask
    double = shortcut.fitted(mask, (40, 60))
    assert double[12, 45] and not double[25, 45] and double.mean() == pytest.approx(mask.mean(), rel=0.2)
    tiny = np.zeros((100, 100), bool)
    tiny[1, 1] = True
    assert shortcut.fitted(tiny, (5, 5)).any()


def rows_of(values: list, changed: bool = True) -> Records:
    """Rows of one numeric column."""
    count = len(values)
    meta = make_meta(count, id=[f"m{i}" for i in range(count)], host=["h"] * count, changed=[[changed]] * count)
    schema = {"columns": [{"name": "a", "type": "numeric", "nullable": True}]}
    return Records("row", meta, pd.DataFrame({"a": values}, dtype=float), np.ones((count, 1), bool), schema)


def test_a_repeated_value_is_held_against_both_real_anomalies_and_normals():
    own = list(range(1, 101))
    made, few, many = (rows_of([0.0] * n + own[n:]) for n in (80, 20, 60))
    found = checks.repeats(made, few, rows_of(own))
    assert found["figure"] == pytest.approx(0.6) and not found["passed"] and len(found["pairs"]) == checks.TELLING
    assert "column 'a': 80%" in found["detail"]
    assert checks.repeats(made, few, many)["figure"] == pytest.approx(0.2) == checks.repeats(made, many, few)["figure"]
    assert checks.repeats(made, few, many)["passed"]
    found = checks.repeats(rows_of([np.nan] * 80 + own[80:]), few, many)
    assert found["figure"] == pytest.approx(0.8) and not found["passed"]
    untouched = rows_of([0.0] * 80 + own[80:], changed=False)
    assert checks.repeats(untouched, few, few)["figure"] == 0


def test_rows_of_one_host_leave_a_detector_nothing_to_learn_from(loop):
    home = loop("row")
    made = concat([bare(read_store(home / f"r{r}" / "generated" / "seed0")) for r in ROUNDS])
    fit, pool = (read_store(home / "records" / part) for part in ("fit", "support"))
    host = [pool.meta["id"].iloc[0]] * len(made)
    found = shortcut.shortcut_of_rows(made, host, pool, list(pool.meta["id"]), fit)
    assert np.isnan(found["auroc"]) and len(found["scores"]) == len(made)
    several = shortcut.shortcut_of_rows(made, list(np.resize(pool.meta["id"][:9], len(made))), pool,
                                        list(pool.meta["id"]), fit)  # fmt: skip
    assert 0 <= several["low"] <= several["auroc"] <= several["high"] <= 1
