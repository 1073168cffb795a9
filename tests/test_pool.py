"""Units side by side: the same results in the same order as one after another, and nothing left behind by a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import InputError, ResourceError
from pipelines import stage as stages
from pipelines.pool import each
from pipelines.stage import Progress, diagnose, progress

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_the_order_of_the_units_whoever_ends_first(jobs):
    def slow_first(unit: int) -> int:
        time.sleep(0.2 if unit == 0 else 0)
        return unit * unit

    assert each(slow_first, range(4), "toy", jobs=jobs) == [0, 1, 4, 9]
    assert each(slow_first, [], "toy", jobs=jobs) == []


def test_units_run_side_by_side_in_other_processes_and_alone_in_this_one(tmp_path):
    def meet(unit: int) -> int:
        """Ends once all three have come."""
        (tmp_path / str(unit)).touch()
        until = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 3:
            assert time.monotonic() < until
            time.sleep(0.01)
        return os.getpid()

    own = each(meet, range(3), "toy", jobs=3)
    assert len(set(own)) == 3 and os.getpid() not in own
    assert each(lambda unit: os.getpid(), range(3), "toy", jobs=1) == [os.getpid()] * 3
    assert each(lambda unit: os.getpid(), [0], "toy", jobs=3) != [os.getpid()]


def test_no_more_units_run_at_a_time_than_jobs(tmp_path):
    def count(unit: int) -> int:
        (tmp_path / str(unit)).touch()
        time.sleep(0.05)
        found = len(list(tmp_path.iterdir()))
        (tmp_path / str(unit)).unlink()
        return found

    assert max(each(count, range(8), "toy", jobs=2)) <= 2


@pytest.mark.parametrize("jobs, units, threads", [(2, 2, 1), (2, 5, 1), (4, 2, 2), (5, 2, 2)])
def test_units_share_the_threads(jobs, units, threads):
    import torch

    before = torch.get_num_threads()
    assert each(lambda unit: torch.get_num_threads(), range(units), "toy", jobs=jobs) == [threads] * units
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("units, threads", [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_what_a_unit_computes_with_does_not_depend_on_how_many_fit_in_memory(units, threads):
    import torch

    before = torch.get_num_threads()
    for jobs in (1, 2, 3, 4):
        found = each(lambda unit: torch.get_num_threads(), range(units), "toy", jobs=jobs, threads=4)
        assert found == [threads] * units, jobs
    assert torch.get_num_threads() == before


def test_a_process_works_on_several_units_and_keeps_what_it_has_read():
    from functools import lru_cache

    @lru_cache
    def read() -> object:
        return os.getpid()

    own = each(lambda unit: read() == os.getpid() and os.getpid(), range(9), "toy", jobs=2)
    assert len(set(own)) == 2 and all(own)


def test_an_error_of_a_unit_keeps_its_kind_and_place_and_ends_the_others(tmp_path):
    def fail(unit: int) -> None:
        if unit:
            time.sleep(60)
        raise InputError("table.csv: row 3 must be a number, got 'x'; mend it")

    began = time.monotonic()
    with pytest.raises(InputError, match="row 3 must be a number"):
        each(fail, range(2), "toy", jobs=2)
    assert time.monotonic() - began < 20

    def wrong(unit: int) -> None:
        raise KeyError("no such column")

    with pytest.raises(KeyError) as caught:
        each(wrong, range(2), "toy", jobs=2)
    line = wrong.__code__.co_firstlineno + 1
    code, message = diagnose(caught.value, "python -m pipelines.toy")
    assert code == 1 and f"unexpected KeyError: 'no such column' at tests/test_pool.py:{line};" in message


class Odd(Exception):
    """One that pickle cannot put together again."""

    def __init__(self, row: int, rule: str):
        super().__init__(f"row {row}: {rule}")


def test_an_error_that_cannot_travel_is_told_by_what_it_says():
    def fail(unit: int) -> None:
        raise Odd(3, "must be a number")

    with pytest.raises(RuntimeError, match="Odd: row 3: must be a number") as caught:
        each(fail, range(2), "toy", jobs=2)
    assert caught.value.place.startswith("tests/test_pool.py:")


def test_a_process_that_was_killed_is_told_with_what_to_do():
    def die(unit: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ResourceError, match="ended with code -9, as where memory runs out; free memory, or set OMP"):
        each(die, range(2), "toy", jobs=2)


CALL = """
import os, sys, time
from pathlib import Path
from pipelines.pool import each
from pipelines.stage import listen
from data.atomic import atomic_dir

def unit(number):
    with atomic_dir(Path(sys.argv[1]) / str(number)) as folder:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)

listen()
each(unit, range(3), "toy", jobs=2)
"""


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_units_end_with_the_stage_and_leave_nothing_half_written(tmp_path, sign):
    process = subprocess.Popen([sys.executable, "-c", CALL, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while len(pids := list(tmp_path.glob(".*.tmp/pid"))) < 2 or not all(p.read_text() for p in pids):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    children = [int(path.read_text()) for path in pids]
    process.send_signal(sign)
    process.wait(30)
    until = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


# progress


class Terminal:
    def isatty(self) -> bool:
        return True


def test_progress_within_another_is_told_in_the_outer_bar(monkeypatch):
    shown = []

    class Bar:
        def __init__(self, *_, **options):
            assert options["auto_refresh"] is False

        def start(self): ...

        def stop(self): ...

        def add_task(self, label, total):
            return 0

        def update(self, task, *, completed, description, refresh):
            shown.append((completed, description.partition(",")[0], refresh))

    monkeypatch.setattr("rich.progress.Progress", Bar)
    monkeypatch.setattr(stages.sys, "stderr", Terminal())
    with Progress(2, "adapt tiles", holds=True, threaded=False) as outer:
        with progress(10, "seed 0") as inner:
            inner.to(5)
            assert inner.bar is None
        outer.advance()
    assert shown[0] == (0, "adapt tiles seed 0: 5/10 (50 %)", True) and shown[1][0] == 1
    assert Progress.running is None


def test_one_that_is_left_in_a_generator_is_no_outer_bar():
    def made():
        with progress(3, "toy"):
            yield 1

    left = [iter(progress(range(3), "toy")), made()]
    assert [next(one) for one in left] == [0, 1] and Progress.running is None
    with Progress(3, "next", holds=True) as bar:
        assert Progress.running is bar and bar.outer is None
    assert Progress.running is None


def test_a_unit_elsewhere_tells_lines_where_there_is_no_terminal(monkeypatch, capfd):
    monkeypatch.setattr(stages, "LINE_SECONDS", 0.0)

    def unit(number: int) -> bool:
        with progress(2, f"seed {number}") as bar:
            bar.advance()
            return bar.bar is None

    assert each(unit, range(2), "toy", jobs=2) == [True, True]
    told = capfd.readouterr().err
    assert "seed 0: 1/2 (50 %)" in told and "seed 1: 1/2 (50 %)" in told and "toy: 2/2 (100 %)" in told


def test_on_a_terminal_a_unit_elsewhere_is_told_in_this_process_s_bar(monkeypatch):
    shown = []

    def unit(number: int) -> bool:
        with progress(2, f"seed {number}") as bar:
            bar.advance()
            return bar.bar is None

    monkeypatch.setattr(stages.sys, "stderr", Terminal())
    monkeypatch.setattr("rich.progress.Progress", type("Bar", (), {
        "__init__": lambda self, *_, **options: None, "start": lambda self: None, "stop": lambda self: None,
        "add_task": lambda self, label, total: 0,
        "update": lambda self, task, *, completed, description, refresh: shown.append((completed, description)),
    }))  # fmt: skip
    assert each(unit, range(2), "toy", jobs=2) == [True, True]
    assert {text.partition(" (")[0] for _, text in shown} >= {"toy seed 0: 1/2", "toy seed 1: 1/2"}
    assert shown[-1][0] == 2
