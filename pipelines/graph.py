"""The graph of dvc.yaml, read as data: which paths a stage could learn something of the test split from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipelines.explain import read_yaml

HIDDEN = ("test", "fingerprints")  # outs of prepare that hold the test, or what tells its records apart
READERS = ("evaluate", "audit", "report", "publish")  # may see it, or what was learnt from it
ROUND = re.compile(r"-r\d+$")


def load(path: Path) -> Any:
    """What a YAML file holds."""
    return read_yaml(path)


def names(entries: list) -> list[str]:
    """The paths of a list of deps or outs, each a path or {path: options}."""
    return [next(iter(e)) if isinstance(e, dict) else e for e in entries]


def resolve(stages: dict, datasets: dict) -> dict[str, dict]:
    """{stage or stage@dataset: its definition with ${...} filled in}: what DVC makes of foreach.

    datasets: {name: {"modality": .., "source": {"path": ..}}}. ValueError for a loop over anything else.
    """

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
        elif definition["foreach"] == "${datasets}":
            out |= {f"{name}@{key}": fill(definition["do"], key, item) for key, item in datasets.items()}
        else:
            raise ValueError(f"stage {name}: foreach must be over ${{datasets}}, got {definition['foreach']}")
    return out


def touches(one: str, other: str) -> bool:
    """Whether one path is the other or lies in it."""
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


def outs(stage: dict) -> list[str]:
    """Every path that a stage writes."""
    return [p for key in ("outs", "metrics", "plots") for p in names(stage.get(key, []))]


def leaks(stages: dict[str, dict]) -> list[str]:
    """Every edge by which what was learnt from a test split could reach a stage that must be blind to it."""
    base = {name: ROUND.sub("", name.split("@")[0]) for name in stages}
    seen = {p: f"{p} (of {n})" for n in stages for p in outs(stages[n]) if p.split("/")[-1] in HIDDEN}
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
