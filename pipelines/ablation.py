"""ablate.yaml as a list of cells: which settings are changed one at a time, or combined, on which data sets.

    base: params.yaml                    # settings everything else is compared with
    datasets: [cells]                    # of the base; all by default
    axes:
      rank: {path: adapt.*.rank, values: [2, 8]}        # * is the data set's modality
      filter: {settings: {off: {filter.*.seam: 2.0, filter.*.copy: 0.0}}}   # several paths under one name
    grid: [[rank, filter]]               # besides one at a time, all combinations of these axes

A value that the base has already is the base's cell; a path that names a modality is for its data sets alone.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from data.errors import SettingsError, closest
from pipelines.cell import Cell
from pipelines.config import Settings
from pipelines.explain import Model, read_yaml, validate
from pipelines.overrides import applies, patched
from pipelines.work import sha256

FILE, CELLS = Path("ablate.yaml"), Path("ablate/cells.yaml")
HEADER = "# Made of ablate.yaml by `python -m pipelines.ablate plan`; ablate/dvc.yaml has a stage for every cell.\n"
Changes = dict[str, Any]  # {dotted.path: value}


class Axis(Model):
    path: str | None = None
    values: Annotated[list[Any], Field(min_length=1)] | None = None
    settings: Annotated[dict[str, Changes], Field(min_length=1)] | None = None  # by name

    def choices(self) -> list[tuple[Any, Changes]]:
        """(label, {dotted.path: value}) of every value."""
        if self.settings:
            return list(self.settings.items())
        return [(value, {self.path: value}) for value in self.values]


class Ablation(Model):
    base: str = "params.yaml"
    datasets: Annotated[list[str], Field(min_length=1)] | None = None
    axes: Annotated[dict[str, Axis], Field(min_length=1)]
    grid: list[Annotated[list[str], Field(min_length=2)]] = Field(default_factory=list)


def load(path: Path = FILE) -> Ablation:
    """The validated file; SettingsError names the first mistake."""
    raw = read_yaml(path)
    found = validate(Ablation, raw if isinstance(raw, dict) else {}, where=f"{path}: ")
    for name, axis in found.axes.items():
        given = (axis.path is not None, axis.values is not None, axis.settings is not None)
        if given not in ((True, True, False), (False, False, True)):
            raise SettingsError(f"{path}: axes.{name}: must have path and values, or settings alone")
    for name in (name for several in found.grid for name in several):
        if name not in found.axes:
            raise SettingsError(f"{path}: grid: must name axes, got '{name}'; {closest(name, found.axes)}")
    return found


def plan(path: Path = FILE, root: Path = Path(".")) -> dict:
    """{"base", "graph", "cells": {key: {"dataset", "cell", "data", "axes": {axis: label}, "set": {path: value}}}}.

    Every cell's settings are checked; SettingsError tells the axis. data: the path of the data set's raw files. graph:
    hash of dvc.yaml, which DVC does not take for a dependency.
    """
    ablation, cells = load(root / path), {}
    raw, name = read_yaml(root / ablation.base), Path(ablation.base)
    for dataset in ablation.datasets or raw.get("datasets") or {}:
        base = patched(raw, dataset, {}, where=f"{path}: ", name=name)
        about = base["datasets"][dataset]
        seen = [resolved(base)]
        cells[f"{dataset}--base"] = entry(dataset, "base", about, {}, {})
        for axes, changes in combinations(ablation, about["modality"]):
            cell = "--".join(f"{slug(axis)}-{slug(label)}" for axis, label in axes.items())
            settings = patched(raw, dataset, changes, where=f"{path}: axes.{'+'.join(axes)}: ", name=name)
            if (whole := resolved(settings)) in seen:
                continue
            seen.append(whole)
            key = f"{dataset}--{cell}"
            if key in cells:
                raise SettingsError(f"{path}: axes.{'+'.join(axes)}: two values make the name '{cell}'; rename one")
            cells[key] = entry(dataset, cell, about, axes, changes)
    return {"base": ablation.base, "graph": sha256(root / "dvc.yaml")[:16], "cells": cells}


def resolved(settings: dict) -> dict:
    """Settings with all that they leave to a default."""
    return Settings.model_validate(settings).model_dump(by_alias=True)


def entry(dataset: str, cell: str, about: dict, axes: dict, changes: dict) -> dict:
    changes = {path.replace("*", about["modality"]): value for path, value in changes.items()}
    return {"dataset": dataset, "cell": cell, "data": about["source"]["path"], "axes": axes, "set": changes}


def combinations(ablation: Ablation, modality: str):
    """({axis: label}, {dotted.path: value}) of every value of every axis, then of every grid."""
    for several in ([name] for name in ablation.axes), ablation.grid:
        for names in several:
            kept = [choices_for(ablation.axes[name], modality) for name in names]
            for combination in itertools.product(*kept):
                changes: Changes = {}
                for _, own in combination:
                    changes |= own
                yield {name: label for name, (label, _) in zip(names, combination)}, changes


def choices_for(axis: Axis, modality: str) -> list[tuple[Any, Changes]]:
    """The choices that change something for a modality, without the paths that are for others."""
    own = [(label, {p: v for p, v in changes.items() if applies(p, modality)}) for label, changes in axis.choices()]
    return [(label, changes) for label, changes in own if changes]


def slug(value: Any) -> str:
    """A label as a part of a name: a-z, 0-9 and single dashes."""
    text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "none"


def write(told: dict, path: Path = CELLS) -> None:
    """The plan as a file that DVC reads, a line a cell; untouched where it says so already."""
    lines = [f"  {key}: {json.dumps(cell)}" for key, cell in told["cells"].items()]
    head = [f"{name}: {json.dumps(told[name])}" for name in ("base", "graph")]
    text = HEADER + "\n".join([*head, "cells:", *lines]) + "\n"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def cell_of(told: dict, key: str) -> Cell:
    """What to run for a key of the plan."""
    if key not in told["cells"]:
        raise SettingsError(f"{CELLS}: cell must be one of the plan, got '{key}'; {closest(key, told['cells'])}")
    about = told["cells"][key]
    return Cell(key, about["dataset"], told["base"], about["set"])
