"""Stages under faults: killed, interrupted, out of disk or memory, torn work, two at once; what is told."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import atomic
from data.atomic import atomic_dir, atomic_file
from data.errors import InputError, LeakError, RemoteError, ResourceError, SettingsError
from data.files import read_json, read_table
from pipelines import stage as stages
from pipelines.stage import Progress, diagnose, duration, environment, execute, hub_ids, progress
from pipelines.work import MANIFEST, Work, fingerprint, manifest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "NO_ALBUMENTATIONS_UPDATE", "TOKENIZERS_PARALLELISM",
               "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # fmt: skip
# a stage of six units; the one named in SLOW waits half-written to be killed
TOY = """
import os, sys, time
from pathlib import Path
from pipelines.stage import stage, progress
UNITS = [f"seed{i}/part{j}" for i in range(2) for j in range(3)]
def main(run):
    made = 0
    with run.work(Path("input.txt")) as work:
        for unit in progress(UNITS, "toy"):
            if work.done(unit):
                continue
            with work.unit(unit) as folder:
                (folder / "a.bin").write_bytes((unit * 1000).encode())
                (folder / "deep").mkdir()
                print("in", unit, flush=True)
                if unit == os.environ.get("SLOW"):
                    time.sleep(60)
                (folder / "deep" / "b.bin").write_bytes(unit[::-1].encode())
            made += 1
        work.assemble(run.paths.adapters)
    return {"made": made}
if __name__ == "__main__":
    stage(main, section="adapt")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the demo's params.yaml and a toy stage, and the current one."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "input.txt").write_text("input")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    for name in ENVIRONMENT:  # what a stage sets in this process is put back
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def start(place: Path, *argv: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "toy.py", *(argv or ("cells",))], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what runs in the background ignores it
    )  # fmt: skip


def until(process: subprocess.Popen, line: str) -> None:
    for read in process.stdout:
        if read.strip() == line:
            return
    raise AssertionError(f"the stage ended without '{line}': {process.stderr.read()}")


def leftovers(place: Path) -> list[Path]:
    return [p for p in place.rglob("*.tmp")]


# killed


@pytest.mark.parametrize("unit", ["seed0/part0", "seed1/part1"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_stage_run_again_gives_what_an_unkilled_one_gives(place, unit, how):
    start(place).communicate()
    whole = manifest(place / "artifacts")
    assert len(whole) == 12
    shutil.rmtree(place / "artifacts")

    killed = start(place, SLOW=unit)
    until(killed, f"in {unit}")
    killed.send_signal(how)
    _, told = killed.communicate(timeout=20)
    assert not (place / "artifacts").exists()
    if how == signal.SIGKILL:
        assert killed.returncode == -9
    else:
        assert killed.returncode == (143 if how == signal.SIGTERM else 130)
        assert told.strip() == ("adapt cells: interrupted; what is finished is kept, "
                                "resume with: python -m pipelines.adapt cells")  # fmt: skip
        assert leftovers(place) == []

    again = start(place)
    out, _ = again.communicate(timeout=20)
    done = ["seed0/part0", "seed0/part1", "seed0/part2", "seed1/part0", "seed1/part1"].index(unit)
    assert again.returncode == 0 and f"made {6 - done}" in out  # finished units were used
    assert manifest(place / "artifacts") == whole
    assert leftovers(place) == [] and not (place / ".work" / "adapt" / "cells").exists()


def test_a_stage_ends_when_the_dvc_that_started_it_is_killed(place):
    """The parent, a stand-in for dvc, is killed outright; its stage must not live on."""
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen([sys.executable, 'toy.py', 'cells']);"
         "print('stage', p.pid, flush=True); p.wait()"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "SLOW": "seed0/part1", "DVC_STAGE": "adapt@cells"},
    )  # fmt: skip
    child = int(parent.stdout.readline().split()[1])
    until(parent, "in seed0/part1")
    parent.kill()
    for _ in range(100):
        if not running(child):
            break
        time.sleep(0.1)
    assert not running(child)
    assert "resume with: dvc repro" in parent.communicate(timeout=10)[1] and leftovers(place) == []


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# two at once


def test_a_second_run_waits_for_the_first_and_says_so(place):
    first = start(place, SLOW="seed0/part1")
    until(first, "in seed0/part1")
    second = start(place)
    told = second.stderr.readline()
    assert told == f"adapt cells: waiting for process {first.pid}, which runs the same stage\n"
    assert first.poll() is None and second.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    second.communicate(timeout=20)
    assert second.returncode == 0


def test_a_second_run_gives_up_after_a_while(place):
    first = start(place, SLOW="seed0/part1")
    until(first, "in seed0/part1")
    second = start(place, ODDSMITH_LOCK_SECONDS="0.3")
    _, told = second.communicate(timeout=20)
    first.kill()
    first.communicate()
    assert second.returncode == 4 and told.splitlines()[-1].endswith(
        f"one run at a time, process {first.pid} still holds it after 0 s; stop it or try again later")  # fmt: skip


def test_other_data_sets_run_side_by_side(place):
    first = start(place, SLOW="seed0/part1")
    until(first, "in seed0/part1")
    second = start(place, "co2")
    assert second.wait(timeout=20) == 0
    first.kill()
    first.communicate()
    second.communicate()


# torn


def test_a_torn_unit_is_named_and_done_again(place, capsys):
    work = Work("toy", "cells", "f")
    for unit in ("a", "b", "c"):
        with work.unit(unit) as folder:
            (folder / "x").write_text(unit)
    (work.path("a") / "x").write_text("torn")
    (work.path("b") / "y").write_text("foreign")
    assert [work.done(u) for u in ("a", "b", "c", "d")] == [False, False, True, False]
    told = capsys.readouterr().err.splitlines()
    assert told == [f"{work.path(u)}: {f} torn; this unit is done again" for u, f in (("a", "x"), ("b", "y"))]
    assert not work.path("a").exists() and work.finished() == ["c"]
    with pytest.raises(InputError, match="all units must be done, lacks a, d; run"):
        work.assemble(place / "out", ["c", "a", "d"])
    assert not (place / "out").exists()


@pytest.mark.parametrize("fault", ["missing", "torn", "not an object"])
def test_a_unit_without_a_sound_manifest_does_not_count(place, fault):
    work = Work("toy", "cells", "f")
    with work.unit("a") as folder:
        (folder / "x").write_text("x")
    note = work.path("a") / MANIFEST
    note.unlink() if fault == "missing" else note.write_text("{" if fault == "torn" else "[]")
    assert not work.done("a")


def test_units_of_other_settings_inputs_or_code_are_not_used(place):
    base = fingerprint({"steps": 1}, [place / "input.txt"], [place / "toy.py"])
    assert base == fingerprint({"steps": 1}, [place / "input.txt"], [place / "toy.py"])
    assert base != fingerprint({"steps": 2}, [place / "input.txt"], [place / "toy.py"])
    (place / "input.txt").write_text("other")
    changed = fingerprint({"steps": 1}, [place / "input.txt"], [place / "toy.py"])
    (place / "toy.py").write_text(TOY + "#")
    assert len({base, changed, fingerprint({"steps": 1}, [place / "input.txt"], [place / "toy.py"])}) == 3
    folder = place / "folder"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a").write_text("1")
    before = fingerprint({}, [folder])
    (folder / "__pycache__" / "a.pyc").write_text("1")
    assert before == fingerprint({}, [folder])
    (folder / "a").rename(folder / "b")
    assert before != fingerprint({}, [folder])


def test_raw_data_beside_the_code_neither_voids_units_nor_is_read(place):
    """data/ is code, and data/raw/ in it is where users put gigabytes; as an input it counts."""
    folder = place / "data"
    (folder / "raw").mkdir(parents=True)
    (folder / "deep").mkdir()
    for name in ("a.py", "deep/b.css"):
        (folder / name).write_text("1")
    before, as_input = fingerprint({}, (), [folder]), fingerprint({}, [folder])
    (folder / "raw" / "own.csv").write_text("1")
    assert before == fingerprint({}, (), [folder]) and as_input != fingerprint({}, [folder])
    (folder / "deep" / "b.css").write_text("2")
    assert before != fingerprint({}, (), [folder])


def test_a_folder_of_latents_filled_anew_voids_what_fit_would_resume(place, monkeypatch):
    from pipelines import fit

    text = (place / "params.yaml").read_text()
    (place / "params.yaml").write_text(text.replace("kind: train", "kind: pretrained\n      source: latents"))
    (place / "latents").mkdir()
    monkeypatch.setattr("data.records.read_store", lambda path: [])
    folders = []

    def fit_base(records, *, folder, **more):
        folders.append(folder)
        raise InputError("stop")

    monkeypatch.setattr("generation.training.fit_base", fit_base)
    for weights in ("1", "1", "2"):
        (place / "latents" / "model.safetensors").write_text(weights)
        assert execute(fit.main, "fit", ["textures"]) == 3
    assert folders[0] == folders[1] != folders[2]


def test_success_leaves_nothing_and_failure_leaves_the_units(place):
    with pytest.raises(KeyError), Work("toy", "cells", "f") as work:
        with work.unit("a") as folder:
            (folder / "x").write_text("x")
        with work.unit("b"):
            raise KeyError
    assert work.finished() == ["a"] and leftovers(place) == []
    with Work("toy", "cells", "other") as work:
        work.scratch("checkpoints")
    assert not work.home.exists()


# whole or not at all


def test_an_artefact_is_replaced_whole_or_stays_as_it_was(place):
    for text in ("old", "new"):
        with atomic_dir(place / "out") as folder:
            (folder / text).write_text(text)
    assert list(manifest(place / "out")) == ["new"] and leftovers(place) == []
    for context in (atomic_dir, atomic_file):
        with pytest.raises(ZeroDivisionError), context(place / "out") as temporary:
            (temporary / "half" if context is atomic_dir else temporary).write_text("half")
            raise ZeroDivisionError
    assert list(manifest(place / "out")) == ["new"] and leftovers(place) == []
    with atomic_file(place / "f.json") as file:
        file.write_text("1")
    with atomic_file(place / "f.json") as file:
        file.write_text("2")
        assert (place / "f.json").read_text() == "1"
    assert (place / "f.json").read_text() == "2"


def test_what_a_killed_run_left_beside_an_artefact_is_cleared_and_a_living_ones_is_not(place):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale, own = place / f".out.{dead.pid}.tmp", place / f".out.{os.getppid()}.tmp"
    for folder in (stale, own):
        folder.mkdir()
    with atomic_dir(place / "out"):
        assert not stale.exists() and own.exists()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_finished_units_and_tells_need_and_room(place, monkeypatch, capsys):
    def main(run):
        with run.work() as work:
            for unit in ("a", "b"):
                if not work.done(unit):
                    with work.unit(unit) as folder:
                        (folder / "x").write_bytes(b"x" * 2_500_000)
                        if unit == "b":
                            monkeypatch.setattr(atomic, "sync", full)
            work.assemble(run.paths.adapters)

    assert execute(main, "adapt", ["cells"]) == 4
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "disk full, needs more than 2.5 MB, free " in told and "make room" in told
    assert leftovers(place) == [] and len(list((place / ".work" / "adapt").rglob("x"))) == 1
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert len(list(Path(".work/adapt").rglob("x"))) == 1


def test_a_disk_full_outside_an_artefact_is_exit_4_too(place, capsys):
    def main(run):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/else.log")

    assert execute(main, "adapt", ["cells"]) == 4
    assert "disk full while writing somewhere/else.log, free " in capsys.readouterr().err


# what the user is told


@pytest.mark.parametrize("torn, told", [
    (lambda p: p.write_text('{"a": 1'), r"gate\.json: must be JSON \(.*\); run dvc repro"),
    (lambda p: p.unlink(), r"gate\.json: must be there; run dvc repro"),
    (lambda p: (p.unlink(), p.mkdir()), r"gate\.json: must be what is read or written here, got Is a directory; mend"),
])  # fmt: skip
def test_a_torn_file_of_another_stage_is_exit_3_with_its_path(place, capsys, torn, told):
    def main(run):
        read_json(Path("gate.json"))

    Path("gate.json").write_text("{}")
    assert execute(main, "adapt", ["cells"]) == 0
    torn(Path("gate.json"))
    assert execute(main, "adapt", ["cells"]) == 3
    assert re.search(told, capsys.readouterr().err.splitlines()[-1])


def test_a_torn_table_of_another_stage_is_exit_3_with_its_path(place, capsys):
    import pandas as pd

    path = Path("seed0.parquet")

    def main(run):
        assert list(read_table(path, ["a"])["a"]) == [1]

    pd.DataFrame({"a": [1]}).to_parquet(path)
    assert execute(main, "adapt", ["cells"]) == 0
    pd.DataFrame({"b": [1]}).to_parquet(path)
    assert execute(main, "adapt", ["cells"]) == 3
    path.write_bytes(path.read_bytes()[:-9])
    assert execute(main, "adapt", ["cells"]) == 3
    pd.DataFrame({"a": list(range(5000))}).to_parquet(path)
    page = bytearray(path.read_bytes())
    page[4:80] = bytes(76)  # the header of a page
    path.write_bytes(page)
    assert execute(main, "adapt", ["cells"]) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "seed0.parquet: must be whole parquet" in line]
    assert len(lines) == 3 and all(line.endswith("; run dvc repro") for line in lines)


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize("error, code, words", [
    (SettingsError("a"), 2, "a"), (InputError("b"), 3, "b"), (ResourceError("c"), 4, "c"), (LeakError("d"), 5, "d"),
    (RemoteError("e"), 6, "e"),
    (MemoryError(), 4, "lower fit.row.batch, fit.row.width or generate.row.count"),
    (OutOfMemoryError("CUDA out of memory"), 4, "device memory ran out"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 4, "memory ran out"),
    (FileNotFoundError(2, "No such file", "artifacts/x"), 3, "artifacts/x: must be there; run dvc repro"),
    (ValueError("two\nlines"), 1, "unexpected ValueError: two lines at "),
    (KeyboardInterrupt(), 130, "resume with: python -m pipelines.adapt cells"),
])  # fmt: skip
def test_every_failure_is_one_line_with_its_exit_code(place, capsys, error, code, words):
    def main(run):
        raise error

    assert execute(main, "adapt", ["cells"]) == code
    told = capsys.readouterr().err
    assert told.startswith("adapt cells: ") and words in told and told.count("\n") == 1


def test_debug_shows_the_traceback(place, capsys, monkeypatch):
    def main(run):
        raise InputError("b")

    execute(main, "adapt", ["cells", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ODDSMITH_DEBUG", "1")
    execute(main, "adapt", ["cells"])
    assert "Traceback" in capsys.readouterr().err


def test_under_dvc_the_command_that_resumes_is_dvcs(monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "adapt@cells")
    assert diagnose(KeyboardInterrupt(), "x")[1].endswith("resume with: dvc repro")


@pytest.mark.parametrize("section, argv, words", [
    ("adapt", [], "arguments must be: python -m pipelines.adapt <dataset>, got 0 of 1"),
    ("adapt", ["cels"], "data set must be one of params.yaml, got 'cels'; did you mean 'cells'?"),
    ("adapt", ["cells", "1"], "got 2 of 1"),
    ("generate", ["cells"], "python -m pipelines.generate <dataset> <round>, got 1 of 2"),
    ("generate", ["cells", "4"], "round must be one of 1, 2, 3, got '4'"),
    ("report", ["cells"], "arguments must be: python -m pipelines.report, got 1 of 0"),
])  # fmt: skip
def test_wrong_arguments_are_settings_errors(place, capsys, section, argv, words):
    assert execute(lambda run: pytest.fail("ran"), section, argv) == 2
    assert words in capsys.readouterr().err


def test_a_run_knows_its_settings_paths_and_round(place, capsys):
    seen = []
    assert execute(seen.append, "generate", ["textures", "2"]) == 0
    assert execute(seen.append, "report", []) == 0
    run, report = seen
    assert (run.name, run.round, run.modality) == ("generate-r2", 2, "image")
    assert run.settings == run.params.section("generate", "image", 2)
    assert run.paths.round(2) == Path("artifacts/textures/r2") and run.paths.metrics == Path("metrics/textures.json")
    assert (report.dataset, report.modality, report.settings.examples) == ("", None, report.params.report.examples)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("generate textures 2: done in ") and "peak memory " in told[0]


def test_figures_are_told_in_the_closing_line(place, capsys):
    execute(lambda run: {"kept": 7, "tables": [1]}, "adapt", ["cells"])
    assert capsys.readouterr().out.rstrip().endswith("B, kept 7")


# surroundings


def test_libraries_find_no_network_telemetry_or_foreign_cores(place, monkeypatch):
    names = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE", "TOKENIZERS_PARALLELISM")
    for name in names:
        monkeypatch.delenv(name)
    from pipelines.settings import load_settings

    environment(load_settings(), "image")
    assert [os.environ[n] for n in names] == ["1", str(len(os.sched_getaffinity(0))), "1", "false"]


@pytest.mark.parametrize("device, seen", [("cpu", ""), ("auto", "0"), ("cuda", "0")])
def test_what_takes_any_device_finds_no_gpu_where_the_settings_want_none(place, monkeypatch, device, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    from pipelines.settings import load_settings

    environment(load_settings().model_copy(update={"device": device}), "image")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_the_hub_is_asked_only_for_models_that_settings_name_by_id(place, monkeypatch):
    from pipelines.settings import load_settings

    fit = load_settings().fit.image
    assert hub_ids(fit) == [] and hub_ids(None) == []
    named = fit.model_copy(update={"pretrained": "runwayml/inpaint", "latent": fit.latent.model_copy(
        update={"source": "models/vae"})})  # fmt: skip
    assert hub_ids(named) == ["runwayml/inpaint", "models/vae"]
    (place / "models" / "vae").mkdir(parents=True)
    assert hub_ids(named) == ["runwayml/inpaint"]
    monkeypatch.delenv("HF_HUB_OFFLINE")
    params = load_settings()
    environment(params.model_copy(update={"fit": params.fit.model_copy(update={"image": named})}), "image")
    assert "HF_HUB_OFFLINE" not in os.environ


def test_progress_tells_a_line_now_and_then_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter(range(0, 1000, 8))
    monkeypatch.setattr(stages.time, "monotonic", lambda: next(now))
    assert list(progress("abcdef", "toy")) == list("abcdef")
    told = capsys.readouterr().err.splitlines()
    assert told == ["toy: 3/6 (50 %), 0.12/s, 24 s left", "toy: 6/6 (100 %), 0.12/s, 0.0 s left"]


def test_progress_of_a_resumed_run_counts_from_where_it_resumed():
    bar = Progress(100, "fit")
    bar.count = 50
    with bar:
        bar.first = 50
        bar.count = 60
        assert bar.line(10.0) == "fit: 60/100 (60 %), 1/s, 40 s left"


@pytest.mark.parametrize("seconds, text", [(0.44, "0.4 s"), (59, "59 s"), (125, "2 min 05 s"), (4200, "1 h 10 min")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
