"""What every reader shares: options checked by name, the quarantine, paths that stay inside their folder."""

from __future__ import annotations

import inspect
import os
import unicodedata
from collections.abc import Callable, Hashable
from pathlib import Path

from data.errors import InputError, SettingsError, closest

JUNK = {"thumbs.db", "desktop.ini", "__macosx"}  # left by file managers; passed over like dotfiles
REFUSED = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"}  # may hold pickled code
MOST_BYTES = 8 * 2**30  # of a decompressed file: an archive bomb ends here


def call(readers: dict[str, Callable], path: Path | str, modality: str, options: dict, reader: str):
    """What the reader of `modality` returns; SettingsError names an unknown modality or option, or a value that is none
    of its option's."""
    if modality not in readers:
        raise SettingsError(f"source {reader}: unknown modality '{modality}'; {closest(modality, readers)}")
    read = readers[modality]
    known = [name for name, p in inspect.signature(read).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise SettingsError(f"source {reader}: unknown option '{option}'; {closest(option, known)}")
    parameters = inspect.signature(read).parameters
    options = {name: fitted(reader, name, value, str(parameters[name].annotation)) for name, value in options.items()}
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name in known and name not in options:
            raise SettingsError(f"source {reader}: option '{name}' must be given; it has no default")
    path = Path(path)
    refuse_pickles(path)
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{show(path)}: the path must be readable, got {error.strerror}") from error
    if not exists:
        raise InputError(f"{show(path)}: the path must exist, found nothing; check source.path")
    return read(path, **options)


def fitted(reader: str, name: str, value: object, kind: str) -> object:
    """The value of an option as the reader's annotation `kind` wants text or a list of it: one name alone is a list of
    one, a number is a name as it is written. Other kinds are the reader's own to check."""
    if value is None or not kind.startswith(("str", "list[str]")):
        return value
    several = kind.startswith("list") and isinstance(value, list | tuple)
    items = list(value) if several else [value]
    if not all(isinstance(item, str) or type(item) in (int, float) for item in items):
        what = "a list of names" if kind.startswith("list") else "text"
        raise SettingsError(f"source {reader}: option '{name}' must be {what}, got {show(value, 60)}; mend it")
    return list(map(str, items)) if kind.startswith("list") else str(value)


def refuse_pickles(path: Path) -> None:
    """Raises InputError for a kind of file that may run code when it is loaded."""
    if path.suffix.lower() in REFUSED:
        raise InputError(
            f"{show(path)}: files that may hold pickled code are refused, got '{path.suffix}'; "
            "save the arrays as .npz or .csv"
        )


class Quarantine:
    """Items left out and why; under `strict` the first one raises InputError instead."""

    def __init__(self, strict: bool) -> None:
        self.strict, self.rows = strict, []

    def add(self, item: object, reason: str) -> None:
        """Leaves `item` out. `reason`: rule and value, and the mend after a semicolon."""
        if self.strict:
            raise InputError(f"{show(item)}: {reason}")
        self.note(item, reason)

    def note(self, item: object, reason: str) -> None:
        """Records what was kept but changed, also under `strict`: the policy was asked for."""
        self.rows.append({"item": show(item), "reason": reason})


def show(item: object, most: int = 200) -> str:
    """The text of a name or a value on one line, without control characters or broken unicode."""
    text = str(item)
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )
    return text if len(text) <= most else text[:most] + "..."


def fit_name(name: str) -> str | None:
    """Why a file name cannot become an id, or None where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "the name must be valid unicode, got broken bytes; rename it"
    return None if name.isprintable() else "the name must not hold control characters; rename it"


def stem_key(name: str) -> str:
    """The stem of a file name as it is compared: the two ways to write an accent are one."""
    return unicodedata.normalize("NFC", Path(name).stem)


def inside(root: Path, path: Path) -> bool:
    """Whether the path, links followed, lies in the root."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def watched(folder: Path, name: str, option: str, mend: str) -> Path:
    """A second file, that `option` names in the folder `path`, which is what DVC watches; InputError where it is not
    there. mend: what is left to do once both files lie in a folder."""
    if not folder.is_dir():
        raise InputError(
            f"{show(folder)}: path must be a folder that holds {option} too, or a change of it would go unseen, got a "
            f"file; put both in a folder of their own and {mend}"
        )
    file = folder / name
    if not file.is_file() or not inside(folder, file):
        raise InputError(f"{show(name)}: {option} must name a file in {show(folder)}, found none; put it there")
    return file


def entries(folder: Path) -> list[Path]:
    """Sorted entries of a folder without dotfiles and file managers' junk; InputError if unreadable."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{show(folder)}: the folder must be readable, got {error.strerror}") from error
    return [path for path in found if not path.name.startswith(".") and path.name.lower() not in JUNK]


def content_groups(ids: list[str], contents: list[Hashable]) -> list[str]:
    """A group a record: the id of the first record of the same content, so that no split parts copies."""
    first: dict[Hashable, str] = {}
    return [first.setdefault(content, name) for name, content in zip(ids, contents)]
