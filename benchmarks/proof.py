"""The proof: every set of benchmarks/proof.yaml at every number of labels K, all arms, what the gate said and the test.

    python benchmarks/proof.py [--jobs N] [--only SET ...] [--k K ...]   # runs what is not done yet; again to go on
    python benchmarks/proof.py --criteria [--only SET ...]               # K = 10, the filter's other criteria
    python benchmarks/proof.py --table                                   # runs nothing
    python benchmarks/proof.py --readme                                  # runs nothing; README.md's table too

A cell is a set and a K, run by pipelines.cell in .work/cells/proof--<set>--k<K>/: done ones are not run again, a killed
one goes on, a FAILED one stops no other and makes the exit code 1. In benchmarks/results/, earlier runs included:

proof.json        {set: {arm: {metric: {"mean", "low", "high", "values"}}, "gate": {...}}}; K = 10 is "<set>", other K
                  are "<set>@k5". gate: chosen, best, reference, accepted (at the confidence that the settings now ask
                  for), gain, truly_helpful (whether on the real test split the paired gain of the gate's best
                  candidate with generations over its best one without has a mean above 0, whatever the gate decided;
                  it sees no test), holds_at (the confidence up to which it would have accepted), seeds (each
                  support's decision, holds_at and gain).
proof_cells.json  {the same name: {"set", "k", "modality", "metric", "counts", "seconds", "stages", "rounds",
                  "criterion", "untouched", "fidelity"}}; fidelity: {measure: [of the kept, a support]}
proof_criteria.json  {set: {criterion: {arm: {"mean", "low", "high", "values"}}}}, of the set's metric
proof.md          the tables
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from proof_tables import HEAD, headline, into, tables, title
from pydantic import Field

from data.atomic import atomic_file
from data.errors import SettingsError, closest
from pipelines.cell import Cell, run_cells, told
from pipelines.explain import Model, read_yaml, validate
from pipelines.overrides import settings_for
from pipelines.work import ROOT as WORK

ROOT = Path(__file__).resolve().parent.parent
FILE, RESULTS = Path("benchmarks/proof.yaml"), Path("benchmarks/results")
FILES = ("proof.json", "proof_cells.json")
ALWAYS = {"train.*.shuffled": True}  # the control of shuffled masks too
RATIO = ("likelihood", "alike")  # criteria by the likelihood ratio, which judges no images
GATE = ("chosen", "best", "reference", "accepted", "holds_at", "gain", "truly_helpful", "seeds")
Budgets = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class Set(Model):
    params: str
    set: dict[str, Any]  # {dotted.path: value}
    untouched: bool = False  # nothing that makes, judges or filters records was chosen on it


class Proof(Model):
    k: Budgets
    seeds: Annotated[int, Field(ge=1)]  # prepare.seeds, where a set does not say otherwise
    sets: Annotated[dict[str, Set], Field(min_length=1)]


def cells_of(proof: Proof, only: list[str] | None = None, budgets: list[int] | None = None) -> list[Cell]:
    """What to run: all sets at the head's K first, so that neighbours in the queue share no stage."""
    for name in only or ():
        if name not in proof.sets:
            raise SettingsError(f"--only: must be one of {FILE}, got '{name}'; {closest(name, proof.sets)}")
    out = []
    for k in sorted(budgets or proof.k, key=lambda k: (k != HEAD, k)):
        for name, about in proof.sets.items():
            if not only or name in only:
                changes = {"prepare.seeds": proof.seeds, "prepare.support": k, **ALWAYS, **about.set}
                out.append(Cell(f"proof--{name}--k{k}", name, about.params, changes))
    return out


def criteria_cells(proof: Proof, root: Path, only: list[str] | None = None) -> list[Cell]:
    """The head's cells again, a criterion each; the gate, which chooses none of what is compared, on one support."""
    from detection.verdict import CRITERIA

    out = []
    for cell in cells_of(proof, only, [HEAD]):
        settings = settings_for(root / cell.params, cell.dataset, cell.set)
        modality = settings["datasets"][cell.dataset]["modality"]
        for name in CRITERIA:
            if name != settings["filter"][modality]["criterion"] and (modality != "image" or name not in RATIO):
                changes = {**cell.set, "filter.*.criterion": name, "gate.*.supports": 1}
                out.append(Cell(f"{cell.name}--{name}", cell.dataset, cell.params, changes))
    return out


# results


def entry(result: dict) -> tuple[dict, dict]:
    """(what proof.json says of a cell, what proof_cells.json says)."""
    metrics = result["metrics"]
    gate = metrics.get("gate") or {}
    arms = {**metrics["arms"], **(metrics.get("detectors") or {})}
    about = {"set": result["dataset"], "k": result["set"]["prepare.support"], "modality": metrics.get("modality"),
             "metric": metrics["gain"]["metric"], "counts": metrics.get("counts") or {},
             "seconds": result["seconds"], "stages": result["stages"], "fidelity": fidelity_of(result)}  # fmt: skip
    return {**arms, "gate": {name: gate.get(name) for name in GATE}}, about


def fidelity_of(result: dict) -> dict[str, list[float | None]]:
    """{measure: its value of what was kept for each support}; empty where the cell has no fidelity."""
    seeds = [own["kept"] for own in (result.get("fidelity") or {}).get("seeds") or ()]
    return {name: [own.get(name) for own in seeds] for name in dict.fromkeys(n for own in seeds for n in own)}


def rounds_of(home: Path) -> list[dict]:
    """What became of a cell's rounds, means over supports: {"kept" (share), "shapes" and "spread" of the kept, "moved"
    (how far the steering went from the round before), "stopped" (supports whose loop ended)}; home: its data set."""
    from statistics import mean

    from detection.steering import shift

    out: list[dict] = []
    before: dict = {}
    for path in sorted(home.glob("r*/steer.json")):
        now = json.loads(path.read_text())
        found = {name: mean(own["diversity"][name] for own in now.values()) for name in ("kept", "shapes", "spread")}
        moved = [shift(before[seed]["weights"], own["weights"]) for seed, own in now.items() if seed in before]
        found |= {"moved": mean(moved) if moved else None, "stopped": sum(bool(own["stop"]) for own in now.values())}
        out.append(found)
        before = now
    return out


def update(proof: Proof, results: list[dict], root: Path) -> tuple[dict, dict]:
    """proof.json and proof_cells.json with the cells that are done put in; sets that are no more go."""
    both = []
    for file in FILES:
        path = root / RESULTS / file
        both.append(json.loads(path.read_text()) if path.exists() else {})
    for result in results:
        if result["status"] == "done":
            parts, tree = entry(result), root / WORK / "cells" / result["cell"] / "tree"
            parts[1]["rounds"] = rounds_of(tree / "artifacts" / result["dataset"])
            parts[1]["criterion"] = read_yaml(tree / "params.yaml")["filter"][parts[1]["modality"]]["criterion"]
            parts[1]["untouched"] = proof.sets[result["dataset"]].untouched
            for known, part in zip(both, parts):
                known[title(result["dataset"], parts[1]["k"])] = part
    order = list(proof.sets)
    about = {name: told for name, told in both[1].items() if name in both[0] and told["set"] in order}
    names = sorted(about, key=lambda name: (order.index(about[name]["set"]), about[name]["k"]))
    modality = {told["set"]: told["modality"] for told in about.values()}
    asked = {name: confidence_of(proof.sets[name], name, kind, root) for name, kind in modality.items()}
    for name in names:
        decide_anew(both[0][name]["gate"], asked[about[name]["set"]])
    return {name: both[0][name] for name in names}, {name: about[name] for name in names}


def confidence_of(own: Set, name: str, modality: str, root: Path) -> float:
    """gate.<modality>.confidence as the settings of a set now are."""
    return settings_for(root / own.params, name, own.set)["gate"][modality]["confidence"]


def decide_anew(gate: dict, confidence: float) -> None:
    """The decision at another confidence than that of the run: the interval at it lies above 0 where it is below the
    one that the gate holds at (detection.gate.decide). A run that did not tell keeps its own."""
    for said in (gate, *(gate.get("seeds") or ())):
        if said.get("holds_at") is not None:
            said["accepted"] = said["holds_at"] > confidence
    if gate.get("best"):
        gate["chosen"] = gate["best"] if gate["accepted"] else gate["reference"]


def update_criteria(proof: Proof, results: list[dict], folder: Path) -> dict:
    """proof_criteria.json with the cells that are done put in."""
    path = folder / "proof_criteria.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for result in results:
        name = result["set"].get("filter.*.criterion")
        if name and result["status"] == "done":
            metric = result["metrics"]["gain"]["metric"]
            own = {arm: result["metrics"]["arms"][arm][metric] for arm in ("generated", "dropped", "filtered")}
            known.setdefault(result["dataset"], {})[name] = own
    return {name: known[name] for name in proof.sets if name in known}


# command


def write(proof: Proof, results: list[dict], root: Path) -> tuple[dict, dict]:
    """proof.json and proof_cells.json as they were written, with proof_criteria.json and the tables beside them."""
    folder = root / RESULTS
    usual = [result for result in results if "filter.*.criterion" not in result["set"]]
    found, about = update(proof, usual, root)
    other = update_criteria(proof, results, folder)
    failed = [result for result in results if result["status"] != "done"]
    texts = {"proof.json": json.dumps(found, indent=1), "proof_cells.json": json.dumps(about, indent=1),
             "proof_criteria.json": json.dumps(other, indent=1),
             "proof.md": tables(found, about, failed, other)}  # fmt: skip
    for name, text in texts.items():
        with atomic_file(folder / name) as path:
            path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return found, about


def run(given: argparse.Namespace, root: Path) -> int:
    """1 where a cell FAILED, else 0. Tables are written as cells come in."""
    proof = validate(Proof, read_yaml(root / FILE), where=f"{FILE}: ")
    if given.criteria:
        cells = criteria_cells(proof, root, given.only)
    else:
        cells = [] if given.table or given.readme else cells_of(proof, given.only, given.k)
    results: list[dict] = []

    def report(result: dict) -> None:
        results.append(result)
        print(f"{len(results)}/{len(cells)} {told(result)}", flush=True)
        write(proof, results, root)

    run_cells(cells, jobs=given.jobs, root=root, report=report)
    found = write(proof, results, root)
    if given.readme:
        page = root / "README.md"
        with atomic_file(page) as path:
            path.write_text(into(page.read_text(encoding="utf-8"), headline(*found)), encoding="utf-8")
    print(f"{root / RESULTS / 'proof.md'}: {sum(r['status'] == 'done' for r in results)} of {len(cells)} cells done")
    return int(any(result["status"] != "done" for result in results))


def main(argv: list[str], root: Path = ROOT) -> int:
    """The exit code of the command."""
    from pipelines.stage import diagnose, listen, one_line, tell

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time; cores are shared out")
    parser.add_argument("--only", nargs="+", metavar="SET")
    parser.add_argument("--k", nargs="+", type=int, metavar="K")
    parser.add_argument("--criteria", action="store_true", help="the filter's other criteria, at the head's K")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--readme", action="store_true", help="run nothing, put the table into README.md")
    given = parser.parse_args(argv)
    listen()
    try:
        return run(given, root)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        code, message = diagnose(error, " ".join(["python benchmarks/proof.py", *argv]))
        tell(f"proof: {one_line(message)}")
        return code


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
