"""Work that survives a kill: finished units of a stage are not done twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.atomic import atomic_dir, files, remove
from data.errors import InputError

ROOT = Path(".work")
MANIFEST = ".unit.json"


def scripts(path: Path) -> list[Path]:
    """All files of a code folder, or the file itself: `files` without the raw data that may lie below."""
    if path.is_dir():
        kept = (p for p in path.iterdir() if p.name not in ("__pycache__", "raw"))
        return sorted(f for p in kept for f in scripts(p))
    return files(path)


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def manifest(path: Path, found: Callable[[Path], list[Path]] = files) -> dict[str, str]:
    """{name below `path`: sha256} of all its files, or those that are `found`."""
    return {f.relative_to(path).as_posix(): sha256(f) for f in found(path)}


def fingerprint(settings: Any, inputs: Iterable[Path] = (), code: Iterable[Path] = ()) -> str:
    """16 hex digits that change with the settings, the contents of input files or folders, or the code.

    settings: a pydantic model or anything JSON can hold. A missing path counts as empty. Of code folders what lies in
    raw/ does not count.
    """
    parts = {"settings": settings}
    for name, paths, found in (("inputs", inputs, files), ("code", code, scripts)):
        parts[name] = {str(p): sha256(Path(p)) if Path(p).is_file() else manifest(Path(p), found) for p in paths}
    text = json.dumps(parts, sort_keys=True, default=lambda o: o.model_dump())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Work:
    """Resumable units of a stage, `<root>/<stage>/<dataset>/<fingerprint>/<unit>/`; as a context, gone after success.

        with Work("generate-r1", "textures", fingerprint(...)) as work:
            for unit in units:
                if not work.done(unit):
                    with work.unit(unit) as folder:
                        ...write files...
            work.assemble(out)

    A unit's name may hold `/`. One stage of one data set runs at a time (the stage's lock sees to it).
    """

    def __init__(self, stage: str, dataset: str, fingerprint: str, *, root: Path | None = None):
        self.home = (root or ROOT) / stage / dataset
        self.folder = self.home / fingerprint
        self.units, self.kept = self.folder / "units", self.folder / "scratch"

    def path(self, unit: str) -> Path:
        """The folder of a unit, there once it is done."""
        return self.units / unit

    def scratch(self, name: str) -> Path:
        """A folder for checkpoints, kept over kills and not part of what is assembled."""
        folder = self.kept / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done(self, unit: str) -> bool:
        """Whether a unit is there and whole; a torn one is named on stderr, removed, and so to be done again."""
        folder = self.path(unit)
        if not folder.exists():
            return False
        try:
            note = json.loads((folder / MANIFEST).read_text())
            found = manifest(folder)
            found.pop(MANIFEST)
            torn = sorted(name for name in {**note, **found} if note.get(name) != found.get(name))
        except (OSError, ValueError, TypeError):
            torn = [MANIFEST]
        if torn:
            print(f"{folder}: {', '.join(torn)} torn; this unit is done again", file=sys.stderr, flush=True)
            remove(folder)
        return not torn

    @contextmanager
    def unit(self, unit: str) -> Iterator[Path]:
        """A folder to fill; committed with the hashes of its files when the block ends well."""
        with atomic_dir(self.path(unit)) as folder:
            yield folder
            (folder / MANIFEST).write_text(json.dumps(manifest(folder), sort_keys=True))

    def finished(self) -> list[str]:
        """Names of the units on disk, sorted."""
        found = (f.parent.relative_to(self.units).as_posix() for f in self.units.rglob(MANIFEST))
        return sorted(unit for unit in found if not any(p.endswith(".tmp") for p in unit.split("/")))

    def assemble(self, out: Path, units: Iterable[str] | None = None) -> None:
        """Make `out` of the units (default: all), each a folder of its name; InputError names those that lack."""
        units = self.finished() if units is None else list(units)
        lacking = [unit for unit in units if not self.done(unit)]
        if lacking:
            names = ", ".join(lacking)
            raise InputError(f"{self.units}: all units must be done, lacks {names}; run the same command again")
        with atomic_dir(out) as target:
            for unit in units:
                for file in files(self.path(unit)):
                    if file.name != MANIFEST or file.parent != self.path(unit):
                        place = target / unit / file.relative_to(self.path(unit))
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(file, place)

    def clean(self) -> None:
        """Remove the units, also those of other fingerprints: their settings are no longer in use."""
        remove(self.home)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind, value, trace) -> None:
        if kind is None:
            self.clean()
