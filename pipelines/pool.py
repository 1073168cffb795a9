"""Units of a stage side by side, each in a process of its own where one core is all that a unit can use.

Processes are forked: they share what was read and imported before, and hand back no more than small results; what a
unit makes, it leaves on the disk (pipelines/work.py).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from data.errors import ResourceError
from pipelines.stage import PR_SET_PDEATHSIG, Progress, Terminated

TICK = 0.5  # seconds between looks at what runs
PATIENCE = 30.0  # seconds that a process has to end when asked to


def each(
    call: Callable[[Any], Any], units: Sequence, label: str, *, jobs: int, size: Callable[[Any], int] = lambda unit: 1
) -> list:
    """[call(unit)] in the order of the units, `jobs` at a time; progress counts the `size` of those that are done.

    With one job, or one unit, all of it happens in this process. The first error of a unit ends the others and is
    raised here; so does a signal.
    """
    total = sum(map(size, units))
    if jobs < 2 or len(units) < 2:
        out = []
        with Progress(total, label) as bar:
            for unit in units:
                out.append(call(unit))
                bar.advance(size(unit))
        return out
    context, waiting, results = multiprocessing.get_context("fork"), list(enumerate(units)), {}
    running: dict[Connection, tuple[int, multiprocessing.Process]] = {}
    try:
        with Progress(total, label, threaded=False) as bar:
            while waiting or running:
                while waiting and len(running) < jobs:
                    number, unit = waiting.pop(0)
                    ours, theirs = context.Pipe(duplex=False)
                    process = context.Process(target=work, args=(theirs, call, unit, os.getpid()), daemon=True)
                    process.start()
                    theirs.close()
                    running[ours] = number, process
                for ours in wait(list(running), TICK):
                    number, process = running.pop(ours)
                    results[number] = outcome(ours, process)
                    bar.advance(size(units[number]))
                bar.advance(0)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join(PATIENCE)
            process.kill()
            process.join()
    return [results[number] for number in range(len(units))]


def work(pipe: Connection, call: Callable, unit: Any, parent: int) -> None:
    """In the forked process: one unit, on one thread; (True, result) or (False, error) goes back."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
    Progress.forked, Progress.running = True, None
    single_threaded()
    try:
        answer = True, call(unit)
    except (KeyboardInterrupt, Terminated):
        return
    except Exception as error:
        answer = False, told(error)
    with suppress(OSError):  # nobody listens any more
        pipe.send(answer)


def single_threaded() -> None:
    """One thread for what numerical libraries do from here on: the other cores have units of their own."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    import threadpoolctl

    threadpoolctl.threadpool_limits(1)


def told(error: Exception) -> Exception:
    """The error as it can travel: its own kind where it is one of ours, with the place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    if os.environ.get("ODDSMITH_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    with suppress(AttributeError):
        error.place = f"{os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}"
    return error.with_traceback(None)


def outcome(pipe: Connection, process: multiprocessing.Process) -> Any:
    """What a unit returned; its error is raised, and ResourceError where its process was killed."""
    try:
        fine, value = pipe.recv()
    except EOFError:
        process.join()
        raise ResourceError(
            f"a process of this stage ended with code {process.exitcode}, as where memory runs out; "
            "set OMP_NUM_THREADS=1 to run one at a time"
        ) from None
    finally:
        pipe.close()
    process.join()
    if not fine:
        raise value
    return value

