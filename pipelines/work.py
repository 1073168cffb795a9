"""Work that survives a kill: artefacts appear whole or not at all, and finished units of a stage are not done twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import ResourceError

ROOT = Path(".work")
MANIFEST = ".unit.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
MANY = 100  # files and folders that are synced one by one at most


@contextmanager
def atomic_dir(path: Path, *, need: int = 0) -> Iterator[Path]:
    """An empty temporary sibling that becomes `path` when the block ends well, and is removed when it does not.

    need: bytes that must be free before the work starts. ResourceError where the disk is or gets full.
    """
    path = Path(path)
    temporary = make_sibling(path, need)
    temporary.mkdir()
    with cleared(temporary, path):
        yield temporary
        sync_tree(temporary)
        replace(temporary, path)


@contextmanager
def atomic_file(path: Path, *, need: int = 0) -> Iterator[Path]:
    """A temporary sibling to write, which becomes the file `path` when the block ends well."""
    path = Path(path)
    temporary = make_sibling(path, need)
    with cleared(temporary, path):
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def make_sibling(path: Path, need: int) -> Path:
    """The temporary name beside `path`; what killed runs left there under such a name is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        owner = stale.name.split(".")[-2]
        if not (owner.isdigit() and owner != str(os.getpid()) and alive(int(owner))):
            remove(stale)
    free = shutil.disk_usage(path.parent).free
    if need > free:
        again = "make room and run the same command again"
        raise ResourceError(f"{path}: needs {human(need)}, free {human(free)}; {again}")
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def cleared(temporary: Path, path: Path) -> Iterator[None]:
    """Removes `temporary` on any error, and tells a full disk with what had been written and what is free."""
    try:
        yield
    except BaseException as error:
        written = sum(f.stat().st_size for f in files(temporary)) if temporary.exists() else 0
        remove(temporary)
        if isinstance(error, OSError) and error.errno in FULL:
            free = shutil.disk_usage(path.parent).free
            raise ResourceError(
                f"{path}: disk full, needs more than {human(written)}, free {human(free)} without it; "
                "make room and run the same command again"
            ) from error
        raise


def replace(temporary: Path, path: Path) -> None:
    """Put a folder in the place of another; whoever looks sees the old, for a moment nothing, then the new."""
    old = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
    if path.is_symlink() or path.exists():
        os.replace(path, old)
    os.replace(temporary, path)
    sync(path.parent)
    remove(old)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bytes and names down on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """All files and folders below `path` down on the disk; many at once, as one by one they cost milliseconds each."""
    found = [path, *(one for one in path.rglob("*") if one.exists())]
    if len(found) > MANY:
        return os.sync()
    for one in found:
        sync(one)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def files(path: Path) -> list[Path]:
    """All files of a folder, or the file itself, sorted by name; byte-code is none."""
    found = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sorted(f for f in found if "__pycache__" not in f.parts)


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
    def unit(self, unit: str, *, need: int = 0) -> Iterator[Path]:
        """A folder to fill; committed with the hashes of its files when the block ends well."""
        with atomic_dir(self.path(unit), need=need) as folder:
            yield folder
            (folder / MANIFEST).write_text(json.dumps(manifest(folder), sort_keys=True))

    def finished(self) -> list[str]:
        """Names of the units on disk, sorted."""
        found = (f.parent.relative_to(self.units).as_posix() for f in self.units.rglob(MANIFEST))
        return sorted(unit for unit in found if not any(p.endswith(".tmp") for p in unit.split("/")))

    def assemble(self, out: Path, units: Iterable[str] | None = None) -> None:
        """Make `out` of the units (default: all), each a folder of its name.

        RuntimeError where one is missing or torn.
        """
        units = self.finished() if units is None else list(units)
        with atomic_dir(out) as target:
            for unit in units:
                if not self.done(unit):
                    raise RuntimeError(f"{self.path(unit)}: unit must be done before it is assembled")
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


def human(size: float) -> str:
    """A size in bytes as people read it: '3.2 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
