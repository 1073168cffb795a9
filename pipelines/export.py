"""The command export: record stores as files that other tools read, all of them or none."""

from __future__ import annotations

import inspect
import os
import shlex
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.atomic import atomic_dir, files, human
from data.errors import SettingsError, closest
from pipelines.stage import Terminated, diagnose, listen, one_line, progress, tell

if TYPE_CHECKING:
    from data.records import Records

PIECE = 64  # records between two looks at the progress
SHAPES = ("rle", "polygon")
BY_REGION = ("coco", "yolo-seg", "labelstudio")  # formats in which an anomaly is what has a region
SOME = 5  # ids told
NO_TRAINING = ("mvtec", "anomalib-folder")  # formats that count every anomaly as a test record


def run(stores: list[Path], out: Path, *, to: str, shape: str | None, force: bool) -> int:
    """The exit code of the command; what was written, or the failure, is told in one line."""
    listen()
    options = [*(["--shape", shape] if shape else []), *(["--force"] if force else [])]
    command = shlex.join(["oddsmith", "export", *map(str, stores), str(out), "--to", to, *options])
    try:
        print(export(stores, out, to=to, shape=shape, force=force), flush=True)
    except (KeyboardInterrupt, Terminated) as stop:
        tell(f"export: interrupted, nothing was changed; run again: {command}")
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    except Exception as error:
        if os.environ.get("ODDSMITH_DEBUG"):
            traceback.print_exc()
        code, message = diagnose(error, command)
        tell(f"export: {one_line(message)}")
        return code
    return 0


def export(stores: list[Path], out: Path, *, to: str, shape: str | None = None, force: bool = False) -> str:
    """Writes the records of all stores to `out` and tells what it wrote.

    SettingsError: unknown format, one that does not fit the modality or the option, an `out` that may not be replaced.
    """
    from data.exporters import EXPORTERS
    from data.exporters.survey import Survey
    from data.records import iter_store
    from data.sources.common import show

    if to not in EXPORTERS:
        raise SettingsError(f"--to: unknown format '{to}'; {closest(to, EXPORTERS)}")
    survey = Survey.of(stores)
    write = writer(EXPORTERS, to, survey.modality, shape)
    check_out(out, stores, force)
    out = out.resolve()
    bare: list[str] = []
    chunks = noting(bare, (chunk for store in stores for chunk in iter_store(store)))
    with atomic_dir(out) as folder:
        write(folder, watched(chunks, survey.records, f"export {to}"), survey)
        written = files(folder)
        size = sum(file.stat().st_size for file in written)
    if bare:
        held = f", which {to} holds as normal" if to in BY_REGION else ""
        some = ", ".join([*map(show, bare[:SOME]), *([".."] if len(bare) > SOME else [])])
        tell(f"export: anomalies with an empty mask{held}: {len(bare)} ({some})")
    if survey.synthetic and to in NO_TRAINING:
        tell(f"export: in {to} every anomaly is a test record, {survey.synthetic - survey.twins} synthetic ones too; "
             "measure on real ones alone (synthetic in provenance.csv)")  # fmt: skip
        if survey.twins:
            tell(f"export: {survey.twins} synthetic normals, twins of generated anomalies, are among those for "
                 "training; leave them out for methods that learn from normals alone")  # fmt: skip
    return (f"{out}: {survey.records} records, {survey.anomalies} of them anomalous, {survey.synthetic} synthetic, "
            f"as {to} in {len(written)} file{'s' if len(written) > 1 else ''}, {human(size)}")  # fmt: skip


def noting(bare: list[str], chunks: Iterable[Records]) -> Iterator[Records]:
    """The records as they come; the ids of anomalies without a marked element are put into `bare`."""
    for chunk in chunks:
        bare += [name for name, label, mask in zip(chunk.meta["id"], chunk.meta["label"], chunk.mask)
                 if label and not mask.any()]  # fmt: skip
        yield chunk


def writer(exporters: dict, to: str, modality: str, shape: str | None) -> Callable:
    """The writer of a format for a modality, with `shape` where it is given."""
    if modality not in exporters[to]:
        fit = [name for name, writers in exporters.items() if modality in writers]
        raise SettingsError(f"--to: {to} holds {' or '.join(exporters[to])} records, got {modality}; "
                            f"choose from {', '.join(fit)}")  # fmt: skip
    write = exporters[to][modality]
    if shape is None:
        return write
    if shape not in SHAPES:
        raise SettingsError(f"--shape: unknown shape '{shape}'; {closest(shape, SHAPES)}")
    if "shape" not in inspect.signature(write).parameters:
        raise SettingsError(f"--shape: {to} knows no choice of shape, got '{shape}'; leave it out")
    return partial(write, shape=shape)


def check_out(out: Path, stores: list[Path], force: bool) -> None:
    """SettingsError where `out` holds something that would be lost and was not given up by --force."""
    place, stores = out.resolve(), [store.resolve() for store in stores]
    for kept in (Path.cwd(), Path.home(), *stores):
        if place == kept or place in kept.parents:
            raise SettingsError(f"{out}: the folder to write is replaced and so must not hold {kept}; choose another")
    if any(store in place.parents for store in stores):
        raise SettingsError(f"{out}: the folder to write must not lie in a record store; choose another")
    if place.exists() and not place.is_dir():
        raise SettingsError(f"{out}: the folder to write must not be a file; choose another")
    held = len(list(place.iterdir())) if place.is_dir() else 0
    if held and not force:
        raise SettingsError(f"{out}: the folder to write must be new or empty, got one of {held} entries; "
                            "choose another, or add --force to replace it and all it holds")  # fmt: skip


def watched(chunks: Iterable[Records], total: int, label: str) -> Iterator[Records]:
    """The records in small pieces, with a line now and then of how far they are."""
    with progress(total, label) as bar:
        for chunk in chunks:
            for start in range(0, len(chunk), PIECE):
                piece = chunk.take(range(start, min(start + PIECE, len(chunk))))
                yield piece
                bar.advance(len(piece))
