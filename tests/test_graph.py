"""The graph of dvc.yaml: no way from the test split to what is generated or trained; deps that leave nothing out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.explain import Loader

ROOT = Path(__file__).parent.parent
# must never see the test split
BLIND = ("fit", "adapt", "crossfit", "generate", "judge", "filter", "train", "fidelity")
READERS = ("evaluate", "report")
DATASETS = {name: {"modality": name, "source": {"reader": "demo", "path": "data/demo.py"}}
            for name in ("image", "series", "row")}  # fmt: skip
ROUND = re.compile(r"-r\d+$")


def load(path: Path) -> dict:
    return yaml.load(path.read_text(), Loader)


def names(entries: list) -> list[str]:
    """The paths of a list of deps or outs, each a path or {path: options}."""
    return [next(iter(e)) if isinstance(e, dict) else e for e in entries]


def resolve(stages: dict, datasets: dict) -> dict[str, dict]:
    """{stage or stage@dataset: its definition with ${...} filled in}: what DVC makes of foreach."""
    def fill(value, key, item):
        if isinstance(value, dict):
            return {fill(k, key, item): fill(v, key, item) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(v, key, item) for v in value]
        if not isinstance(value, str):
            return value
        value = value.replace("${key}", key).replace("${item.modality}", item["modality"])
        return value.replace("${item.source.path}", item["source"]["path"])

    out = {}
    for name, definition in stages.items():
        if "foreach" not in definition:
            out[name] = definition
            continue
        assert definition["foreach"] == "${datasets}", name
        out |= {f"{name}@{key}": fill(definition["do"], key, item) for key, item in datasets.items()}
    assert "${" not in str(out)
    return out


def touches(one: str, other: str) -> bool:
    """Whether one path is the other or lies in it."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def outs(stage: dict) -> list[str]:
    return [p for key in ("outs", "metrics", "plots") for p in names(stage.get(key, []))]


def leaks(stages: dict[str, dict]) -> list[str]:
    """Every edge by which what was learnt from a test split could reach a stage that must be blind to it."""
    base = {name: ROUND.sub("", name.split("@")[0]) for name in stages}
    seen = {p: f"{p} (of {n})" for n in stages for p in outs(stages[n]) if p.split("/")[-1] == "test"}
    assert len(seen) == sum(b == "prepare" for b in base.values())
    found, grown = [], True
    while grown:
        grown = False
        for name, stage in stages.items():
            for dep in names(stage.get("deps", [])):
                for path, way in list(seen.items()):
                    if not touches(dep, path):
                        continue
                    edge = f"{way} -> {name}"
                    if base[name] not in READERS and edge not in found:
                        found.append(edge)
                    for out in outs(stage):
                        if out not in seen:
                            seen[out], grown = f"{way} -> {name} -> {out}", True
    return found


STAGES = resolve(load(ROOT / "dvc.yaml")["stages"], DATASETS)


def test_no_path_leads_from_the_test_split_to_anything_but_its_evaluation():
    assert leaks(STAGES) == []


def test_the_test_split_is_an_out_of_prepare_and_a_dep_of_evaluate_alone():
    for name, stage in STAGES.items():
        own = [d for d in names(stage["deps"]) if d.endswith("/test")]
        assert bool(own) == name.startswith("evaluate@")
        assert any(o.endswith("/test") for o in outs(stage)) == name.startswith("prepare@")


@pytest.mark.parametrize("stage, dep, edge", [
    ("train@row", "artifacts/row/test", "artifacts/row/test (of prepare@row) -> train@row"),
    ("filter-r1@row", "artifacts/row/test/part-00000.parquet", "artifacts/row/test (of prepare@row) -> filter-r1@row"),
    ("fit@row", "artifacts/row", "artifacts/row/test (of prepare@row) -> fit@row"),
    ("fit@image", "artifacts/row/test", "artifacts/row/test (of prepare@row) -> fit@image"),
    ("generate-r2@row", "metrics/row.json",
     "artifacts/row/test (of prepare@row) -> evaluate@row -> metrics/row.json -> generate-r2@row"),
    ("judge-r1@row", "reports/index.html", "-> report -> reports/index.html -> judge-r1@row"),
])  # fmt: skip
def test_a_planted_leak_is_found_and_its_edge_named(stage, dep, edge):
    planted = {**STAGES, stage: {**STAGES[stage], "deps": [*STAGES[stage]["deps"], dep]}}
    assert any(edge in found for found in leaks(planted)), leaks(planted)


def test_no_blind_stage_names_the_test_split_in_its_code():
    """dvc.yaml promises it; the code must keep the promise: only prepare writes it and evaluate reads it."""
    for name in BLIND:
        path = ROOT / "pipelines" / f"{name}.py"
        if path.exists():
            used = [n.lineno for n in ast.walk(ast.parse(path.read_text()))
                    if isinstance(n, ast.Attribute) and n.attr == "test"]  # fmt: skip
            assert not used, f"{path.name}: line {used}"


def test_every_stage_is_there_with_two_rounds_and_the_command_of_its_file():
    stages = load(ROOT / "dvc.yaml")["stages"]
    rounds = [f"{n}-r{r}" for r in (1, 2) for n in ("generate", "judge", "filter")]
    assert set(stages) == {"prepare", "fit", "adapt", "crossfit", *rounds, "train", "evaluate", "fidelity", "report"}
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


def test_round_two_depends_on_round_one_and_never_the_other_way():
    for name, stage in STAGES.items():
        if "-r1@" in name:
            assert not [d for d in names(stage["deps"]) if "/r2" in d] and ".r2." not in str(stage["params"])
        if name.startswith("generate-r2@"):
            assert any(d.endswith("/r1/steer.json") for d in names(stage["deps"]))


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
NO_SAY = {"data/errors.py", "data/demo.py", *(f"{p}/__init__.py" for p in ("data", "generation", "detection"))}
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
    used = closure(path, (*CODE, "pipelines"))  # also by way of a helper in another stage's file
    idle = {d for d in deps if (ROOT / d).exists() and not any(touches(m, d) for m in used)}
    assert idle - NO_SAY == set(), "deps that the stage does not import"
