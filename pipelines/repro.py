"""`dvc repro` as a child: what ran, for how long, what was fetched, and the line that says what went wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from data.atomic import atomic_file
from data.errors import ResourceError

# runs a command that ends with whoever started it: a killed runner leaves no dvc behind
TETHER = "import ctypes,os,sys\nctypes.CDLL(None).prctl(1, 15)\nos.execv(sys.argv[1], sys.argv[1:])"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 30.0  # seconds a command has to end when asked to


def reproduce(tree: Path, home: Path, names: list[str], threads: int) -> tuple[int, dict, list[str], str]:
    """(exit code, seconds a stage, stages fetched, what went wrong) of `dvc repro` in the tree; log.txt has it all."""
    clock = Clock(home / "times.json")
    unlock(tree)
    command = tethered([sys.executable, "-m", "dvc", "repro", *names])
    with (home / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=tree, env=surroundings(threads), stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, errors="replace", start_new_session=True)  # fmt: skip
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                clock.hear(line)
            code = process.wait()
        except BaseException:
            end(process)
            raise
        finally:
            clock.stop(done=False)
    return code, clock.seconds(), clock.fetched, reason((home / "log.txt").read_text())


def unlock(tree: Path) -> None:
    """Removes what a killed dvc left locked; ResourceError where it still runs. The caller sees to it that none starts.

    DVC does so itself only once the process is gone, which a dead one that nobody waited for is not.
    """
    path = tree / ".dvc" / "tmp" / "rwlock"
    held = {int(pid) for pid in re.findall(r'"pid": (\d+)', path.read_text())} if path.exists() else set()
    until = time.monotonic() + PATIENCE
    while running := sorted(pid for pid in held if runs_dvc(pid)):
        if time.monotonic() > until:
            raise ResourceError(f"{path}: process {running[0]} still works there; stop it and run the same again")
        time.sleep(0.1)
    path.unlink(missing_ok=True)


def runs_dvc(pid: int) -> bool:
    """Whether a process lives and is a dvc, not another one that was given its number."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and any("dvc" in part for part in process.cmdline())
    return False


class Clock:
    """Seconds of every stage from what dvc says, kept in a file: a killed stage's go on counting when it is resumed."""

    def __init__(self, path: Path):
        self.path, self.fetched, self.stage, self.began = path, [], None, 0.0
        self.times: dict[str, dict] = {}
        with suppress(OSError, ValueError):
            self.times = json.loads(path.read_text())

    def hear(self, line: str) -> None:
        if started := re.match(r"Running stage '([^']+)'", line):
            self.stop()
            self.stage, self.began = started[1], time.monotonic()
        elif fetched := re.match(r"Stage '([^']+)' is cached", line):
            self.stop()
            self.fetched.append(fetched[1])
            self.times.pop(fetched[1], None)
        elif re.match(r"(Stage '|Generating lock|Updating lock)", line):
            self.stop()

    def stop(self, *, done: bool = True) -> None:
        """The stage that ran has ended, well or not."""
        if self.stage is None:
            return
        before = self.times.get(self.stage, {"done": True})
        seconds = time.monotonic() - self.began + (0.0 if before["done"] else before["seconds"])
        self.times[self.stage] = {"seconds": round(seconds, 2), "done": done}
        self.stage = None
        with atomic_file(self.path) as path:
            path.write_text(json.dumps(self.times))

    def seconds(self) -> dict[str, float]:
        return {stage: value["seconds"] for stage, value in self.times.items()}


def reason(text: str) -> str:
    """The line that tells why dvc failed: the last one a stage wrote, or else dvc's own."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not re.match(r"(ERROR|WARNING): |> |Running stage '|Stage '|Updating lock|"
                                                  r"Generating lock|Use `dvc push`|To track|Data and pipe", line)]
    after = max((i for i, line in enumerate(lines) if line.startswith("Running stage '")), default=len(lines))
    said = [line for line in lines[after:] if line in own]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    return (said or errors or lines or ["dvc said nothing"])[-1]


def tethered(command: list[str]) -> list[str]:
    """The command, started so that it gets SIGTERM when the process that started it dies (Linux)."""
    return [sys.executable, "-c", TETHER, *command] if sys.platform.startswith("linux") else command


def surroundings(threads: int) -> dict[str, str]:
    """The environment of a cell's dvc: this Python first, lines as they come, nothing of a dvc that runs this cell."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    return env | (dict.fromkeys(THREADS, str(threads)) if threads else {})


def end(process: subprocess.Popen) -> None:
    """Stops a command and all it started: asked first, then killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return
