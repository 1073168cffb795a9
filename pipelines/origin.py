"""Where a page's figures come from: commands, hashes of settings and artefacts, versions and licences of packages."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from pipelines.work import manifest, sha256

LONGEST = 60  # of a licence's name; longer ones are its text


def hashes(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """{path under root: SHA-256 of the file, or of the names and hashes of a folder's files} of those that exist."""
    found = {}
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_file():
            found[name] = sha256(path)
        elif path.is_dir():
            listed = "".join(f"{digest}  {file}\n" for file, digest in manifest(path).items())
            found[name] = hashlib.sha256(listed.encode()).hexdigest()
    return found


@cache
def packages() -> list[dict]:
    """{"name", "version", "licence"} of Python and of every installed package, by name."""
    found = {}
    for one in metadata.distributions():
        about = one.metadata
        if name := about["Name"]:
            found.setdefault(name.lower(), {"name": name, "version": about["Version"], "licence": licence(about)})
    python = {"name": "python", "version": platform.python_version(), "licence": "PSF-2.0"}
    return [python, *(found[name] for name in sorted(found))]


def licence(about) -> str:
    """The licence a package's metadata names: its SPDX expression, short name or classifiers; `not stated` else."""
    for key in ("License-Expression", "License"):
        value = (about.get(key) or "").strip()
        if value and len(value) <= LONGEST and "\n" not in value and value != "UNKNOWN":
            return value
    names = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    return ", ".join(names) or "not stated"


def commands(file: Path, datasets: Iterable[str]) -> list[str]:
    """The commands of all stages in the order of dvc.yaml, one a data set where a stage runs for each."""
    import yaml

    if not file.is_file():
        return []
    names, out = list(datasets), []
    for stage in ((yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("stages") or {}).values():
        one = stage.get("do", stage).get("cmd", "")
        lines = one if isinstance(one, list) else [one]
        out += [line.replace("${key}", name) for name in (names if "foreach" in stage else [""]) for line in lines]
    return [line for line in out if line]
