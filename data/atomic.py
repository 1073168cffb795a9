"""Files and folders that appear whole or not at all, whatever kills the writer."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT)
MANY = 100  # files and folders that are synced one by one at most


@contextmanager
def atomic_dir(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """An empty temporary sibling that becomes `path` when the block ends well, and is removed when it does not.

    durable: down on the disk before it does. ResourceError where the disk gets full.
    """
    path = Path(path)
    temporary = make_sibling(path)
    temporary.mkdir()
    with cleared(temporary, path):
        yield temporary
        if durable:
            sync_tree(temporary)
        replace(temporary, path)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write, which becomes the file `path` when the block ends well."""
    path = Path(path)
    temporary = make_sibling(path)
    with cleared(temporary, path):
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def make_sibling(path: Path) -> Path:
    """The temporary name beside `path`; what killed runs left there under such a name is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        owner = stale.name.split(".")[-2]
        if not (owner.isdigit() and owner != str(os.getpid()) and alive(int(owner))):
            remove(stale)
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
    try:
        os.replace(temporary, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
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


def human(size: float) -> str:
    """A size in bytes as people read it: '3.2 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
