"""Cells: changed settings are checked, what another cell has run is fetched, failures and kills cost one cell."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakeloop
import psutil
import pytest

from data.errors import ResourceError, SettingsError
from pipelines.cell import Cell, run_cells
from pipelines.overrides import applies, dump, put, settings_for
from pipelines.repro import Clock, reason, surroundings, unlock
from pipelines.workcopy import cache_of, lay_out, link, stamp_of, stamp_of_code

ROOT = fakeloop.ROOT
PARAMS = ROOT / "params.yaml"


# settings


def test_a_changed_setting_is_in_place_and_nothing_else_moved():
    before = settings_for(PARAMS, "cells", {})
    after = settings_for(PARAMS, "cells", {"adapt.*.rank": 3, "generate.r2.row": {"count": 7}})
    assert list(after["datasets"]) == ["cells"]
    assert after["adapt"]["row"].pop("rank") == 3 and before["adapt"]["row"].pop("rank") == 8
    assert after["generate"]["r2"].pop("row") == {"count": 7} and before["generate"]["r2"].pop("row") == {}
    assert after == before


@pytest.mark.parametrize("path, value, expected", [
    ("adapt.row.rnak", 3, "here: adapt.row.rnak: unknown key; did you mean 'rank'?"),
    ("adpt.row.rank", 3, "here: adpt: unknown key; did you mean 'adapt'?"),
    ("adapt.*.rank", 0, "here: adapt.row.rank: must be >= 1, got 0"),
    ("adapt.row.rank.deep", 3, "here: adapt.row.rank.deep: adapt.row.rank must hold keys and values, got 8"),
    ("generate.r2.row", {"cuont": 7}, "here: generate.r2.row.cuont: unknown key; did you mean 'count'?"),
])  # fmt: skip
def test_a_setting_that_may_not_be_is_told_with_its_path_and_the_mend(path, value, expected):
    with pytest.raises(SettingsError) as error:
        settings_for(PARAMS, "cells", {path: value}, where="here: ")
    assert str(error.value) == expected and error.value.exit_code == 2


def test_a_data_set_that_is_not_there_is_told_with_the_closest():
    with pytest.raises(SettingsError, match="got 'cell'; did you mean 'cells'"):
        settings_for(PARAMS, "cell", {})


def test_a_data_set_may_come_with_the_changes():
    claims = {"modality": "row", "source": {"reader": "demo", "path": "x"}}
    settings = settings_for(PARAMS, "claims", {"datasets": {"claims": claims}, "adapt.*.rank": 3})
    assert settings["datasets"] == {"claims": claims} and settings["adapt"]["row"]["rank"] == 3


def test_settings_survive_being_written_whatever_their_text_looks_like(tmp_path):
    from pipelines.explain import read_yaml

    settings = {"a": ["1e-4", "no", "2020-01-01", "x: y", "ü\n"], "b": [1e-05, 1e22, 3, True, None, -0.5]}
    (tmp_path / "p.yaml").write_text(dump(settings))
    assert read_yaml(tmp_path / "p.yaml") == settings


@pytest.mark.parametrize("path, found", [
    ("adapt.row.rank", True), ("adapt.image.rank", False), ("adapt.*.rank", True), ("filter.r1.series.low", False),
    ("prepare.support", True), ("datasets.image.source.path", True),
])  # fmt: skip
def test_a_path_is_for_data_sets_of_the_modality_it_names(path, found):
    assert applies(path, "row") is found


def test_sections_that_are_not_there_are_made():
    settings = {"fit": None}
    put(settings, "fit.row.steps", 3)
    assert settings == {"fit": {"row": {"steps": 3}}}


# the folder


def test_a_tree_has_the_code_and_its_paths_lead_where_those_of_the_root_do(tmp_path, monkeypatch):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "data" / "raw" / "own").mkdir(parents=True)
    (root / "data" / "raw" / "own" / "x").write_text("1")
    (root / "pipelines" / "__pycache__").mkdir()
    settings = {"a": {"path": "../shared/cells"}, "b": ["data/raw/own", "no/such", "/", "x" * 2000]}
    tree = lay_out(root, root / ".work" / "cells" / "c" / "tree", settings)
    assert (tree / "../shared/cells/a.csv").read_text() == "12345" and (tree / "data/raw/own/x").read_text() == "1"
    assert not (tree / "pipelines" / "__pycache__").exists() and (tree / "dvc.yaml").exists()
    (tree / ".cache" / "kept").write_text("1")
    (root / "pipelines" / "fake.py").unlink()
    (tree / "artifacts").mkdir()
    lay_out(root, tree, settings)  # again, over itself
    assert not (tree / "pipelines" / "fake.py").exists() and (tree / "artifacts").exists()
    assert (root / ".cache" / "kept").exists() and (root / "data" / "raw" / "own" / "x").exists()
    with pytest.raises(SettingsError, match="at most one folder above"):
        link("../../elsewhere", root, tree)


def test_data_and_weights_at_the_root_are_linked_and_stamped(tmp_path, monkeypatch):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    (root / "fault").write_text("no path, but the name of a column")
    settings = {"datasets": {"pumps": {"source": {"reader": "csv", "path": "pumps.csv", "label": "fault"}}},
                "fit": {"image": {"pretrained": "model", "latent": {"source": "autoencoder"}}}}  # fmt: skip
    stamps = []
    for name in ("pumps.csv", "model", "autoencoder"):
        (root / name).write_text("1")
        stamps.append(stamp_of(root, settings))
    (root / "pumps.csv").write_text("12")
    assert len({*stamps, stamp_of(root, settings)}) == 4
    tree = lay_out(root, root / ".work" / "cells" / "c" / "tree", settings)
    assert [(tree / name).read_text() for name in ("pumps.csv", "model", "autoencoder")] == ["12", "1", "1"]
    assert not (tree / "fault").exists()


@pytest.mark.parametrize("files, expected", [
    ({}, ".dvc/cache"), ({"config": "[cache]\n    dir = ../store\n"}, "store"),
    ({"config": "[cache]\n    dir = a\n['remote \"x\"']\n    url = y%s\n", "config.local": "[cache]\ndir = /far\n"},
     "/far"),
])  # fmt: skip
def test_the_cache_is_the_one_the_repository_uses(tmp_path, files, expected):
    (tmp_path / ".dvc").mkdir()
    for name, text in files.items():
        (tmp_path / ".dvc" / name).write_text(text)
    assert cache_of(tmp_path) == tmp_path / expected


def test_a_stamp_changes_with_settings_code_and_data(tmp_path, monkeypatch):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    settings = {"path": "../shared/cells"}
    stamps = [stamp_of(root, settings), stamp_of(root, settings), stamp_of(root, {**settings, "a": 1})]
    (tmp_path / "shared" / "cells" / "a.csv").write_text("123456")
    stamps.append(stamp_of(root, settings))
    (root / "pipelines" / "more.py").write_text("")
    stamps.append(stamp_of(root, settings))
    assert stamps[0] == stamps[1] and len(set(stamps)) == 4
    assert stamp_of(root, settings, stamp_of_code(root)) == stamps[-1]


# what dvc says


def test_seconds_of_a_stage_that_was_killed_go_on_counting(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def hear(clock, *said):
        for seconds, line in said:
            now[0] += seconds
            clock.hear(line)

    first = Clock(tmp_path / "times")
    hear(first, (0, "Running stage 'a@x':"), (1, "> python"), (2, "Updating lock file 'dvc.lock'"), (9, "words"),
         (0, "Running stage 'b@x':"), (4, "more"))  # fmt: skip
    first.stop(done=False)
    second = Clock(tmp_path / "times")
    hear(second, (0, "Stage 'a@x' didn't change, skipping"), (0, "Running stage 'b@x':"), (5, "Updating lock file"),
         (7, "Stage 'c@x' is cached - skipping run, checking out outputs"))  # fmt: skip
    assert second.seconds() == {"a@x": 3, "b@x": 9} and second.fetched == ["c@x"]
    hear(second, (0, "Running stage 'a@x':"), (2, "Updating lock file"))  # done before: counted anew
    assert second.seconds()["a@x"] == 2


def test_the_reason_is_the_stages_own_last_line_or_dvcs():
    said = "Running stage 'a':\n> python a\nfine\nUpdating lock file\n\nRunning stage 'b':\n> python b\nb: must be x\n"
    failed = "ERROR: failed to reproduce 'b': failed to run: python b, exited with 2\n"
    assert reason(said + failed) == "b: must be x"
    assert reason("Running stage 'b':\n> python b\n" + failed) == failed.strip()
    assert reason("words\nERROR: 'x' does not exist\n") == "ERROR: 'x' does not exist"


def test_the_dvc_of_a_cell_knows_nothing_of_one_around_it(monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    env = surroundings(2)
    assert "DVC_ROOT" not in env and env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "2"
    assert env["PATH"].startswith(str(Path(sys.executable).parent)) and surroundings(0)["OMP_NUM_THREADS"] == "7"


def test_what_a_dead_dvc_left_locked_is_freed_and_a_living_one_is_waited_for(tmp_path, monkeypatch):
    lock = tmp_path / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True)
    monkeypatch.setattr("pipelines.repro.PATIENCE", 0.3)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen([*sleep, "dvc"]) as dvc, subprocess.Popen(sleep) as other:
        lock.write_text(json.dumps({"/x": {"write": {"pid": other.pid, "cmd": "dvc repro"}}}))
        unlock(tmp_path)  # a number that another process has by now
        assert not lock.exists()
        text = json.dumps({"/x": {"read": [{"pid": dvc.pid, "cmd": "dvc repro"}]}})
        lock.write_text(text)
        with pytest.raises(ResourceError, match=f"process {dvc.pid} still works there"):
            unlock(tmp_path)
        assert lock.read_text() == text
        dvc.kill()  # and is waited for by nobody yet
        unlock(tmp_path)
        assert not lock.exists()
        other.kill()
    unlock(tmp_path)


# runs


def test_cells_share_what_they_have_in_common_and_a_failed_one_stops_no_other(tmp_path, monkeypatch):
    root = fakeloop.make_root(tmp_path, monkeypatch)
    cells = [Cell("base", "cells", "params.yaml"), Cell("bad", "cells", "params.yaml", {"filter.*.min_overlap": 0.99}),
             Cell("typo", "cells", "params.yaml", {"filter.*.min_ovrlap": 0.1}),
             Cell("copy", "cells", "params.yaml", {"filter.*.copy": 0.3})]  # fmt: skip
    said = []
    results = run_cells(cells, root=root, report=lambda r: said.append(r["cell"]))
    assert [r["cell"] for r in results] == [c.name for c in cells] and sorted(said) == ["bad", "base", "copy", "typo"]
    assert [r["status"] for r in results] == ["done", "FAILED", "FAILED", "done"]
    assert results[1]["error"] == "evaluate: min_overlap must be lower, got 0.99; lower it"
    assert results[1]["metrics"] is None and "did you mean 'min_overlap'" in results[2]["error"]
    base, copy = results[0], results[3]
    assert base["metrics"]["arms"]["real"]["ap"]["values"] == [0.5, 0.6] and base["gate"]["accepted"]
    assert base["fidelity"]["all"]["fid"] == 2 and base["set"] == {}
    assert set(base["stages"]) == {"fit@cells", "evaluate@cells", "fidelity@cells"} and base["seconds"] > 0
    ran = fakeloop.runs(tmp_path)
    assert sorted(ran) == ["evaluate cells 8"] * 3 + ["fidelity cells 8", "fit cells 8"]
    assert set(copy["fetched"]) == {"fit@cells", "fidelity@cells"} and set(copy["stages"]) == {"evaluate@cells"}
    again = run_cells([cells[0], cells[3]], root=root, report=lambda r: None)
    assert again == [base, copy] and fakeloop.runs(tmp_path) == []
    worse = Cell("base", "cells", "params.yaml", {"filter.*.min_overlap": 0.99})
    failed = run_cells([worse], root=root, report=lambda r: None)[0]
    assert failed["status"] == "FAILED" and failed["fidelity"] is None  # not what the tree still holds of before


@pytest.mark.parametrize("shell", ["/bin/bash", None])  # one gives way to dvc's command, /bin/sh may stay beside it
def test_a_killed_run_leaves_nothing_running_and_goes_on(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", shell) if shell else monkeypatch.delenv("SHELL", raising=False)
    root = fakeloop.make_root(tmp_path, monkeypatch)
    home = root / ".work" / "cells" / "slow"
    home.mkdir(parents=True)
    cell = Cell("slow", "cells", "params.yaml", {"filter.*.seam": 3.0})
    (home / "cell.json").write_text(json.dumps({**cell.__dict__}))
    command = [sys.executable, "-m", "pipelines.cell", str(home / "cell.json"), "1"]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: "evaluate" in (tmp_path / "runs").read_text() if (tmp_path / "runs").exists() else False)
    started = children(process.pid)
    assert started
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait(lambda: not any(lives(pid) for pid in started))
    assert not (home / "result.json").exists()
    fakeloop.runs(tmp_path)
    (tmp_path / "runs.go").touch()
    result = run_cells([cell], root=root, report=lambda r: None)[0]
    assert result["status"] == "done" and fakeloop.runs(tmp_path)[0] == "evaluate cells 8"  # fit was not lost
    assert set(result["stages"]) == {"fit@cells", "evaluate@cells", "fidelity@cells"}


def wait(found, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [p.pid for p in psutil.Process(pid).children(recursive=True)]


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie that nobody reaps."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
