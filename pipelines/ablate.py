"""`python -m pipelines.ablate`: every cell of ablate.yaml as a stage of ablate/dvc.yaml, then one table of them all.

    run [--only AXIS]   plan, `dvc repro --keep-going` of the cells, summary, report; exit 1 where a cell FAILED
    plan                check ablate.yaml and write ablate/cells.yaml
    cell KEY            run one cell and write reports/ablation/cells/KEY.json, what its stage does
    summary             write reports/ablation.json, reports/ablation.csv and plots of what there is
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from data.atomic import atomic_file
from data.errors import OddsmithError, SettingsError, closest
from pipelines import ablation
from pipelines.cell import NOTHING, result_of, run_cell, told
from pipelines.explain import read_yaml
from pipelines.overrides import patched
from pipelines.repro import surroundings, tethered
from pipelines.workcopy import stamp_of, stamp_of_code

REPORTS = Path("reports")
RESULTS = REPORTS / "ablation" / "cells"
JSON, STAGES = "ablation.json", "ablate/dvc.yaml"
REPORT = ("--force", "--single-item", "report")
NOT_RUN = "not run"


def run(only: str | None = None) -> int:
    """0 where every cell is done, 1 where one FAILED or DVC could not run them or the report."""
    plan = ablation.plan()
    ablation.write(plan)
    keys = [key for key, cell in plan["cells"].items() if only is None or only in cell["axes"] or not cell["axes"]]
    if only is not None and not any(only in plan["cells"][key]["axes"] for key in keys):
        axes = {axis for cell in plan["cells"].values() for axis in cell["axes"]}
        raise SettingsError(f"--only: must be an axis that has cells, got '{only}'; {closest(only, axes)}")
    ended = repro("--keep-going", *(map(stage_of, keys) if only else [STAGES]))
    cells, stamp = plan["cells"], stamps(plan)
    there = {key: read(key, cells[key], stamp)["status"] for key in keys if path_of(key).exists()}
    # stamps look at times and all code, DVC at contents and the code that decides: it may have skipped one
    if old := [stage_of(key) for key, status in there.items() if status == NOT_RUN]:
        ended = repro("--keep-going", "--force", "--single-item", *old) or ended
    failed, told = summary(), report()
    return int(bool(ended or failed or told))


def stage_of(key: str) -> str:
    """A cell as DVC calls it."""
    return f"{STAGES}:cell@{key}"


def repro(*arguments: str) -> int:
    """The exit code of `dvc repro`."""
    return subprocess.run(tethered([sys.executable, "-m", "dvc", "repro", *arguments]), env=surroundings(0)).returncode


def report() -> int:
    """Makes the report anew, where there is one: DVC does not know that it holds the table. DVC's exit code."""
    from pipelines.stage import tell

    if not (REPORTS / "index.html").exists() or not Path("metrics").exists():
        return 0
    if code := repro(*REPORT):
        tell(f"ablate: {REPORTS / 'index.html'}: could not be made anew of the table; run dvc repro {' '.join(REPORT)}")
    return code


def cell(key: str) -> int:
    """Runs a cell of ablate/cells.yaml and writes its result; 1 where it FAILED."""
    plan = read_yaml(ablation.CELLS)
    asked, about = ablation.cell_of(plan, key), plan["cells"][key]
    try:
        result = run_cell(asked)
    except OddsmithError as error:  # it could not even begin; that is a result too
        result = result_of(asked, str(error), {}, [], NOTHING)
    with atomic_file(path_of(key)) as path:
        path.write_text(json.dumps({"axes": about["axes"], **result, "cell": about["cell"]}, indent=1) + "\n")
    print(told(result), flush=True)
    return int(result["status"] != "done")


def summary() -> int:
    """Writes the table, the figures behind it and the plots; how many cells FAILED."""
    from pipelines import tables

    plan = ablation.plan()
    base = read_yaml(Path(plan["base"]))["prepare"]["support"]
    stamp = stamps(plan)
    results = [read(key, about, stamp) for key, about in plan["cells"].items()]
    found = tables.summarise(results, support=base)
    for name, text in tables.files(found, results).items():
        with atomic_file(REPORTS / name) as path:
            path.write_text(text, encoding="utf-8")
    states = [row["status"] for row in found["rows"]]
    failed, missing = states.count("FAILED"), states.count(NOT_RUN)
    print(f"{len(states)} cells: {states.count('done')} done, {failed} FAILED, {missing} not run; {REPORTS / JSON}")
    for row in found["rows"]:
        if row["status"] == "FAILED":
            print(f"  {row['dataset']} {row['cell']} FAILED: {row['error']}")
    return failed


def stamps(plan: dict) -> Callable[[dict], str]:
    """f(cell of the plan) -> the stamp that it would have if it ran now."""
    root, base = Path("."), Path(plan["base"])
    raw, code = read_yaml(base), stamp_of_code(root)
    return lambda c: stamp_of(root, patched(raw, c["dataset"], c["set"], where="", name=base), code)


def read(key: str, about: dict, stamp: Callable[[dict], str]) -> dict:
    """What a cell's file says, or that it has not run with these settings, this code and this data.

    One that FAILED before it began has no stamp.
    """
    found = json.loads(path_of(key).read_text()) if path_of(key).exists() else {}
    unable = found.get("status") == "FAILED" and "stamp" not in found
    if found.get("set") == about["set"] and (unable or found.get("stamp") == stamp(about)):
        return found
    known = {name: about[name] for name in ("cell", "axes", "dataset", "set")}
    return known | {"status": NOT_RUN, "error": "", "seconds": 0.0, **NOTHING}


def path_of(key: str) -> Path:
    """The file of a cell's result."""
    return RESULTS / f"{key}.json"


def main(argv: list[str]) -> int:
    """The exit code of a command."""
    from pipelines.stage import diagnose, listen, one_line, tell

    parser = argparse.ArgumentParser(prog="python -m pipelines.ablate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run").add_argument("--only", metavar="AXIS")
    commands.add_parser("plan")
    commands.add_parser("cell").add_argument("key")
    commands.add_parser("summary")
    given = parser.parse_args(argv or ["run"])
    listen()
    try:
        if given.command == "run":
            return run(given.only)
        if given.command == "plan":
            ablation.write(ablation.plan())
        elif given.command == "cell":
            return cell(given.key)
        else:
            summary()
        return 0
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code, message = diagnose(error, f"python -m pipelines.ablate {' '.join(argv)}".strip())
        tell(f"ablate: {one_line(message)}")
        return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
