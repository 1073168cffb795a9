"""The graph of dvc.yaml: no way from the test split to what is generated or trained; deps that leave nothing out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.config import ROUNDS
from pipelines.graph import HIDDEN, ROUND, leaks, load, names, outs, resolve, touches

ROOT = Path(__file__).parent.parent
# must never see the test split
BLIND = ("fit", "adapt", "crossfit", "tune", "generate", "judge", "filter", "gate", "train", "fidelity")
DATASETS = {name: {"modality": name, "source": {"reader": "demo", "path": "data/demo.py"}}
            for name in ("image", "series", "row")}  # fmt: skip
STAGES = resolve(load(ROOT / "dvc.yaml")["stages"], DATASETS)


def test_no_path_leads_from_the_test_split_to_anything_but_its_evaluation():
    assert leaks(STAGES) == []
    assert "${" not in str(STAGES)


def test_the_test_split_is_named_by_evaluate_alone_and_its_fingerprints_by_the_audit():
    for hidden, readers in zip(HIDDEN, (("evaluate@",), ("audit@",))):
        for name, stage in STAGES.items():
            own = [d for d in names(stage["deps"]) if d.endswith(f"/{hidden}")]
            assert bool(own) == name.startswith(readers), name
            assert any(o.endswith(f"/{hidden}") for o in outs(stage)) == name.startswith("prepare@"), name


@pytest.mark.parametrize("stage, dep, edge", [
    ("train@row", "artifacts/row/test", "artifacts/row/test (of prepare@row) -> train@row"),
    ("filter-r1@row", "artifacts/row/test/part-00000.parquet", "artifacts/row/test (of prepare@row) -> filter-r1@row"),
    ("fit@row", "artifacts/row", "artifacts/row/test (of prepare@row) -> fit@row"),
    ("fit@image", "artifacts/row/test", "artifacts/row/test (of prepare@row) -> fit@image"),
    ("generate-r2@row", "metrics/row.json",
     "artifacts/row/test (of prepare@row) -> evaluate@row -> metrics/row.json -> generate-r2@row"),
    ("judge-r1@row", "reports/index.html", "-> report -> reports/index.html -> judge-r1@row"),
    ("filter-r1@row", "artifacts/row/fingerprints",
     "artifacts/row/fingerprints (of prepare@row) -> filter-r1@row"),
    ("generate-r2@row", "artifacts/row/audit.json", "-> audit@row -> artifacts/row/audit.json -> generate-r2@row"),
])  # fmt: skip
def test_a_planted_leak_is_found_and_its_edge_named(stage, dep, edge):
    planted = {**STAGES, stage: {**STAGES[stage], "deps": [*STAGES[stage]["deps"], dep]}}
    assert any(edge in found for found in leaks(planted)), leaks(planted)


def test_no_blind_stage_names_the_test_split_in_its_code():
    """dvc.yaml promises it; the code must keep the promise: only prepare writes it and evaluate reads it."""
    for name in (*BLIND, "audit"):  # the audit makes do with fingerprints
        path = ROOT / "pipelines" / f"{name}.py"
        if path.exists():
            used = [n.lineno for n in ast.walk(ast.parse(path.read_text()))
                    if isinstance(n, ast.Attribute) and n.attr == "test"]  # fmt: skip
            assert not used, f"{path.name}: line {used}"


def test_every_stage_is_there_with_its_rounds_and_the_command_of_its_file():
    stages = load(ROOT / "dvc.yaml")["stages"]
    rounds = [f"{n}-r{r}" for r in ROUNDS for n in ("tune", "generate", "judge", "filter") if (n, r) != ("tune", 1)]
    last = {"gate", "train", "evaluate", "fidelity", "audit", "report", "publish"}
    assert set(stages) == {"prepare", "fit", "adapt", "crossfit", *rounds} | last
    for name, stage in STAGES.items():
        title, _, key = name.partition("@")
        base, _, number = title.partition("-r") if ROUND.search(title) else (title, "", "")
        assert stage["cmd"] == " ".join(filter(None, ["python -m pipelines." + base, key, number]))
        assert f"pipelines/{base}.py" in stage["deps"]


def test_every_dep_that_is_no_source_file_is_made_by_another_stage():
    made = [o for s in STAGES.values() for o in outs(s)]
    for name, stage in STAGES.items():
        for dep in names(stage["deps"]):
            if dep.startswith(("artifacts", "metrics", "reports")):
                assert any(touches(dep, out) for out in made), f"{name}: {dep} is made by nobody"
            assert not any(touches(dep, out) for out in outs(stage)), f"{name}: {dep} is its own out"


def test_a_round_depends_on_the_one_before_and_never_on_a_later_one():
    for name, stage in STAGES.items():
        for r in ROUNDS:
            if f"-r{r}@" not in name:
                continue
            for later in range(r + 1, ROUNDS[-1] + 1):
                assert not [d for d in names(stage["deps"]) if f"/r{later}" in d], name
                assert f".r{later}." not in str(stage["params"]), name
            if name.startswith("generate-") and r > 1:
                assert any(d.endswith(f"/r{r - 1}/steer.json") for d in names(stage["deps"]))
                assert any(d.endswith(f"/r{r}/adapters") for d in names(stage["deps"]))


def test_params_of_a_stage_are_there_and_are_of_its_own_section_and_modality():
    """So that a changed setting reruns its stage and what follows, and no other data set."""
    raw = load(ROOT / "params.yaml")
    for name, stage in STAGES.items():
        title, _, key = name.partition("@")
        for param in stage["params"]:
            at = raw
            for part in param.split("."):
                assert part in at or param == f"datasets.{key}", f"{name}: {param} is not in params.yaml"
                at = at.get(part, {})
            others = {"image", "series", "row"} - {key}
            assert not key or not others & set(param.split(".")), f"{name}: {param}"
        assert any(p.split(".")[0] == ROUND.sub("", title) for p in stage["params"]), name


# code deps


LATE = re.compile(r"([a-z_]+):[A-Z]\w*")  # "module:Class" of the same package, imported when asked for


def modules(path: Path, packages: tuple[str, ...]) -> Iterator[Path]:
    """Files of some packages that a file imports, anywhere in it, the packages' __init__ included."""
    for node in ast.walk(ast.parse(path.read_text())):
        named = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and (late := LATE.fullmatch(str(node.value))):
            named = [f"{path.parent.name}.{late[1]}"]
        for name in named:
            if name.split(".")[0] in packages:
                for file in (ROOT / (name.replace(".", "/") + ".py"), ROOT / name.replace(".", "/") / "__init__.py"):
                    if file.exists():
                        yield file


CODE = ("data", "generation", "detection")


def closure(path: Path, packages: tuple[str, ...] = CODE) -> set[str]:
    """Names below the root of all code with a say that a stage's file imports, directly or not."""
    waiting, found = [path], set()
    while waiting:
        for file in modules(waiting.pop(), packages):
            if file not in found:
                found.add(file)
                waiting.append(file)
    named = {f.relative_to(ROOT).as_posix() for f in found} - NO_SAY
    return {n for n in named if not n.startswith(NO_SAY_IN.get(path.stem, ("//",)))}


# imported along the way, but without a say in what a stage writes; data/demo.py is the source's path where it is used
CARRY = {f"pipelines/{name}.py" for name in ("__init__", "stage", "pool", "work", "config", "settings", "explain")}
NO_SAY = {
    *(f"data/{name}.py" for name in ("atomic", "errors", "files", "demo")),
    *(f"{p}/__init__.py" for p in ("data", "generation", "detection")),
}
NO_SAY_IN = {
    # training.py holds the adapter's side too
    "fit": ("generation/inpaint.py", "generation/lora.py", "generation/plan.py", "generation/classical"),
    # arms.py: only the names of the arms
    "evaluate": ("generation/augment.py", "generation/classical"),
}


@pytest.mark.parametrize("name", [n for n in STAGES if n.endswith("@row") or n == "report"])
def test_deps_name_all_code_that_a_stage_imports(name):
    stage, base = STAGES[name], ROUND.sub("", name.split("@")[0])
    path = ROOT / "pipelines" / f"{base}.py"
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    deps = [d for d in names(stage["deps"]) if d.split("/")[0] in ("data", "generation", "detection")]
    used = closure(path)
    assert {m for m in used if not any(touches(m, d) for d in deps)} == set(), "imports that deps leave out"
    lent = {f.relative_to(ROOT).as_posix() for f in modules(path, ("pipelines",))} - CARRY
    assert lent <= set(names(stage["deps"])), "functions of other stages that deps leave out"
    used = closure(path, (*CODE, "pipelines"))  # also by way of a helper in another stage's file
    idle = {d for d in deps if (ROOT / d).exists() and not any(touches(m, d) for m in used)}
    assert idle - NO_SAY == set(), "deps that the stage does not import"
