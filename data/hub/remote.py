"""The one commit that makes a Hub repository hold a folder: nothing of others is lost, nothing is sent twice."""

from __future__ import annotations

import hashlib
import random
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import OddsmithError, RemoteError, SettingsError
from data.hub import card
from data.hub.folder import CARD, HEADER, SUMS

ATTEMPTS = 4  # of everything; the client of the Hub repeats an upload that fails by itself, too
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0  # seconds; doubled each time, of which between half and all is waited
LONGEST_ASKED = 120.0  # seconds a Retry-After header may ask for
TIMEOUT = 60.0  # seconds without a byte
AGAIN = {408, 409, 412, 425, 429, 500, 502, 503, 504}  # 409, 412: somebody else committed in between
SHARD = re.compile(r"data/(train|validation|test)-[^/]*\.parquet")  # what the card's configuration would load
REMOVABLE = re.compile(rf"{SHARD.pattern}|adapters/.*")  # what a later publish may no longer have
MESSAGE = "Publish with oddsmith"


@dataclass
class State:
    """What a repository holds at its head."""

    head: str | None
    private: bool
    files: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # path: (git hash, SHA-256 where LFS)
    card: str | None = None
    ours: dict[str, str] = field(default_factory=dict)  # path: SHA-256, as the last publish wrote them


@dataclass(frozen=True)
class Pushed:
    """The commit at the head after a push; `changed` and `removed` are empty where there was nothing to do."""

    commit: str
    changed: list[str]
    removed: list[str]
    private: bool


def connect(token: str | None = None) -> Any:
    """The Hub's client, which gives up on a connection that is silent for a minute; it finds the token by itself."""
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging
    from huggingface_hub.utils._http import default_client_factory

    def client():
        made = default_client_factory()
        made.timeout = TIMEOUT
        return made

    set_client_factory(client)
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings show signed addresses of the storage
    return HfApi(token=token)


def push(api: Any, folder: Path, repo: str, *, private: bool) -> Pushed:
    """Makes data set `repo` hold the folder's files, in at most one commit on top of what is there.

    Files of others stay, and so does what people wrote around our part of the card; our own files that are no longer
    part of the data set go. RemoteError, and no commit, where the Hub refuses, cannot be reached, or holds a file of
    somebody else's under a name of ours; SettingsError where the repository is public and must not be.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _push(api, folder, repo, private)
        except OddsmithError:
            raise
        except Exception as error:
            if not passing(error):
                if isinstance(error, OSError) and status(error) is None:  # of this machine: a full disk, a lost file
                    raise
                raise RemoteError(f"{repo}: {advice(error)}") from error
            if attempt == ATTEMPTS:
                raise RemoteError(
                    f"{repo}: the Hub must answer, got {said(error)} after {ATTEMPTS} attempts; nothing was committed, "
                    "what was uploaded is used next time: run it again later"
                ) from error
            time.sleep(seconds(attempt, error))
    raise AssertionError("the last attempt returns or raises")


def _push(api: Any, folder: Path, repo: str, private: bool) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    state = read(api, repo, private)
    if private and not state.private:
        raise SettingsError(
            f"publish.private: is true, but {repo} is public; make it private on the Hub, or set private: false"
        )
    with tempfile.TemporaryDirectory() as place:
        files = {f.relative_to(folder).as_posix(): f for f in sorted(folder.rglob("*")) if f.is_file()}
        merged = Path(place) / CARD
        theirs = state.card if CARD in state.files else None
        merged.write_bytes(card.merge(files[CARD].read_text("utf-8"), theirs, f"{repo}/{CARD}").encode())
        files[CARD] = merged
        check_strangers(repo, state, set(files))
        changed, removed = difference(files, state)
        if not changed and not removed:
            return Pushed(state.head or "", [], [], state.private)
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(files[name])) for name in changed]
        api.preupload_lfs_files(repo, additions=added, repo_type="dataset", free_memory=False)
        operations = [*added, *(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in removed)]
        try:
            made = api.create_commit(repo, operations, commit_message=MESSAGE, repo_type="dataset",
                                     parent_commit=state.head)  # fmt: skip
        except Exception as error:
            landed = read(api, repo, private) if passing(error) else state
            if landed.head == state.head or difference(files, landed) != ([], []):
                raise
            return Pushed(landed.head or "", changed, removed, landed.private)  # only its answer got lost
        return Pushed(made.oid, changed, removed, state.private)


def read(api: Any, repo: str, private: bool) -> State:
    """What the repository holds; it is made where it is not there yet."""
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        info = api.repo_info(repo, repo_type="dataset")
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        info = api.repo_info(repo, repo_type="dataset")
    state = State(info.sha, bool(info.private))
    if info.sha is None:
        return state
    tree = api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type="dataset")
    state.files = {f.path: (f.blob_id, f.lfs.sha256 if f.lfs else None) for f in tree if isinstance(f, RepoFile)}
    state.card = fetch(api, repo, state, CARD)
    first, *lines = (fetch(api, repo, state, SUMS) or "").splitlines() or [""]
    if first == HEADER:
        state.ours = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}
    return state


def fetch(api: Any, repo: str, state: State, name: str) -> str | None:
    """The text of a file at the head, None where there is none."""
    if name not in state.files:
        return None
    with tempfile.TemporaryDirectory() as place:
        path = api.hf_hub_download(repo, name, repo_type="dataset", revision=state.head, local_dir=place)
        return Path(path).read_bytes().decode("utf-8", "replace")


def check_strangers(repo: str, state: State, wanted: set[str]) -> None:
    """RemoteError where a file that we did not write has a name of ours, or would be loaded as a part of a split."""
    foreign = set(state.files) - set(state.ours) - ({CARD, SUMS} if state.ours else {CARD})
    odd = sorted((foreign & wanted) | {name for name in foreign if SHARD.fullmatch(name)})
    if odd:
        raise RemoteError(
            f"{repo}: must hold no data of others under our names, got {odd[0]}; move it, or take another repository"
        )


def difference(files: dict[str, Path], state: State) -> tuple[list[str], list[str]]:
    """(names that the repository lacks or holds otherwise, names of ours that are no longer wanted and unchanged)."""
    changed = [name for name, path in files.items() if not same(path, state.files.get(name))]
    gone = [name for name in state.ours if name in state.files and name not in files and REMOVABLE.fullmatch(name)]
    return changed, [name for name in gone if state.files[name][1] in (None, state.ours[name])]


def same(path: Path, remote: tuple[str, str | None] | None) -> bool:
    """Whether a local file is what the repository holds."""
    if remote is None:
        return False
    blob, large = remote
    data = path.read_bytes() if large is None else b""
    if large is None:  # git's own hash
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == blob
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == large


# ---------------------------------------------------------------- what went wrong


def chain(error: BaseException | None) -> list[BaseException]:
    """An error and what caused it."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def status(error: BaseException) -> int | None:
    """The HTTP status behind an error, None where there was no answer."""
    answers = [getattr(e, "response", None) for e in chain(error)]
    return next((answer.status_code for answer in answers if answer is not None), None)


def passing(error: BaseException) -> bool:
    """Whether trying again may help: the Hub was busy or broken, cut the line, or somebody committed in between."""
    from httpx2 import TransportError

    code = status(error)
    broken = (TransportError, ConnectionError, TimeoutError, RuntimeError)  # the last: hf_xet's own
    return code in AGAIN if code is not None else any(isinstance(e, broken) for e in chain(error))


def seconds(attempt: int, error: BaseException) -> float:
    """How long to wait after attempt 1, 2, ..: doubling, jittered, and at least what the Hub asks for."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
    answers = [getattr(e, "response", None) for e in chain(error)]
    asked = next((answer.headers.get("Retry-After", "") for answer in answers if answer is not None), "")
    return max(random.uniform(longest / 2, longest), min(float(asked) if asked.isdigit() else 0.0, LONGEST_ASKED))


def said(error: BaseException) -> str:
    """One short line of an error, without addresses: a signed one is a key."""
    code = status(error)
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"https?://\S+|hf_\w+", "(hidden)", text)
    return f"HTTP {code}" if code in AGAIN else (text if len(text) <= 200 else text[:199] + "…")


def advice(error: BaseException) -> str:
    """What to do about an error that will not pass by itself."""
    if status(error) in (401, 403):
        return (f"the token must be one that may write here, got HTTP {status(error)}; "
                "set HF_TOKEN, or log in with `hf auth login`")  # fmt: skip
    return f"the Hub must take it, got {said(error)}"
