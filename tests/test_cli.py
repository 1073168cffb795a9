"""The `oddsmith` command: every data set is checked whatever the others do, and results say plainly what came of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from data.errors import InputError, SettingsError
from data.records import Records, make_meta
from pipelines import cli, prepare
from pipelines.evaluate import REFERENCE
from pipelines.settings import load_settings

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv: str):
    return CliRunner().invoke(cli.app, list(argv), catch_exceptions=True)


def test_check_goes_on_after_a_failure_and_ends_with_its_code(place, monkeypatch):
    def inspect(name, dataset, settings):
        if name == "co2":
            raise InputError("co2.csv: row 7: value must be finite, got inf; mend it")
        return [f"{dataset.modality} is fine", "detail"]

    monkeypatch.setattr(cli, "inspect", inspect)
    found = run("check")
    assert found.exit_code == 3
    assert found.stdout.splitlines() == ["textures: image is fine", "  detail", "cells: row is fine", "  detail"]
    assert found.stderr == "co2: co2.csv: row 7: value must be finite, got inf; mend it\n"


def test_check_refuses_a_device_that_is_not_there_and_a_licence_of_no_data_set(place, monkeypatch):
    raw = (place / "params.yaml").read_text()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(cli, "inspect", lambda *_: ["fine"])
    for before, after, told in (
        ("device: auto", "device: cuda",
         "device: must be auto or cpu where torch sees no GPU, got cuda; set device: auto"),
        ("cells: cc-by", "cels: cc-by",
         "params.yaml: publish.licence: must name data sets, got 'cels'; did you mean 'cells'?"),
    ):  # fmt: skip
        (place / "params.yaml").write_text(raw.replace(before, after))
        error = run("check").exception
        assert isinstance(error, SettingsError) and str(error) == told
    (place / "params.yaml").write_text(raw.replace("cells: cc-by", "elsewhere: cc-by"))  # of a data set taken out
    assert run("check").exit_code == 0


def test_check_reads_the_real_thing_and_tells_splits_time_and_disk(place):
    raw = (place / "params.yaml").read_text()
    start, end = raw.index("  textures:"), raw.index("  cells:")
    (place / "params.yaml").write_text(raw[:start] + raw[end:])
    found = run("check")
    lines = found.stdout.splitlines()
    assert found.exit_code == 0, found.stderr
    assert lines[0].startswith("cells: row") and any(line.startswith("  test: ") for line in lines)
    assert lines[-1].startswith("  expect about ") and " min on 2 CPU cores and " in lines[-1]
    assert not (place / "artifacts").exists()


def test_photos_of_many_pixels_take_longer_than_crops_of_them():
    """Nine detectors look at every pixel of every image, for each of three supports."""
    settings = load_settings(ROOT / "params.yaml")

    def seconds(side: int, *more: int) -> float:
        x, mask = [np.zeros((side, side, *more), np.uint8)] * 10, [np.zeros((side, side), bool)] * 10
        part = Records("image", make_meta(10), x, mask, {})
        return cli.estimate(settings, "image", SimpleNamespace(fit=part, support=part, calib=part, test=part))[0]

    assert seconds(2000) - seconds(1000) == pytest.approx(30 * 3e6 * 3 * 9 * cli.SECONDS["image"]["detect"])
    assert seconds(1000, 3) == seconds(1000)


def test_large_tables_take_longer_by_what_the_likelihood_ratio_scores(place):
    settings = load_settings(place / "params.yaml")

    def seconds(n: int, settings=settings, calib: int = 10) -> float:
        part = Records("row", make_meta(10), pd.DataFrame({"a": np.zeros(10)}), np.zeros((10, 1), bool), {})
        rows, spare = part.take(np.zeros(n, int)), part.take(np.zeros(calib, int))
        return cli.estimate(settings, "row", SimpleNamespace(fit=part, support=part, calib=spare, test=rows))[0]

    assert seconds(24000) - seconds(4000) == pytest.approx(20000 * 3 * cli.SECONDS["row"]["ratio"])
    most = REFERENCE["row"]  # of calib, however large it is
    assert seconds(10, calib=9 * most) == seconds(10, calib=most) > seconds(10, calib=most - 1000)
    row = settings.evaluate.row.model_copy(update={"likelihood": False})
    without = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"row": row})})
    assert seconds(24000, without) == seconds(4000, without)


def test_a_missing_source_names_the_setting_to_mend(place):
    (place / "data" / "demo.py").unlink()
    found = run("check")
    assert found.exit_code == 3 and len(found.stderr.splitlines()) == 3
    assert "cells: data/demo.py: must exist; mend datasets.cells.source.path in params.yaml" in found.stderr


def metrics(low: float, high: float) -> dict:
    arm = {"ap": {"mean": 0.8123, "low": 0.79, "high": 0.834, "values": [0.8, 0.82]}}
    return {"modality": "row", "arms": {"real": arm, "mixed": {"ap": {"mean": 0.9, "low": None, "high": None}}},
            "gain": {"metric": "ap", "arm": "mixed", "over": "classical", "mean": (low + high) / 2,
                     "low": low, "high": high},
            "counts": {"generated": 20, "kept": 15, "reasons": {"kept": 15, "seam": 2, "copy": 3}},
            "detectors": {"knn": arm}}  # fmt: skip


@pytest.mark.parametrize("low, high, word", [
    (0.01, 0.03, "+0.020 [+0.010, +0.030]: gain"), (-0.03, -0.01, "-0.020 [-0.030, -0.010]: loss"),
    (-0.01, 0.03, "+0.010 [-0.010, +0.030]: no gain shown"), (0.0, 0.02, "+0.010 [+0.000, +0.020]: no gain shown"),
])  # fmt: skip
def test_results_show_arms_intervals_and_whether_it_helped(place, low, high, word):
    (place / "metrics").mkdir()
    (place / "metrics" / "cells.json").write_text(json.dumps(metrics(low, high)))
    (place / "reports").mkdir()
    (place / "reports" / "index.html").touch()
    found = run("results")
    assert found.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in found.stdout.splitlines() if line.split()}
    assert rows["real"] == rows["knn"] == ["0.812", "[0.790,", "0.834]"]
    assert f"mixed over classical, ap: {word}\n" in found.stdout
    assert "15 of 20 generated records kept; rejected: 2 seam, 3 copy" in found.stdout
    assert "Report: reports/index.html" in found.stdout
    assert found.stderr.splitlines() == [f"metrics/{n}.json: not there yet; run dvc repro" for n in ("textures", "co2")]


def test_results_without_any_are_exit_3_and_torn_ones_are_named(place):
    assert run("results").exit_code == 3
    (place / "metrics").mkdir()
    (place / "metrics" / "cells.json").write_text("{")
    assert isinstance(run("results").exception, InputError)


def test_an_error_of_the_user_is_one_line_and_its_code(place, monkeypatch, capsys):
    (place / "params.yaml").write_text("a: [1\n")
    monkeypatch.setattr("sys.argv", ["oddsmith", "check"])
    with pytest.raises(SystemExit) as ended:
        cli.run()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1 and told.startswith("oddsmith: params.yaml: line 2")
    monkeypatch.setattr("sys.argv", ["oddsmith", "check", "--debug"])
    monkeypatch.setenv("ODDSMITH_DEBUG", "")
    with pytest.raises(SettingsError):
        cli.run()


def test_prepare_writes_the_stores_the_plan_and_the_summary_and_the_same_twice(place):
    from data.records import read_store
    from pipelines.stage import parse
    from pipelines.work import manifest

    told = prepare.main(parse("prepare", ["cells"]))
    first = manifest(place / "artifacts")
    prepare.main(parse("prepare", ["cells"]))
    assert manifest(place / "artifacts") == first
    home = place / "artifacts" / "cells"
    stores = {"fit": "records/fit", "support": "records/support", "calib": "records/calib", "test": "test"}
    ids = {name: set(read_store(home / path).meta["id"]) for name, path in stores.items()}
    assert {name: len(own) for name, own in ids.items()} | {"quarantined": 0} == told
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
    plan, settings = json.loads((home / "splits.json").read_text()), load_settings().prepare
    assert [len(s) for s in plan["supports"]] == [settings.support] * settings.seeds
    assert all(set(s) <= ids["support"] for s in plan["supports"])
    summary = json.loads((home / "summary.json").read_text())
    assert summary["counts"]["test"]["records"] == told["test"] and summary["quarantine"] == []


def test_too_few_anomalies_for_want_of_masks_is_told_as_that(place):
    import cv2
    import numpy as np

    for kind, count in (("good", 20), ("scratch", 12)):
        folder = place / "tiles" / ("train" if kind == "good" else "test") / kind
        folder.mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f"{i:03}.png"), np.full((32, 32), 10 * i + len(kind), np.uint8))
    masks = place / "tiles" / "ground_truth" / "scratch"
    masks.mkdir(parents=True)
    cv2.imwrite(str(masks / "000-gt.png"), np.eye(32, dtype=np.uint8) * 255)  # not 000_mask.png
    raw = (place / "params.yaml").read_text()
    start, end = raw.index("  textures:"), raw.index("\ndevice:")
    entry = "  tiles: {modality: image, source: {reader: mvtec, path: tiles}}\n"
    (place / "params.yaml").write_text(raw[:start] + entry + raw[end:])
    found = run("check")
    assert found.exit_code == 3
    assert "got 0; label more" in found.stderr
    assert "13 items were left out or changed: 12 x a defect image must have a mask (" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_a_disk_too_small_for_a_run_is_told(place, monkeypatch):
    raw = (place / "params.yaml").read_text()
    start, end = raw.index("  textures:"), raw.index("  cells:")
    (place / "params.yaml").write_text(raw[:start] + raw[end:])
    assert "look at: the disk" not in run("check").stdout
    monkeypatch.setattr(cli.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    assert "  look at: the disk has 5.0 MB free, less than a run needs" in run("check").stdout.splitlines()
