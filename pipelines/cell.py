"""One run of the loop with changed settings, a cell: `dvc repro` in a folder of its own, sharing one cache with others.

A stage whose code, inputs and settings another cell (or the repository itself) has run before is fetched from DVC's run
cache. A cell's home, `.work/cells/<name>/`, holds `tree` (code, params.yaml, artefacts), log.txt and result.json:
    {"cell", "dataset", "params", "set", "status": "done" | "FAILED", "error", "seconds", "stages": {stage: seconds},
     "fetched": [stage], "metrics", "gate", "fidelity", "stamp"}
A cell that is done is not run again while its code, settings and data stay as they are; a killed one goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.atomic import atomic_file
from data.errors import InputError, OddsmithError
from pipelines.overrides import dump, settings_for
from pipelines.repro import reproduce, tethered
from pipelines.work import ROOT
from pipelines.workcopy import lay_out, stamp_of

HOME = ROOT / "cells"
TARGETS = ("evaluate", "gate", "fidelity")  # stages that a cell is run for, those of them that there are
RESULTS = ("gate", "fidelity")  # <name>.json of a data set's artefacts
NOTHING = dict.fromkeys(("metrics", *RESULTS))


@dataclass(frozen=True)
class Cell:
    """What to run. params: a settings file below the repository's root; set: {dotted.path: value} changed in it."""

    name: str
    dataset: str
    params: str
    set: dict[str, Any] = field(default_factory=dict)


def run_cell(cell: Cell, *, root: Path = Path("."), home: Path | None = None, threads: int = 0) -> dict:
    """The cell's result, from result.json if it is done and nothing changed; else run, or gone on with.

    A failed stage is a result too (status FAILED). threads: of every stage, 0 as many as there are cores.
    """
    from pipelines.stage import locked

    home = (home or root / HOME) / cell.name
    settings = settings_for(root / cell.params, cell.dataset, cell.set, where=f"{cell.name}: ")
    home.mkdir(parents=True, exist_ok=True)
    with locked(f"cell-{cell.name}", f"cell {cell.name}"):
        stamp = stamp_of(root, settings)
        if (found := finished(home, stamp)) is not None:
            return found
        tree = lay_out(root, home / "tree", settings)
        code, times, fetched, error = reproduce(tree, home, targets(tree, cell.dataset), threads)
        found = collect(tree, cell.dataset) if not code else NOTHING
        if not code and found["metrics"] is None:
            code, error = 3, f"metrics/{cell.dataset}.json: must be written by evaluate, got none"
        result = result_of(cell, "" if not code else error, times, fetched, found) | {"stamp": stamp}
        with atomic_file(home / "result.json") as path:
            path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def result_of(cell: Cell, error: str, times: dict, fetched: list[str], found: dict) -> dict:
    """A result; FAILED where there is an error."""
    about = asdict(cell)
    status = {"status": "FAILED" if error else "done", "error": error}
    spent = {"seconds": round(sum(times.values()), 2), "stages": times, "fetched": fetched}
    return {"cell": about.pop("name"), **about, **status, **spent, **found}


def finished(home: Path, stamp: str) -> dict | None:
    """The result of a cell that is done and of the same stamp."""
    try:
        result = json.loads((home / "result.json").read_text())
    except (OSError, ValueError):
        return None
    return result if result.get("status") == "done" and result.get("stamp") == stamp else None


def collect(tree: Path, dataset: str) -> dict[str, Any]:
    """metrics, gate and fidelity as written, None for what is not there."""
    files = {"metrics": tree / "metrics" / f"{dataset}.json"}
    files |= {name: tree / "artifacts" / dataset / f"{name}.json" for name in RESULTS}
    return {name: json.loads(path.read_text()) if path.exists() else None for name, path in files.items()}


def targets(tree: Path, dataset: str) -> list[str]:
    """The stages of dvc.yaml that a cell is run for, of one data set."""
    from pipelines.explain import read_yaml

    stages = read_yaml(tree / "dvc.yaml")["stages"]
    several = {name: "foreach" in stages[name] or "matrix" in stages[name] for name in TARGETS if name in stages}
    found = [f"{name}@{dataset}" if each else name for name, each in several.items()]
    if not found:
        raise InputError(f"{tree / 'dvc.yaml'}: must have one of the stages {', '.join(TARGETS)}, got none of them")
    return found


# several at once


def run_cells(
    cells: Iterable[Cell], *, jobs: int = 1, root: Path = Path("."), report: Callable[[dict], None]
) -> list[dict]:
    """The results of all cells in their order, `jobs` at a time, each in a process; one that fails stops no other.

    report: called with each result as it comes.
    """
    waiting, running, results = list(cells), {}, {}
    order = [cell.name for cell in waiting]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // jobs)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[cell.name] = cell, start(cell, root, threads)
            for name, (cell, process) in list(running.items()):
                if process.poll() is not None:
                    results[name] = outcome(cell, process, root)
                    report(results[name])
                    del running[name]
            time.sleep(0.05)
    except BaseException:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
        raise
    return [results[name] for name in order]


def start(cell: Cell, root: Path, threads: int) -> subprocess.Popen:
    home = root / HOME / cell.name
    home.mkdir(parents=True, exist_ok=True)
    (home / "cell.json").write_text(dump(asdict(cell)))
    command = [sys.executable, "-m", "pipelines.cell", str(HOME / cell.name / "cell.json"), str(threads)]
    with (home / "runner.txt").open("w") as said:
        return subprocess.Popen(tethered(command), cwd=root, stdout=said, stderr=said)


def outcome(cell: Cell, process: subprocess.Popen, root: Path) -> dict:
    """The result that a cell's process left, or a FAILED one with its last line where it left none."""
    home = root / HOME / cell.name
    with suppress(OSError, ValueError):
        result = json.loads((home / "result.json").read_text())
        if process.returncode == (result["status"] != "done"):
            return result
    lines = (home / "runner.txt").read_text().strip().splitlines() or [f"ended with code {process.returncode}"]
    return result_of(cell, lines[-1], {}, [], NOTHING)


def main(argv: list[str]) -> int:
    """`python -m pipelines.cell <cell.json> <threads>`: 0 done, 1 FAILED, other codes where it could not be run."""
    from pipelines.stage import diagnose, listen, one_line, tell

    listen()
    try:
        result = run_cell(Cell(**json.loads(Path(argv[0]).read_text())), threads=int(argv[1]))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code, message = diagnose(error, f"python -m pipelines.cell {' '.join(argv)}")
        tell(f"cell: {one_line(message)}")
        return code if code != 1 or isinstance(error, OddsmithError) else 70
    print(told(result), flush=True)
    return int(result["status"] != "done")


def told(result: dict) -> str:
    """A line about a result."""
    tail = f"FAILED: {result['error']}" if result["status"] != "done" else f"done, stages ran {result['seconds']:.0f} s"
    return f"{result['cell']}: {tail}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
