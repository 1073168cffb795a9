"""Who may import whom, read from the syntax trees: left only, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("data", "generation", "detection", "pipelines")  # each may import itself and what stands left of it
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "sklearn", "skimage", "cv2",
         "albumentations", "lightgbm", "scipy", "statsmodels", "dvc", "huggingface_hub", "rich", "jinja2"}  # fmt: skip
LIGHT_ONLY = HEAVY | {"numpy", "pandas", "pyarrow"}
FILES = sorted(f for package in ORDER for f in (ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of a tree, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports must be absolute"
            yield node.module, node.lineno


def on_import(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """The imports that run when the module is imported: outside functions and the guard of __main__."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        guard = (isinstance(node, ast.If) and "__name__" in ast.dump(node.test)) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))  # fmt: skip
        if lazy or guard:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        waiting.extend(ast.iter_child_nodes(node))


def wrong_way(package: str, source: str) -> list[str]:
    right = ORDER[ORDER.index(package) + 1 :]
    return [f"line {line}: {package} must not import {name}"
            for name, line in imports(ast.parse(source)) if name.split(".")[0] in right]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_left_only(path):
    assert wrong_way(path.relative_to(ROOT).parts[0], path.read_text()) == []


@pytest.mark.parametrize("source", [
    "import detection.metrics", "from detection import metrics", "def f():\n    from pipelines.stage import Run",
    "import numpy, pipelines.work as w", "if True:\n    import detection",
])  # fmt: skip
def test_a_wrong_way_import_would_be_found(source):
    assert len(wrong_way("generation", source)) == 1 and wrong_way("pipelines", source) == []


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.py")), ids=lambda p: p.name)
def test_stages_import_nothing_heavy_at_module_level(path):
    found = [f"{path.name}:{line}: {name}" for name, line in on_import(ast.parse(path.read_text()))
             if name.split(".")[0] in HEAVY]  # fmt: skip
    assert found == []


def test_a_heavy_import_would_be_found():
    source = "try:\n    import torch\nfinally:\n    pass\nclass A:\n    import cv2\ndef f():\n    import sklearn\n"
    assert {name for name, _ in on_import(ast.parse(source))} == {"torch", "cv2"}


def test_generation_and_data_never_see_the_demo_that_drew_the_labels():
    """What generates or detects must not know how the demo's anomalies were made."""
    for path in FILES:
        package = path.relative_to(ROOT).parts[0]
        if package in ("generation", "detection", "pipelines"):
            found = [line for name, line in imports(ast.parse(path.read_text())) if name == "data.demo"]
            assert not found, f"{path}:{found}"


@pytest.mark.parametrize("code", [
    "import runpy, sys; sys.argv = ['oddsmith', '--help']; runpy.run_module('pipelines.cli', run_name='__main__')",
    "import pipelines.stage, pipelines.prepare",
], ids=["help", "stage"])  # fmt: skip
def test_help_and_the_start_of_a_stage_import_nothing_heavy(code):
    tail = "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules));"
    run = subprocess.run([sys.executable, "-c", tail + code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split("LOADED")[1].split())
    assert "pipelines.config" in loaded and loaded & (LIGHT_ONLY - {"rich"}) == set()
