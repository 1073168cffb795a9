"""Labelled rows, or labelled recordings, from csv files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data.errors import InputError, closest
from data.records import Records, check_names, make_meta
from data.sources.choose import agreeing, canonical, check_options, contents, limited, of_values, plain
from data.sources.common import Quarantine, call, content_groups, entries, inside, refuse_pickles, show, watched
from data.sources.recording import read_series
from data.sources.text import read_text
from data.sources.types import spelled, typed


def read(path: Path | str, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """(records, quarantine) of a csv file; options: see read_rows and read_series."""
    return call({"row": read_rows, "series": read_series}, path, modality, options, "csv")


def read_rows(
    path: Path, *, label: str, anomalous: object, id: str | None = None, group: str | None = None,
    kind: str | None = None, ignore: list[str] | None = None, file: str | None = None, test_path: str | None = None,
    keep: dict | None = None, conflicts: str = "keep", limit: int | None = None, separator: str | None = None,
    strict: bool = False,
) -> tuple[Records, list[dict]]:  # fmt: skip
    """Records of every labelled row; all other columns are features, typed over both files.

    label: the column whose value, or one of whose values, `anomalous` marks a row as anomalous; a row of any other
    value is normal, but not one that differs from an anomalous value in case alone (InputError). id, group,
    kind: columns that are none of the features, `ignore` lists more. file: the table where `path` is a folder.
    test_path: a second file, `given` "test" (the first is then "train"), taken relative to the first's folder
    unless it exists as it is. keep: {column: [value, ..]}, the rows to read. conflicts: "drop" leaves out rows
    that others of the same features contradict. limit: most rows, drawn with a fixed seed, of every kind (and
    file) its share. Which cells of an anomalous row deviate is unknown, so its whole mask is True.
    """
    check_options("csv", keep=keep, conflicts=conflicts, limit=limit)
    quarantine = Quarantine(strict)
    folder, path = path, first_file(path, file)
    files = [(path, "")] if test_path is None else [(path, "train"), (second_file(folder, path, test_path), "test")]
    tables = [read_text(one, separator=separator) for one, _ in files]
    roles = [name for name in (label, id, group, kind) if name is not None] + list(ignore or [])
    for (one, _), table in zip(files, tables):
        check_columns(one, table, roles, tables[0])
    text = pd.concat(tables, ignore_index=True)
    of_file = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    text.index = np.concatenate([table.index for table in tables])  # lines of the file
    if keep:
        kept = of_values(text, keep, show(path.name), quarantine)
        text, of_file = text[kept], of_file[kept]
    marked = [
        canonical(value) for value in (anomalous if isinstance(anomalous, list | tuple) else [anomalous])
    ]
    check_labels(files, [text[of_file == i] for i in range(len(files))], label, marked)

    kept = (text[label] != "").to_numpy(bool)
    for f, line in zip(of_file[~kept], text.index[~kept]):
        quarantine.add(
            f"{show(files[f][0].name)} row {line}",
            f"a row must have a label, column '{show(label)}' is empty; fill it",
        )
    text, of_file = text[kept], of_file[kept]
    features = [name for name in text if name not in roles]
    if not features:
        raise InputError(
            f"{show(path)}: rows must have a feature besides label, id, group, kind and ignore; add one"
        )
    check_names(features, show(path))
    odd = np.isin(plain(text[label]), marked)
    if conflicts == "drop":
        kept = agreeing(contents(text[features]), odd, show(path.name), quarantine)
        text, of_file, odd = text[kept], of_file[kept], odd[kept]
    names = [f"{show(files[f][0].name)} row {n}" for f, n in zip(of_file, text.index)]
    kinds = row_kinds(text, odd, kind, label, names)
    kept = limited(list(zip(of_file.tolist(), kinds)), limit, show(path.name), quarantine)
    kinds, names = ([item for item, taken in zip(items, kept) if taken] for items in (kinds, names))
    text, of_file, odd, line = text[kept].reset_index(drop=True), of_file[kept], odd[kept], text.index[kept].to_numpy()

    x, schema = typed(text[features], show(path.name), names)
    ids = row_ids(text, id, [files[f] for f in of_file], line, names)
    if group is None:
        groups = content_groups(ids, contents(text[features]))
    else:
        groups = [f"{group}-{spelled(value)}" if value else name for value, name in zip(text[group], ids)]
    from_where = np.where(odd, "row", "").tolist()
    meta = make_meta(len(text), id=ids, label=odd.astype(np.int8), group=groups, source=path.name,
                     kind=kinds, mask_source=from_where, label_value=plain(text[label]),
                     given=[files[f][1] for f in of_file])  # fmt: skip
    return Records("row", meta, x, np.repeat(odd[:, None], len(features), 1), schema), quarantine.rows


def first_file(path: Path, name: str | None) -> Path:
    """The table to read: `path`, or the file of that name in it; InputError where it is not there."""
    if name is None:
        if path.is_dir():
            raise InputError(f"{show(path)}: rows must be one table, got a folder; name it with file")
        return path
    file = path / name
    if not path.is_dir():
        raise InputError(f"{show(path)}: path must be a folder when file is set, got a file; leave file out")
    if not file.is_file() or not inside(path, file):
        names = [show(entry.name) for entry in entries(path)]
        raise InputError(f"{show(path)}: file must name a table in it, got '{show(name)}'; {closest(name, names)}")
    refuse_pickles(file)
    return file


def second_file(folder: Path, first: Path, name: str) -> Path:
    """The file of test_path in `folder`; InputError where it is none or the first."""
    file = watched(folder, name, "test_path", "name the first with file")
    if file.samefile(first):
        raise InputError(
            f"{show(name)}: test_path must be another file than {show(first)}; leave it out to draw a test"
        )
    return file


def check_columns(file: Path, table: pd.DataFrame, roles: Iterable[str], first: pd.DataFrame) -> None:
    """Raises InputError where a file lacks rows or a column that an option or the first file names."""
    for name in roles:
        if name not in table:
            raise InputError(
                f"{show(file)}: the file must have the column '{show(name)}'; "
                f"{closest(name, map(show, table.columns))}"
            )
    odd = [*(name for name in first if name not in table), *(name for name in table if name not in first)]
    if odd:
        raise InputError(
            f"{show(file)}: both files must have the same columns, '{show(odd[0])}' is in one only; "
            "drop or add it"
        )
    if not len(table):
        raise InputError(f"{show(file)}: a table must have rows, got a header alone; export it again")


def check_labels(
    files: list[tuple[Path, str]], tables: list[pd.DataFrame], label: str, marked: list[str]
) -> None:
    """Raises InputError for an anomalous value nobody has, no normals, values only the test file has."""
    found = [{canonical(value) for value in table[label] if value} for table in tables]
    everything, file = set().union(*found), show(files[0][0])
    listed = ", ".join(show(value, 40) for value in sorted(everything)[:20])
    for value in marked:
        if value not in everything:
            raise InputError(
                f"{file}: column '{show(label)}' must hold the anomalous value '{show(value)}', "
                f"got {listed}; mend anomalous"
            )
    cases = {value.casefold() for value in marked}
    alike = sorted(value for value in everything - set(marked) if value.casefold() in cases)
    if alike:
        raise InputError(
            f"{file}: column '{show(label)}' must write an anomalous value in one way or list all, got "
            f"'{show(alike[0])}' beside {', '.join(map(show, marked))}; list it under anomalous"
        )
    if everything <= set(marked):
        raise InputError(
            f"{file}: column '{show(label)}' must hold normal values too, all of {listed} are "
            "anomalous; mend anomalous"
        )
    unseen = sorted(found[-1] - found[0] - set(marked))
    if unseen:
        row = next(i for i, v in tables[-1][label].items() if v and canonical(v) == unseen[0])
        raise InputError(
            f"{show(files[-1][0])} row {row}: a label must be one of the first file's or anomalous, got "
            f"'{show(unseen[0])}'; list it under anomalous or drop its rows"
        )


def row_ids(
    text: pd.DataFrame, id: str | None, files: list[tuple[Path, str]], line: np.ndarray, names: list[str]
) -> list[str]:
    """The ids: those of column `id`, which must be unique and filled, else `<file>-<row>`."""
    if id is None:
        stem = {file: file.name.split(".")[0] for file, _ in files}
        if len(set(stem.values())) < len(stem):
            stem = {file: f"{stem[file]}-{given}" for file, given in files}
        return [f"{stem[file]}-{n}" for (file, _), n in zip(files, line)]
    values = text[id].tolist()
    first: dict[str, int] = {}
    for row, value in enumerate(values):
        if not value:
            raise InputError(f"{names[row]}: column '{show(id)}' must have an id, got an empty cell; fill it")
        if first.setdefault(value, row) != row:
            raise InputError(
                f"{names[row]}: ids must be unique, got '{show(value)}' as in {names[first[value]]}; "
                "mend it or use another column"
            )
    return values


def row_kinds(
    text: pd.DataFrame, odd: np.ndarray, kind: str | None, label: str, names: list[str]
) -> list[str]:
    """The kind of every row: "normal", or that of `kind`, or the anomalous value where there are several."""
    if kind is not None:
        named = [spelled(value) or "anomaly" for value in text[kind]]
    else:
        several = len({canonical(value) for value in text[label][odd]}) > 1
        named = list(map(spelled, text[label])) if several else ["anomaly"] * len(text)
    taken = next((row for row, value in enumerate(named) if odd[row] and value == "normal"), None)
    if taken is not None:
        raise InputError(
            f"{names[taken]}: the kind of an anomaly must not be 'normal'; mend its label or kind"
        )
    return [value if marked_row else "normal" for value, marked_row in zip(named, odd)]
