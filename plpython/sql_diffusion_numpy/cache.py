"""Networks that sessions share: each in a file that all of them map read-only.

The file holds the arrays as the layers use them, so a new session maps it and is ready, and any number of sessions
hold one copy. It belongs to the server's user alone and is checked before it is trusted: folder and file must be that
user's and closed to everybody else, and no symbolic links. It is written under another name and then renamed, so
nobody ever sees half of one; sessions that are first at the same time each write their own, and the last name stays.
Its name is a digest of all that it was made from, so a model that was changed has another file. Whatever goes wrong
here, the session uses its own copy.
"""

# Pathlib cannot name a file by its folder's descriptor, nor refuse links.
# ruff: noqa: PTH102

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, MutableMapping

import numpy as np

from .layers.modules import Layout, PlanRow

MAGIC = b"sql_diffusion\n\0\0"  # 16 bytes, then offset and length of the header, which comes last, in 16 digits each
BEGIN = mmap.PAGESIZE  # of the arrays
ALIGNMENT = 64
SUFFIX = ".network"
STALE = 3600  # seconds after which an unfinished file is nobody's


class Unusable(Exception):
    """Why there is no cache: not an error, doctor shows it."""


def open_folder(path: str, make: bool) -> int:
    """A descriptor of the folder, which is the server's user's and nobody else can enter; made where it is missing."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        try:
            folder = os.open(path, flags)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            folder = os.open(path, flags)
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}") from None
    try:
        _check_private(os.fstat(folder), path)
    except Unusable:
        os.close(folder)
        raise
    return folder


def _check_private(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid():
        raise Unusable(f"{path} belongs to user {status.st_uid}, expected {os.geteuid()}, the server's")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Unusable(f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, expected none for group and others")


def read(folder: int, name: str, verify: bool = False) -> Layout:
    """The network of this file, its arrays read-only views of a mapping; verify checks the digest of all of it."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise Unusable(f"{name}: {error.strerror}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise Unusable(f"{name} is not a plain file of one name")
        _check_private(status, name)
        if status.st_size < BEGIN:
            raise Unusable(f"{name} is too short")
        content = mmap.mmap(file, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
    except OSError as error:
        raise Unusable(f"{name}: {error.strerror}") from None
    finally:
        os.close(file)
    try:
        place, length = int(content[16:32]), int(content[32:48])
        header = json.loads(content[place : place + length])
        if content[:16] != MAGIC or place + length != status.st_size or header["name"] != name:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{name} is damaged") from None
    if verify and hashlib.sha256(memoryview(content)[BEGIN:place]).hexdigest() != header["sha256"]:
        raise Unusable(f"{name} is damaged: its digest is not that of its header")
    arrays = {
        key: np.frombuffer(content, np.float32, int(np.prod(shape)), offset).reshape(shape)
        for key, (shape, offset) in header["arrays"].items()
    }
    convolutions = {key: (algorithm, tuple(padding)) for key, (algorithm, padding) in header["convolutions"].items()}
    return Layout([PlanRow(*row) for row in header["plan"]], convolutions, arrays)


class Draft(MutableMapping[str, np.ndarray]):
    """Arrays that go into a file as they come, so that a network which is laid out never lies in memory as a whole."""

    def __init__(self, file: int) -> None:
        self.file = file
        self.places: dict[str, tuple[list[int], int]] = {}  # key -> shape, offset
        self.end = BEGIN
        self.digest = hashlib.sha256()

    def __setitem__(self, key: str, array: np.ndarray) -> None:
        assert key not in self.places
        data = np.ascontiguousarray(array, np.float32)
        rest = bytes(-data.nbytes % ALIGNMENT)
        os.posix_fallocate(self.file, self.end, data.nbytes + len(rest))  # a full disk is noticed now
        self.places[key] = (list(array.shape), self.end)
        for part in (data.reshape(-1).view(np.uint8).data, rest):
            self.digest.update(part)
            _write_all(self.file, part, self.end)
            self.end += len(part)

    def __getitem__(self, key: str) -> np.ndarray:
        shape, offset = self.places[key]
        data = os.pread(self.file, 4 * int(np.prod(shape)), offset)
        return np.frombuffer(data, np.float32).reshape(shape)

    def __delitem__(self, key: str) -> None:
        del self.places[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def write(folder: int, name: str, lay_out: Callable[[Draft], Layout]) -> None:
    """Put a network into the folder: lay_out makes its layout, with the draft for its arrays, and may raise to give up."""
    draft = f"{name}.{os.getpid()}.{secrets.token_hex(4)}.draft"
    try:
        remove_drafts(folder)  # whose room this one may need
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        raise Unusable(f"{draft}: {error.strerror}") from None
    try:
        arrays = Draft(file)
        layout = lay_out(arrays)
        header = {
            "name": name,
            "plan": layout.plan,
            "convolutions": layout.convolutions,
            "arrays": arrays.places,
            "sha256": arrays.digest.hexdigest(),
        }
        text = json.dumps(header).encode()
        _write_all(file, text, arrays.end)
        _write_all(file, MAGIC + b"%016d%016d" % (arrays.end, len(text)), 0)
        os.fsync(file)  # the name must not outlive a crash without the content
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException as error:
        _remove(folder, draft)
        if isinstance(error, OSError):
            raise Unusable(f"{name}: {error.strerror}") from None
        raise
    finally:
        os.close(file)


def _write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def remove_drafts(folder: int) -> None:
    """Remove what sessions left unfinished that were terminated, which runs nothing more of theirs."""
    for name in os.listdir(folder):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if name.endswith(".draft") and not _is_running(int(name.split(".")[-3])):
                _remove(folder, name)


def _is_running(pid: int) -> bool:
    """Whether the server's user, whose sessions all are, has a process of this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def file_name(database: int, model: str, component: str, digest: str) -> str:
    """All files of a model begin alike, and all states of one of its networks: so sweep finds them."""
    part = hashlib.sha256(component.encode()).hexdigest()[:8]
    return f"{model_prefix(database, model)}{part}-{digest[:32]}{SUFFIX}"


def model_prefix(database: int, model: str) -> str:
    return f"{database}-{hashlib.sha256(model.encode()).hexdigest()[:16]}-"


def sweep(folder: int, keep: str, databases: list[int], database: int, models: list[str]) -> None:
    """Remove the files of databases and models that are no more, older ones of keep's model, and forgotten drafts."""
    present = tuple(model_prefix(database, model) for model in models)
    mine = keep.rpartition("-")[0] + "-"
    for name in os.listdir(folder):
        owner = name.partition("-")[0]
        if name == keep or not owner.isdigit():
            continue
        try:
            if name.endswith(".draft"):
                gone = time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > STALE
            elif not name.endswith(SUFFIX):
                continue
            elif int(owner) == database:
                gone = name.startswith(mine) or not name.startswith(present)
            else:
                gone = int(owner) not in databases
            if gone:
                _remove(folder, name)
        except OSError:
            continue
