"""Units of a stage side by side, each in a process of its own where one core is all that a unit can use.

Processes are forked: they share what was read and imported before, and hand back no more than small results; what a
unit makes, it leaves on the disk (pipelines/work.py).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from data.errors import ResourceError
from pipelines.stage import PR_SET_PDEATHSIG, Progress, Terminated

TICK = 0.5  # seconds between looks at what runs
PATIENCE = 30.0  # seconds that a process has to end when asked to


def each(
    call: Callable[[Any], Any],
    units: Sequence,
    label: str,
    *,
    jobs: int,
    threads: int | None = None,
    size: Callable[[Any], int] = lambda unit: 1,
) -> list:
    """[call(unit)] in the order of the units, which are begun in that order, `jobs` at a time; progress counts the
    `size` of those that are done.

    threads: what the units share, `jobs` of them if not given. A unit's own number of threads follows from that and
    from how many units there are, never from the jobs: what a unit makes, to the last bit, is not to depend on how much
    memory was free. With one job all of it happens in this process; else nothing does, not even a single unit, since
    after torch has run on several threads a fork would not take them along. The first error of a unit ends the others
    and is raised here; so does a signal.
    """
    total = sum(map(size, units))
    if jobs < 2:
        out = []
        with Progress(total, label, holds=True) as bar, limited(share(threads, units)):
            for unit in units:
                out.append(call(unit))
                bar.advance(size(unit))
        return out
    results: list = [None] * len(units)
    with Progress(total, label, holds=True, threaded=False) as bar, workers(call, units, jobs, threads) as free:
        waiting = list(range(len(units)))
        busy: dict[Connection, tuple[int, multiprocessing.Process]] = {}
        while waiting or busy:
            while waiting and free:
                pipe, process = free.pop()
                busy[pipe] = waiting.pop(0), process
                pipe.send(busy[pipe][0])
            for pipe in wait(list(busy), TICK):
                number, process = busy[pipe]
                done, value = received(pipe, process)
                if not done:
                    bar.to(bar.count, value)
                    continue
                results[number] = value
                free.append((pipe, busy.pop(pipe)[1]))
                bar.advance(size(units[number]))
            bar.advance(0)
    return results


@contextmanager
def workers(
    call: Callable, units: Sequence, jobs: int, threads: int | None
) -> Iterator[list[tuple[Connection, multiprocessing.Process]]]:
    """Forked processes that wait for numbers of units; in the end they go, at once where something went wrong."""
    context, each_its = multiprocessing.get_context("fork"), share(threads or jobs, units)
    started: list[tuple[Connection, multiprocessing.Process]] = []
    fine = False
    try:
        for _ in range(min(jobs, len(units))):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, call, units, os.getpid(), each_its), daemon=True)
            process.start()
            theirs.close()
            started.append((ours, process))
        yield list(started)
        fine = True
    finally:
        for pipe, process in started:
            if not fine:
                process.terminate()
            with suppress(OSError):  # one that is gone needs no word
                pipe.send(None)
        for pipe, process in started:
            process.join(PATIENCE)
            process.kill()
            process.join()
            pipe.close()


def share(threads: int | None, units: Sequence) -> int | None:
    """Threads of one of the units, None where their number is left as it is."""
    return threads and max(1, threads // max(1, min(threads, len(units))))


def work(pipe: Connection, call: Callable, units: Sequence, parent: int, threads: int) -> None:
    """In a forked process: of every unit asked for, notes (None, text), then (True, result) or (False, error)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    Progress.running = Relay(pipe)
    gone = suppress(KeyboardInterrupt, Terminated, OSError, EOFError)  # who started it ends it, or is no more
    with limited(threads), gone:
        while (number := pipe.recv()) is not None:
            try:
                answer = True, call(units[number])
            except Exception as error:
                answer = False, told(error)
            pipe.send(answer)
    if "detection.features" in sys.modules:
        sys.modules["detection.features"].keep()  # at exit, in a process that was not forked


class Relay:
    """Stands for the bar of the process that forked this one: what is to be told there goes through the pipe."""

    def __init__(self, pipe: Connection):
        self.pipe, self.count, self.sent, self.bar = pipe, 0, 0.0, sys.stderr.isatty()

    def to(self, count: int, note: str) -> None:
        if time.monotonic() - self.sent >= TICK:
            self.sent = time.monotonic()
            self.pipe.send((None, note))


@contextmanager
def limited(threads: int | None) -> Iterator[None]:
    """So many threads of numerical libraries inside, as many as before if None: other cores have units of their own."""
    if threads is None:
        yield
        return
    import threadpoolctl

    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    with threadpoolctl.threadpool_limits(threads):
        if torch:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def told(error: Exception) -> Exception:
    """The error as it can travel, with the place it came from: itself, or what it says where it cannot be sent."""
    if os.environ.get("ODDSMITH_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its class may do anything
        error = RuntimeError(f"{type(error).__name__}: {error}")
    with suppress(AttributeError):
        error.place = f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}"
    return error.with_traceback(None)


def received(pipe: Connection, process: multiprocessing.Process) -> tuple[bool, Any]:
    """(whether a unit is done, its result or a note); its error is raised, and ResourceError where its process was
    killed."""
    try:
        fine, value = pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        raise ResourceError(
            f"a process of this stage ended with code {process.exitcode}, as where memory runs out; "
            "free memory, or set OMP_NUM_THREADS=1 to run one at a time (last digits may then differ)"
        ) from None
    if fine is False:
        raise value
    return bool(fine), value
