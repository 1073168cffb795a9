"""File and folder names from any text: safe on every file system, never two the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from data.sources.pixels import SUFFIXES

MOST = 100  # bytes of a name before what makes it unique and its ending; file systems take 143 to 255
KEPT = re.compile(  # device names of Windows, with any ending, and what file managers leave behind
    r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?|thumbs\.db|desktop\.ini|__macosx", re.IGNORECASE
)


def clean(text: str) -> str:
    """The text as one name: its letters, digits, - _ and . in composed form, "_" for all else, no dotfile."""
    text = unicodedata.normalize("NFC", text)
    name = "".join(c if c in "-_." or unicodedata.category(c)[0] in "LMN" else "_" for c in text)
    name = name.encode()[:MOST].decode(errors="ignore").strip("-.") or "unnamed"
    return f"_{name}" if KEPT.fullmatch(name) else name


def fold(name: str) -> str:
    """What two names have in common where a file system takes them for one: letter case and composition."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class Names:
    """The names given out so far; `new` gives every further text one of its own."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = {fold(name) for name in taken}

    def new(self, text: str) -> str:
        """`clean(text)`, with eight hex digits of the text's hash behind it where that is taken."""
        name, tries = clean(text), 0
        while fold(name) in self.taken:
            tries += 1
            digest = hashlib.sha256(f"{tries} {text}".encode()).hexdigest()
            name = f"{clean(text)}-{digest[:8]}"
        self.taken.add(fold(name))
        return name


def stem(id: str) -> str:
    """An id without the ending of the image file it may be named after."""
    suffix = PurePosixPath(id).suffix
    return id.removesuffix(suffix) if suffix.lower() in SUFFIXES else id
