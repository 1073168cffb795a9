"""Recordings (train, test, test_label) or rows (X, y) from .npz files, never unpickling anything."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import numpy as np

from data.errors import InputError, SettingsError, closest
from data.records import Records, check_names, make_meta
from data.sources.choose import agreeing, check_options, limited
from data.sources.common import MOST_BYTES, Quarantine, call, content_groups, entries, inside, show
from data.sources.recording import segments_of
from data.sources.types import check_finite, numeric_schema

ENDS = ("exclusive", "inclusive")


def read(path: Path | str, *, modality: str, **options) -> tuple[Records, list[dict]]:
    """(records, quarantine) of .npz files; options: see read_rows and read_series."""
    return call({"row": read_rows, "series": read_series}, path, modality, options, "npz")


def load(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of a file, which must hold `names`; InputError for object arrays, other files and bombs."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MOST_BYTES:
                raise InputError(
                    f"{show(path)}: arrays must unpack to at most {MOST_BYTES >> 30} GiB, got "
                    f"{size >> 30}; split the file"
                )
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for name in file.files:
                try:
                    arrays[name] = file[name]
                    if not isinstance(arrays[name], np.ndarray):
                        raise ValueError("a file that is no array")
                except ValueError as error:
                    raise InputError(
                        f"{show(path)}, array '{show(name)}': arrays must be plain numbers or text, got "
                        f"{show(error, 80)}; save it without objects"
                    ) from error
                except MemoryError as error:
                    raise InputError(
                        f"{show(path)}, array '{show(name)}': arrays must fit into memory, got one whose header says "
                        "more than there is; save it again"
                    ) from error
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(
            f"{show(path)}: the file must be a whole .npz, got {show(error, 80)}; copy it again"
        ) from error
    for name in names:
        if name not in arrays:
            raise InputError(
                f"{show(path)}: the file must hold the array '{name}', got "
                f"{', '.join(map(show, arrays))}; mend it"
            )
    return arrays


def numbers(array: np.ndarray, axes: int, at: str) -> np.ndarray:
    """The array as float64; InputError where it is no numbers or has other axes."""
    if array.dtype.kind not in "biuf" or array.ndim != axes:
        raise InputError(
            f"{at}: the array must hold numbers along {axes} axes, got {array.dtype} of shape "
            f"{array.shape}; mend it"
        )
    return np.ascontiguousarray(array, np.float64)


def binary(array: np.ndarray, at: str) -> np.ndarray:
    """The array as truth values; InputError for anything but 0 and 1."""
    odd = ~np.isin(array, (0, 1)) if array.dtype.kind in "biuf" else np.ones(array.shape, bool)
    if odd.any():
        row = int(np.argwhere(odd)[0][0])
        raise InputError(f"{at} row {row}: a label must be 0 or 1, got {show(array[row], 40)}; mend it")
    return array.astype(bool)


def texts(arrays: dict[str, np.ndarray], names: tuple[str, ...], default: list[str], at: str) -> list[str]:
    """The first of the text arrays `names` that is there, as long as the default; else the default."""
    found = next((arrays[name] for name in names if name in arrays), None)
    if found is None:
        return default
    found = [str(name) for name in np.atleast_1d(found)]
    if len(found) != len(default) or len(set(found)) != len(found):
        raise InputError(
            f"{at}: names must be unique, one a column ({len(default)}), got {len(found)}; mend them"
        )
    return found


# ---------------------------------------------------------------- rows


def read_rows(
    path: Path, *, conflicts: str = "keep", limit: int | None = None, strict: bool = False
) -> tuple[Records, list[dict]]:
    """Records of X (N, D) and y (N,) 0/1; names from a text array `columns`, else x1..xD; NaN is missing.

    conflicts: "drop" leaves out rows that others of the same features contradict. limit: most rows, drawn with
    a fixed seed, of normals and anomalies their share. An id is the file's name and the row in X.
    """
    check_options("npz", conflicts=conflicts, limit=limit)
    quarantine = Quarantine(strict)
    if path.is_dir():
        raise InputError(f"{show(path)}: rows must be one .npz file, got a folder; name the file")
    arrays = load(path, ["X", "y"])
    at = show(path.name)
    x, y = numbers(arrays["X"], 2, f"{at}, X"), binary(arrays["y"], f"{at}, y")
    if y.shape != (len(x),):
        raise InputError(f"{at}: y must have one label a row of X, got {y.shape} and {x.shape}; mend it")
    names = texts(arrays, ("columns", "feature_names"), [f"x{i + 1}" for i in range(x.shape[1])], at)
    check_names(names, show(path))
    check_finite(x, names, at)
    content = [row.tobytes() for row in x + 0.0]  # -0.0 is 0.0
    row = np.arange(len(x))
    if conflicts == "drop":
        row = row[agreeing(content, y, at, quarantine)]
    row = row[limited(y[row].tolist(), limit, at, quarantine)]
    x, y = x[row], y[row]
    frame, schema = numeric_schema(x, names, at)
    ids = [f"{path.stem}-{i}" for i in row]
    groups = content_groups(ids, [content[i] for i in row])
    meta = make_meta(len(x), id=ids, label=y.astype(np.int8), group=groups,
                     source=path.name, mask_source=np.where(y, "row", "").tolist(), given="")  # fmt: skip
    return Records("row", meta, frame, np.repeat(y[:, None], x.shape[1], 1), schema), quarantine.rows


# ---------------------------------------------------------------- series


def read_series(
    path: Path, *, entities: list[str] | None = None, end: str = "exclusive", train_steps: int | None = None,
    strict: bool = False,
) -> tuple[Records, list[dict]]:  # fmt: skip
    """Two records an entity, `given` "train" and "test"; `path` is a file, or a folder of one an entity.

    train, test: (T, C); test_label (T,) or (T, C), train_label likewise; without train, test alone is `given`
    "". `<entity>_interpretation.json` lists {start, end, dims} of test, dims 1-based; without it a labelled
    step marks every channel. end: whether `end` itself belongs to a segment. entities: file names without
    .npz, all by default. train_steps: most steps of a train, the last ones, nearest to the test.
    """
    whole = isinstance(train_steps, int) and not isinstance(train_steps, bool)
    if train_steps is not None and not (whole and train_steps >= 1):
        raise SettingsError(
            f"source npz: train_steps must be a whole number of at least 1 step, got {show(train_steps, 60)}; mend it"
        )
    if end not in ENDS:
        raise SettingsError(
            f"source npz: end must be one of {', '.join(ENDS)}, got '{show(end)}'; {closest(str(end), ENDS)}"
        )
    quarantine = Quarantine(strict)
    parts = [part for file in pick(path, entities) for part in read_entity(file, end, train_steps, quarantine)]
    channels = parts[0]["channels"]
    for part in parts:
        if part["channels"] != channels:
            raise InputError(
                f"{show(part['id'])}: entities must have the same channels, got "
                f"{len(part['channels'])} and {len(channels)}; choose with entities"
            )
    names = ("id", "group", "given", "start", "label", "kind", "mask_source", "segments")
    meta = make_meta(len(parts), source=path.name, **{name: [part[name] for part in parts] for name in names})
    x, mask, time = ([part[name] for part in parts] for name in ("x", "mask", "time"))
    return Records("series", meta, x, mask, {"channels": channels}, time), quarantine.rows


def pick(path: Path, entities: list[str] | None) -> list[Path]:
    """The files to read; InputError names an entity that has none."""
    if not path.is_dir():
        return [path]
    files = {file.stem: file for file in entries(path) if file.suffix == ".npz"}
    for name in entities if entities is not None else files:
        if name not in files:
            raise InputError(
                f"{show(path)}: an entity must have a file, '{show(name)}' has none; "
                f"{closest(name, map(show, files))}"
            )
        if not inside(path, files[name]):
            raise InputError(
                f"{show(files[name])}: a link must stay inside the data, leads out; copy the file"
            )
    picked = [files[name] for name in dict.fromkeys(entities if entities is not None else files)]
    if not picked:
        raise InputError(f"{show(path)}: the folder must hold .npz files, found none; check source.path")
    return picked


def read_entity(path: Path, end: str, train_steps: int | None, quarantine: Quarantine) -> list[dict]:
    """The columns of meta, x, mask and time of an entity's parts, in order of time."""
    arrays = load(path, ["test"])
    at, start, parts = show(path.name), 0, []
    for given in ("train", "test"):
        if given not in arrays:
            continue
        x = numbers(arrays[given], 2, f"{at}, {given}")
        if not np.isfinite(x).all():
            row, channel = np.argwhere(~np.isfinite(x))[0]
            raise InputError(
                f"{at}, {given} row {row}, channel {channel + 1}: values must be finite, got "
                f"{x[row, channel]}; fill it"
            )
        channels = texts(arrays, ("channels", "columns"), [f"c{i + 1}" for i in range(x.shape[1])], at)
        mask = label_mask(arrays.get(f"{given}_label"), x.shape, f"{at}, {given}_label")
        spans = path.with_name(f"{path.stem}_interpretation.json")
        if given == "test" and spans.is_file():
            mask = interpreted(spans, mask, x.shape, end, quarantine)
        if given == "test" and mask is None:
            raise InputError(
                f"{at}: test must have labels, found no test_label nor {show(spans.name)}; add one"
            )
        mask = np.zeros(x.shape, bool) if mask is None else mask
        if given == "train" and train_steps is not None and len(x) > train_steps:
            told = f"train's first steps are left out by train_steps, got {len(x)} for {train_steps}"
            quarantine.note(path.name, told)
            start += len(x) - train_steps
            x, mask = x[-train_steps:], mask[-train_steps:]
        segments = segments_of(np.where(mask.any(axis=1), "anomaly", "").astype(object))
        odd = int(mask.any())
        parts.append({
            "id": f"{path.stem}-{given}", "group": path.stem, "start": start,
            "given": given if "train" in arrays else "",
            "label": odd, "kind": "anomaly" if odd else "normal", "mask_source": "file" if odd else "",
            "segments": json.dumps(segments), "x": x, "mask": mask, "channels": channels,
            "time": np.arange(start, start + len(x), dtype=np.int64)})  # fmt: skip
        start += len(x)
    return parts


def label_mask(label: np.ndarray | None, shape: tuple[int, int], at: str) -> np.ndarray | None:
    """(T, C) truth values of labels (T,) or (T, C)."""
    if label is None:
        return None
    label = binary(label, at)
    if label.shape not in (shape, shape[:1]):
        raise InputError(f"{at}: there must be one label a step, got {label.shape} for {shape}; mend it")
    return label if label.ndim == 2 else np.repeat(label[:, None], shape[1], 1)


def interpreted(
    path: Path, label: np.ndarray | None, shape: tuple[int, int], end: str, quarantine: Quarantine
) -> np.ndarray:
    """(T, C) mask of the channels named for each segment; a labelled step without one marks every channel.

    InputError where the other reading of `end` fits the labels exactly and this one does not.
    """
    try:
        spans = [
            (int(s["start"]), int(s["end"]), [int(d) for d in s["dims"]])
            for s in json.loads(path.read_bytes())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{show(path.name)}: the file must list {{start, end, dims}}, got {show(repr(error), 80)}; "
            "mend it"
        ) from error
    steps, width = shape
    masks = {}
    for reading in ENDS:
        more = int(reading == "inclusive")
        masks[reading] = np.zeros(shape, bool)
        for number, (low, high, dims) in enumerate(spans, 1):
            fits = 0 <= low < high + more <= steps and dims and min(dims) >= 1 and max(dims) <= width
            if reading == end and not fits:
                raise InputError(
                    f"{show(path.name)} segment {number}: it must lie in 0..{steps} and name channels "
                    f"1..{width}, got {low} to {high}, {show(dims, 40)}; mend it"
                )
            masks[reading][low : high + more, [d - 1 for d in dims if 1 <= d <= width]] = True
    mask = masks.pop(end)
    if label is None:
        return mask
    labelled = label.any(axis=1)
    if (mask.any(axis=1) != labelled).any():
        ((other, turned),) = masks.items()
        if (turned.any(axis=1) == labelled).all():
            raise InputError(
                f"{show(path.name)}: segments must agree with test_label, they do with end: {other}; "
                f"set end to {other}"
            )
        extra = mask.any(axis=1) & ~labelled
        if extra.any():
            raise InputError(
                f"{show(path.name)}: segments must agree with test_label, step {int(extra.argmax())} is "
                "in a segment and labelled normal; mend one"
            )
        bare = labelled & ~mask.any(axis=1)
        quarantine.note(
            path.name, f"{int(bare.sum())} labelled steps lie in no segment; every channel marked"
        )
        mask[bare] = label[bare]
    return mask
