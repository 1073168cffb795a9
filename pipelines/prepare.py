"""Stage prepare: raw files into record stores, split once and for all before anything else looks at them.

Reads the data set's source. Writes records/{fit,support,calib} and test (record stores), fingerprints/ (of the test,
without labels, for the audit alone), splits.json (supports and folds a seed) and summary.json. Measures how many
records each split holds and how many items were quarantined. A leak of the split ends it here, before any training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.atomic import atomic_dir, atomic_file
from data.errors import InputError
from pipelines.config import Dataset, Prepare
from pipelines.stage import Run, stage

FINGERPRINTS = "fingerprints"


def load(name: str, dataset: Dataset, prepare: Prepare) -> tuple[Any, list[dict]]:
    """(raw labelled records, quarantined items) of a data set's source."""
    from data.sources import SOURCES

    path = Path(dataset.source.path)
    if not path.exists():
        raise InputError(f"{path}: must exist; mend datasets.{name}.source.path in params.yaml")
    read = SOURCES[dataset.source.reader]
    return read(path, modality=dataset.modality, strict=prepare.strict, **dataset.source.options)


def divide(records: Any, prepare: Prepare, quarantine: Sequence[dict] = ()) -> Any:
    """The frozen, grouped split of raw records, copies in one group; `plan` has what was found of them in "copies".

    LeakError where copies lie on both sides all the same, since the source itself put them there. InputError where a
    part is too small; it tells what was left out, which is often why.
    """
    from data import leaks
    from data.check import left_out
    from data.fingerprint import fingerprint
    from data.split import split

    series = prepare.series if records.modality == "series" else None
    near = near_of(prepare, records.modality)
    joined, copies, against = leaks.join(records, near)
    both = leaks.check("labels", against, detail="no content is a normal and an anomaly")
    leaks.refuse("split", [both])
    try:
        parts = split(
            joined, seeds=prepare.seeds, support=prepare.support, folds=prepare.folds,
            test_share=prepare.test_share, calib_share=prepare.calib_share, window=series.window if series else None,
            whole=bool(series) and series.split == "recording", near=near,
        )  # fmt: skip
    except InputError as error:
        tied = copies["identical"] + copies.get("near", 0)
        why = [f"{tied} copies share a group, {leaks.HELP}"] * bool(tied) + [left_out(quarantine)] * bool(quarantine)
        raise InputError("; ".join([str(error), *why])) from error
    marks = {name: fingerprint(part) for name, part in parts.parts().items()}
    found = leaks.checks(marks, records.modality, near=near)
    leaks.refuse("split", found)
    parts.plan["copies"] = copies | {"nearest": next((c["figure"] for c in found if c["name"] == "look-alikes"), None)}
    return parts


def near_of(prepare: Prepare, modality: str) -> float:
    """Distance under which images or windows count as copies; 0 for rows, which are compared by content alone."""
    return getattr(getattr(prepare, modality), "near", 0.0)


def main(run: Run) -> dict:
    from data.check import summarise
    from data.fingerprint import fingerprint, write
    from data.records import write_store

    dataset, paths = run.params.datasets[run.dataset], run.paths
    raw, quarantine = load(run.dataset, dataset, run.params.prepare)
    parts = divide(raw, run.params.prepare, quarantine)
    for name in ("fit", "support", "calib"):
        write_store(paths.records / name, getattr(parts, name))
    write_store(paths.test, parts.test)
    with atomic_dir(paths.folder / FINGERPRINTS) as folder:
        write(folder, fingerprint(parts.test))
    copies = parts.plan.pop("copies")
    write_json(paths.splits, parts.plan)
    summary = summarise(raw, quarantine, parts, dataset.source.path)
    counts = summary.pop("parts")
    write_json(paths.summary, {"counts": counts, **summary, "copies": copies})
    return {name: counts[name]["records"] for name in ("fit", "support", "calib", "test")} | {
        "quarantined": len(quarantine)}


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stage(main, section="prepare")
