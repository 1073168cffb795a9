"""The whole folder of a Hub data set from record stores: shards, card, Croissant, checksums, adapters if wanted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from data.errors import InputError, LeakError
from data.hub import card, croissant, scan, shards
from data.hub.licences import Licence

SUMS = "SHA256SUMS"
HEADER = "# what oddsmith wrote; check with sha256sum -c"  # by which a later run knows its own files
CARD = "README.md"
REAL = ("validation", "test")  # splits that hold real records only
WEIGHTS = {".safetensors", ".json"}  # of an adapter: nothing else is sent


def build(folder: Path, stores: Mapping[str, Path], ledgers: list[Path], *, facts: dict, licence: Licence,
          adapters: Path | None = None,
          own: Mapping[str, str] | None = None) -> dict[str, tuple[int, str]]:  # fmt: skip
    """{name: (bytes, SHA-256)} of the files written to the empty `folder`; equal inputs give equal bytes.

    stores: {"train", "validation", "test": record store}. facts: what the card tells (see card.md.j2). own: texts of
    this run that must not get out (see scan). LeakError where synthetic records would be in a split that must be
    real or a record in two; InputError where something must not leave this machine or Croissant is not valid.
    """
    ledger = shards.read_ledgers(ledgers)
    splits = [shards.write_split(name, store, folder, ledger) for name, store in stores.items()]
    check_splits(splits)
    if adapters:
        copy_adapters(adapters, folder / "adapters", facts, licence)
    data = {name: entry for name, entry in listed(folder).items() if name.endswith(".parquet")}
    facts = {**facts, "dated": splits[0].features.get("time", {}).get("feature", {}).get("dtype") == "timestamp[ns]"}
    croissant.write(folder / "croissant.json", croissant.describe(facts, splits, licence, data))
    croissant.validate(folder / "croissant.json")
    sums = [HEADER, *(f"{digest}  {name}" for name, (_, digest) in listed(folder).items())]
    (folder / SUMS).write_text("\n".join(sums) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card.render(facts, splits, licence), encoding="utf-8")
    scan.scan(folder, own or {})
    return listed(folder)


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    """{name: (bytes, SHA-256)} of all files below a folder, sorted by name."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): (f.stat().st_size, sha256(f)) for f in files}


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_splits(splits: list[shards.Split]) -> None:
    """LeakError where a split that must be real is not, splits share a record, or a parent is not in train."""
    train = splits[0]
    for split in splits:
        made = sum(n for (_, _, synthetic), n in split.counts.items() if synthetic)
        if split.name in REAL and made:
            raise LeakError(f"{split.name}: must hold real records only, got {made} synthetic ones; run dvc repro")
    for split in splits[1:]:
        shared = sorted(train.ids & split.ids)
        if shared:
            raise LeakError(f"{split.name}: must share no record with train, got {shared[0]!r} in both; run dvc repro")
        bred = sorted(train.parents & split.ids)
        if bred:
            raise LeakError(f"train: parents of synthetic records must not be in {split.name}, got {bred[0]!r}")
    if not len(train):
        raise InputError("train: must hold at least one record, got none; run dvc repro")


def copy_adapters(source: Path, target: Path, facts: dict, licence: Licence) -> None:
    """The weights and settings of every LoRA adapter, and a model card beside them."""
    files = sorted(f for f in source.rglob("*") if f.is_file() and f.suffix in WEIGHTS)
    if not any(f.suffix == ".safetensors" for f in files):
        raise InputError(f"{source}: must hold adapters (safetensors), got none; run dvc repro or set adapters: false")
    for file in files:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    (target / CARD).write_text(card.model_card(facts, licence), encoding="utf-8")
