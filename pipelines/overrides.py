"""Settings changed by dotted paths: one data set of a settings file, patched, and held to every rule of params.yaml."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from data.errors import SettingsError, closest
from pipelines.config import MODALITIES
from pipelines.explain import read_yaml, show
from pipelines.settings import load_settings


def settings_for(params: Path, dataset: str, changes: dict[str, Any], *, where: str = "") -> dict:
    """The plain settings of a file with one data set alone and `changes` {dotted.path: value} made.

    A `*` in a path stands for the data set's modality. SettingsError, after `where`, for what params.yaml may not hold.
    """
    return patched(read_yaml(params), dataset, changes, where=where, name=params)


def patched(raw: Any, dataset: str, changes: dict[str, Any], *, where: str, name: Path) -> dict:
    """As `settings_for`, of settings that were read from the file `name`."""
    out = copy.deepcopy(raw) if isinstance(raw, dict) else {}
    for path, value in changes.items():
        if path.split(".")[0] == "datasets":  # first: it may be the change that brings the data set in
            put(out, path, value, where)
    known = out.get("datasets")
    if not isinstance(known, dict) or dataset not in known:
        hint = closest(dataset, known or ())
        raise SettingsError(f"{where}data set must be one of {name}, got '{dataset}'; {hint}")
    out["datasets"] = {dataset: known[dataset]}
    modality = known[dataset].get("modality") if isinstance(known[dataset], dict) else None
    for path, value in changes.items():
        if path.split(".")[0] != "datasets":
            put(out, path.replace("*", str(modality)), value, where)
    check(out, where)
    return out


def put(settings: dict, path: str, value: Any, where: str = "") -> None:
    """Sets the value at a dotted path, in place; sections that are not there yet are made."""
    at, parts = settings, path.split(".")
    for i, part in enumerate(parts[:-1]):
        at[part] = {} if at.get(part) is None else at[part]
        at = at[part]
        if not isinstance(at, dict):
            raise SettingsError(f"{where}{path}: {'.'.join(parts[: i + 1])} must hold keys and values, got {show(at)}")
    at[parts[-1]] = copy.deepcopy(value)


def check(settings: dict, where: str = "") -> None:
    """SettingsError where the plain settings would not do as params.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(dump(settings))
        try:
            load_settings(path)
        except SettingsError as error:
            raise SettingsError(where + str(error).removeprefix(f"{path}: ")) from None


def dump(settings: dict) -> str:
    """Settings as JSON, which is YAML in which no text is taken for a number."""
    return json.dumps(settings, indent=1) + "\n"


def applies(path: str, modality: str) -> bool:
    """Whether a dotted path is for data sets of a modality: it names no other one."""
    parts = path.split(".")
    return parts[0] == "datasets" or not set(parts) & (set(MODALITIES) - {modality})
