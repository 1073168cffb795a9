"""make set-up: what a broken environment leaves in the way is made anew, a sound one is kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
[ "$1" = -m ] && echo $2 $3 >> asked
[ "$3" = --version ] && [ -e .venv/bare ] && exit 1
[ "$2" = venv ] || exit 0
mkdir -p .venv/bin && cp python .venv/bin/python
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
@pytest.mark.parametrize("left, does", [
    (None, ["venv --clear", "pip --version"]), ("exit 1", ["venv --clear", "pip --version"]),
    ("#!/nowhere/python", ["venv --clear", "pip --version"]), ("sound", ["pip --version"]),
    ("without pip", ["pip --version", "ensurepip"]),
])  # fmt: skip
def test_an_environment_that_does_not_run_is_made_anew_and_one_without_pip_gets_it(tmp_path, left, does):
    """left: what stands as .venv/bin/python, as an interrupted `make set-up` or another machine left it."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    if left:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").write_text(PYTHON if left in ("sound", "without pip") else left)
        (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    if left == "without pip":
        (tmp_path / ".venv" / "bare").touch()
    subprocess.run(["make", "set-up", "PYTHON=./python"], cwd=tmp_path, check=True, capture_output=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [*does, "pip install"]
    assert (tmp_path / ".venv" / ".installed").exists()
