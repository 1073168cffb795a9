"""A working copy of the repository for other settings: its code, its own params.yaml, and the one DVC cache of all."""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import SettingsError
from pipelines.overrides import dump
from pipelines.work import fingerprint

FOLDERS, FILES = ("data", "generation", "detection", "pipelines"), ("dvc.yaml", ".dvcignore", "decisions.json")
PATHS = ("path", "source", "pretrained")  # settings that hold a path: raw data, an autoencoder, a pipeline
SHARED = ".cache"  # of features and the like, by content: one for all copies
CONFIG = """[core]
    analytics = false
    autostage = false
    check_update = false
    no_scm = true
[cache]
    dir = {cache}
    type = "reflink,hardlink,copy"
"""


def code_of(root: Path) -> list[Path]:
    """The code folders and files of a repository that there are."""
    return [root / name for name in (*FOLDERS, *FILES) if (root / name).exists()]


def stamp_of(root: Path, settings: dict, code: str | None = None) -> str:
    """16 hex digits that change with the settings, the code, or the size or time of any data file they name.

    code: what `stamp_of_code` says, where it is known.
    """
    data = {}
    for text in named_paths(settings, root):
        path = root / text
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            about = file.stat()
            data[str(file)] = [about.st_size, about.st_mtime_ns]
    return fingerprint([settings, data, code or stamp_of_code(root)])


def stamp_of_code(root: Path) -> str:
    """16 hex digits that change with the code."""
    return fingerprint(None, (), code_of(root))


def named_paths(value: Any, root: Path, key: Any = None) -> Iterator[str]:
    """Every text in the settings that is the path of something there is: data, weights, index files.

    key: what the value stands under; without a slash a text is a path only where a path is asked for.
    """
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from named_paths(part, root, name)
    elif isinstance(value, str) and ("/" in value or key in PATHS) and len(value) < 1000 and (root / value).exists():
        yield value


def lay_out(root: Path, tree: Path, settings: dict) -> Path:
    """A working copy: the code as it is, params.yaml, DVC's settings, and links where relative paths must lead.

    Artefacts of an earlier run stay, so that DVC goes on where it was.
    """
    (tree / ".dvc").mkdir(parents=True, exist_ok=True)  # first: to the root's own DVC it is a repository apart
    (tree / ".dvc" / "config").write_text(CONFIG.format(cache=cache_of(root)))
    for name in (*FOLDERS, *FILES):
        source, target = root / name, tree / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "raw"))
        elif source.exists():
            shutil.copy2(source, target)
    (tree / "params.yaml").write_text(dump(settings))
    for text in named_paths(settings, root):
        link(text, root, tree)
    (root / SHARED).mkdir(exist_ok=True)
    link(SHARED, root, tree)
    return tree


def link(text: str, root: Path, tree: Path) -> None:
    """Makes a relative path lead to the same place from the tree as from the root."""
    target = Path(os.path.normpath(tree.absolute() / text))
    if Path(text).is_absolute() or (target.exists() and not target.is_symlink()):
        return
    if tree.absolute().parent not in target.parents:
        raise SettingsError(f"{text}: must lie at most one folder above the repository, or be absolute")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to((root / text).resolve())


def cache_of(root: Path) -> Path:
    """The repository's own DVC cache, as its .dvc/config and .dvc/config.local say."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    folder = config.get("cache", "dir", fallback="cache").strip("\"'")
    return (root / ".dvc" / folder).resolve()
