"""Images listed in a csv file with the columns image, mask, kind (or class) and perhaps group and given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data.errors import InputError
from data.records import Records
from data.sources.common import Quarantine, call, fit_name, inside, refuse_pickles, show
from data.sources.pixels import Images, read_lines
from data.sources.text import MISSING

NORMAL = ("", "good", "normal", "none", "ok")
GIVEN = ("", "train", "test")


def read(path: Path | str, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """(records, quarantine) of the images listed; options: index, kind, group, given, strict."""
    return call({"image": read_index}, path, modality, options, "folder")


def read_index(
    path: Path, *, index: str = "index.csv", kind: str | None = None, group: str | None = None,
    given: str | None = None, strict: bool = False,
) -> tuple[Records, list[dict]]:  # fmt: skip
    """Records of every row; `path` is a folder that holds `index`, or the csv file itself.

    kind: its column, `kind` or `class` by default; empty, good, normal, none and ok stand for normal, while one that
    says that nothing is known, as ?, is left out. group: column whose value no split parts, `group` by default where it
    is there. given: a column of train and test.
    """
    quarantine = Quarantine(strict)
    file = path / index if path.is_dir() else path
    root = file.parent
    rows = read_lines(file, ["image"], raw=[kind] if kind else ["kind", "class"])
    header = set(rows[0]) if rows else set()
    kind = kind or ("class" if "class" in header and "kind" not in header else "kind")
    group = group or ("group" if "group" in header else None)
    for name in (kind, group, given):
        if name is not None and name not in header:
            raise InputError(
                f"{show(file)}: the file must have the column '{show(name)}', got "
                f"{', '.join(map(show, sorted(header)))}; mend the header or the option"
            )
    times = Counter(Path(row["image"]).as_posix() for row in rows)
    images = Images(quarantine)
    for number, row in enumerate(rows, 2):
        name = Path(row["image"]).as_posix()
        problem = (
            f"an image must be listed once, got {times[name]} rows; merge their masks"
            if times[name] > 1
            else ""
        )
        problem = (
            problem or check_file(root, row["image"]) or (row.get("mask") and check_file(root, row["mask"]))
        )
        side = row[given].lower() if given else ""
        if not problem and side not in GIVEN:
            problem = f"column '{given}' must be train, test or empty, got '{show(side)}'; mend it"
        if not problem and row[kind] and MISSING.fullmatch(row[kind]):
            problem = f"an image must have a kind, got '{row[kind]}'; name it, or leave the cell empty if it is normal"
        if problem:
            quarantine.add(f"{file.name} row {number}: {row['image']}", problem)
            continue
        odd = "normal" if row[kind].lower() in NORMAL else row[kind]
        mask = root / row["mask"] if row.get("mask") else None
        images.add(
            root / row["image"],
            mask,
            id=name,
            kind=odd,
            given=side,
            group=f"{group}-{row[group]}" if group and row[group] else "",
        )
    return images.records(root.name), quarantine.rows


def check_file(root: Path, name: str) -> str:
    """Why a listed file may not be read, or ""."""
    path = root / name
    if not name:
        return "a row must name an image, got an empty cell; fill it"
    if reason := fit_name(name):
        return reason
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return f"a path must be relative and inside the folder, got '{show(name)}'; mend it"
    if not path.is_file():
        return f"a listed file must exist, found no '{show(name)}'; restore it"
    if not inside(root, path):
        return f"a link must stay inside the data, '{show(name)}' leads out; copy the file"
    try:
        refuse_pickles(path)
    except InputError as error:
        return str(error).split(": ", 1)[1]
    return ""
