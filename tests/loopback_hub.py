"""A small Hugging Face hub on loopback, for the real huggingface_hub to talk to through HF_ENDPOINT.

Serves folders as repositories of one commit, as the hub does: the API that lists a revision's files, and the files
themselves with their ETags and ranges. It can also misbehave: break off in the middle of a file, or send bytes that do
not match the digest it announces.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)


@dataclass
class Hub:
    """The state that tests set and look at."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_once: dict[str, int] = field(default_factory=dict)  # file: break off after so many bytes, the first time
    corrupt: set[str] = field(default_factory=set)  # files whose bytes are not those announced
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    endpoint: str = ""

    def downloads(self, file: str) -> list[str | None]:
        """The Range of each GET of a file."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(f"/{file}")]


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of 127.0.0.1 for as long as the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers["Range"]))
            owner, _, rest = path.removeprefix("/api/models").strip("/").partition("/")
            name, _, rest = rest.partition("/")
            repository = f"{owner}/{name}"
            if repository not in hub.repositories:
                self.refuse(404, "RepoNotFound")
            elif repository in hub.gated:
                self.refuse(403, "GatedRepo")
            elif path.startswith("/api/"):
                revision = rest.removeprefix("revision/") or "main"
                if revision not in REVISIONS:
                    self.refuse(404, "RevisionNotFound")
                else:
                    self.answer(json.dumps(describe(repository, hub.repositories[repository])).encode())
            else:
                _, revision, file = rest.split("/", 2)  # resolve/REVISION/FILE
                found = hub.repositories[repository] / file
                if revision not in REVISIONS:
                    self.refuse(404, "RevisionNotFound")
                elif not found.is_file():
                    self.refuse(404, "EntryNotFound")
                else:
                    self.send_file(file, found.read_bytes())

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def send_file(self, file: str, content: bytes) -> None:
            etag, size = digest(file, content), len(content)
            if file in hub.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(size))
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            if self.command == "GET":
                end = hub.cut_once.pop(file, size)
                self.wfile.write(content[start:end])
                self.close_connection = end < size

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def describe(repository: str, folder: Path) -> dict[str, object]:
    """What the hub's API says of a repository."""
    siblings: list[dict[str, object]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_digest(content)}
        if is_large(name):
            entry["lfs"] = {"sha256": digest(name, content), "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"id": repository, "modelId": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def is_large(name: str) -> bool:
    """Whether the hub keeps such a file in its store of large files."""
    return name.endswith((".safetensors", ".bin"))


def digest(name: str, content: bytes) -> str:
    """A file's ETag: its SHA-256 in the store of large files, else its git hash."""
    return hashlib.sha256(content).hexdigest() if is_large(name) else git_digest(content)


def git_digest(content: bytes) -> str:
    """As git hashes a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
