"""A Hugging Face Hub on 127.0.0.1: the routes that publishing and loading a data set use, and faults on demand.

Repositories, commits and files live in memory. `*.parquet` and `*.safetensors` are large files (LFS), all else is not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

TOKEN = "hf_" + "t" * 30
LARGE = (".parquet", ".safetensors")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Blob:
    """A file: its bytes, and the hashes by which it is asked for."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def oid(self) -> str:
        """git's hash, of the pointer where the file is large."""
        text = self.data
        if self.large:
            head = "version https://git-lfs.github.com/spec/v1"
            text = f"{head}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()


@dataclass
class Repo:
    private: bool
    commits: list[tuple[str, str, dict[str, Blob]]] = field(default_factory=list)  # (hash, message, all files)

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, Blob]:
        return self.commits[-1][2]

    def commit(self, message: str, files: dict[str, Blob]) -> str:
        text = repr((message, len(self.commits), sorted((name, blob.oid) for name, blob in files.items())))
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), message, files))
        return self.head

    def at(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        if revision == "main":
            return self.head, self.files
        return next(((sha, files) for sha, _, files in self.commits if sha == revision), None)


@dataclass
class Fault:
    """What happens to requests of a method and path, `times` times, after `skip` that pass."""

    method: str
    path: re.Pattern
    times: int
    skip: int = 0
    status: int = 0  # answered instead of what was asked for
    headers: dict = field(default_factory=dict)
    reset: bool = False  # the line is cut after half of the body
    lost: bool = False  # the work is done, and the line cut before the answer
    before: Callable[[], None] | None = None  # called first


class Hub:
    """The server, running while it is a context; `log` has every request as (method, path)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # large files uploaded, by SHA-256
        self.log: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method: str, path: str, times: int = 1, **how) -> None:
        self.faults.append(Fault(method, re.compile(path), times, **how))

    def count(self, method: str, path: str) -> int:
        return sum(m == method and bool(re.search(path, p)) for m, p in self.log)

    def make(self, name: str, private: bool = True) -> Repo:
        """A repository with an initial commit, as the real one makes it."""
        repo = self.repos[name] = Repo(private)
        repo.commit("initial commit", {".gitattributes": Blob(b"*.parquet filter=lfs\n", False)})
        return repo

    def put(self, name: str, path: str, data: bytes, message: str = "by hand") -> None:
        """Somebody commits a file."""
        repo = self.repos[name]
        repo.commit(message, {**repo.files, path: Blob(data, path.endswith(LARGE))})


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True  # an answer is one packet: else each waits 40 ms for the last

    def log_message(self, *_) -> None:
        pass

    # -- plumbing

    def handle_one(self) -> None:
        address = urlparse(self.path)
        self.place, self.query = unquote(address.path), parse_qs(address.query)
        with self.hub.lock:
            self.hub.log.append((self.command, self.place))
            fault = self.fault()
        if fault and fault.before:
            fault.before()
        size = int(self.headers.get("Content-Length") or 0)
        if fault and fault.reset:
            self.rfile.read(size // 2)
            return self.cut()
        self.body = self.chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(size)
        if fault and fault.status:
            return self.answer(fault.status, {"error": "injected"}, **fault.headers)
        self.cutting = bool(fault and fault.lost)
        with self.hub.lock:
            self.route()

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def fault(self) -> Fault | None:
        for fault in self.hub.faults:
            if fault.method == self.command and fault.path.search(self.place):
                if fault.skip:
                    fault.skip -= 1
                elif fault.times:
                    fault.times -= 1
                    return fault
        return None

    def chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def cut(self) -> None:
        """A reset: the other side sees the connection broken, not closed."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def answer(self, status: int, content: object = None, data: bytes | None = None, **headers: str) -> None:
        if getattr(self, "cutting", False):
            return self.cut()
        if data is None:
            data, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Content_Length") or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # -- routes

    def route(self) -> None:
        open_to_all = self.command in ("GET", "HEAD") or self.place.startswith("/lfs/") or "paths-info" in self.place
        if not open_to_all and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        for method, pattern, call in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, self.place)):
                return call(self, **found.groupdict())
        return self.answer(404, {"error": f"no route {self.command} {self.place}"}, X_Error_Code="EntryNotFound")

    def repo(self, name: str, revision: str = "main") -> tuple[Repo, str, dict[str, Blob]] | None:
        """The repository and its files at a revision; answers itself, and returns None, where there are none."""
        repo = self.hub.repos.get(name)
        hidden = repo and repo.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repo is None or hidden:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if (found := repo.at(revision)) is None:
            return self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        return repo, *found

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        url = f"{self.hub.url}/datasets/{name}"
        if name in self.hub.repos:
            return self.answer(409, {"error": "You already created this dataset repo", "url": url})
        self.hub.make(name, private=asked.get("visibility") == "private")
        return self.answer(200, {"url": url, "name": name})

    def info(self, name: str, revision: str = "main") -> None:
        if found := self.repo(name, revision):
            repo, sha, files = found
            self.answer(200, {
                "_id": "1", "id": name, "author": name.split("/")[0], "sha": sha, "private": repo.private,
                "lastModified": DATE, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path} for path in sorted(files)]})  # fmt: skip

    def entries(self, files: dict[str, Blob]) -> list[dict]:
        told = []
        for path, blob in sorted(files.items()):
            entry = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
            if blob.large:
                entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": 134}
            told.append(entry)
        return told

    def tree(self, name: str, revision: str, folder: str | None = None) -> None:
        if found := self.repo(name, revision):
            below = f"{folder}/" if folder else ""
            files = {p: b for p, b in found[2].items() if p.startswith(below)}
            deep = self.query.get("recursive", ["false"])[0].lower() == "true"
            folders = sorted({p.rsplit("/", 1)[0] for p in files if "/" in p[len(below) :]})
            if not deep:
                files = {p: b for p, b in files.items() if "/" not in p[len(below) :]}
            if folder and not files and not folders:
                return self.answer(404, {"error": "not found"}, X_Error_Code="EntryNotFound")
            listed = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
            self.answer(200, listed + self.entries(files))

    def paths(self, name: str, revision: str) -> None:
        if found := self.repo(name, revision):
            wanted = parse_qs(self.body.decode()).get("paths", [])
            listed = self.entries({p: b for p, b in found[2].items() if p in wanted})
            for path in wanted:
                if any(p.startswith(f"{path}/") for p in found[2]):
                    listed.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
            self.answer(200, listed)

    def validate(self) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, name: str, revision: str) -> None:
        if found := self.repo(name, revision):
            told = []
            for file in json.loads(self.body)["files"]:
                blob = found[2].get(file["path"])
                large = file["path"].endswith(LARGE)
                told.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False,
                             "oid": blob and (blob.sha256 if blob.large else blob.oid)})  # fmt: skip
            self.answer(200, {"files": told})

    def batch(self, name: str) -> None:
        told = []
        for asked in json.loads(self.body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"},
                                    "verify": {"href": f"{self.hub.url}/lfs-verify"}}  # fmt: skip
            told.append(entry)
        self.answer(200, {"transfer": "basic", "objects": told})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400, {"error": "the bytes have another hash"})
        self.hub.objects[oid] = self.body
        return self.answer(200, {})

    def verify(self) -> None:
        asked = json.loads(self.body)
        there = len(self.hub.objects.get(asked["oid"], b"")) == asked["size"]
        self.answer(200 if there else 404, {})

    def commit(self, name: str, revision: str) -> None:
        if not (found := self.repo(name, revision)):
            return None
        repo, lines = found[0], [json.loads(line) for line in self.body.splitlines()]
        head = lines[0]["value"]
        if head.get("parentCommit") not in (None, repo.head):
            return self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.answer(400, {"error": line["key"]})
        sha = repo.commit(head["summary"], files)
        return self.answer(200, {"success": True, "commitOid": sha, "hookOutput": "",
                                 "commitUrl": f"{self.hub.url}/datasets/{name}/commit/{sha}"})  # fmt: skip

    def resolve(self, name: str, revision: str, path: str) -> None:
        if not (found := self.repo(name, revision)):
            return None
        blob = found[2].get(path)
        if blob is None:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[1])
        headers = {"ETag": f'"{blob.sha256 if blob.large else blob.oid}"', "X_Repo_Commit": found[1],
                   "Accept_Ranges": "bytes", "Content_Type": "application/octet-stream"}  # fmt: skip
        if blob.large:
            headers |= {"X_Linked_Etag": f'"{blob.sha256}"', "X_Linked_Size": str(len(blob.data))}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span:
            start, end = int(span[1]), min(int(span[2] or len(blob.data) - 1), len(blob.data) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(blob.data)}"
            return self.answer(206, data=blob.data[start : end + 1], **headers)
        return self.answer(200, data=blob.data, **headers)


NAME, REV = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", f"/api/datasets/{NAME}", Handler.info),
    ("GET", f"/api/datasets/{NAME}/revision/{REV}", Handler.info),
    ("GET", rf"/api/datasets/{NAME}/tree/{REV}(?:/(?P<folder>.+))?", Handler.tree),
    ("POST", f"/api/datasets/{NAME}/paths-info/{REV}", Handler.paths),
    ("POST", f"/api/datasets/{NAME}/preupload/{REV}", Handler.preupload),
    ("POST", f"/api/datasets/{NAME}/commit/{REV}", Handler.commit),
    ("POST", rf"/datasets/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.upload),
    ("POST", "/lfs-verify", Handler.verify),
    ("GET", rf"/datasets/{NAME}/resolve/{REV}/(?P<path>.+)", Handler.resolve),
    ("HEAD", rf"/datasets/{NAME}/resolve/{REV}/(?P<path>.+)", Handler.resolve),
]
