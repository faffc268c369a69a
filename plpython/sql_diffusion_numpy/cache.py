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
from collections.abc import Callable

import numpy as np

from .layers.modules import Layout, PlanRow

MAGIC = b"sql_diffusion\n\0\0"  # 16 bytes, then the length of the header in 16 digits
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
        if status.st_size < 32:
            raise Unusable(f"{name} is too short")
        content = mmap.mmap(file, status.st_size, mmap.MAP_SHARED, mmap.PROT_READ)
    except OSError as error:
        raise Unusable(f"{name}: {error.strerror}") from None
    finally:
        os.close(file)
    try:
        length = int(content[16:32])
        header = json.loads(content[32 : 32 + length])
        if content[:16] != MAGIC or header["size"] != status.st_size or header["name"] != name:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise Unusable(f"{name} is damaged") from None
    if verify and hashlib.sha256(memoryview(content)[header["begin"] :]).hexdigest() != header["sha256"]:
        raise Unusable(f"{name} is damaged: its digest is not that of its header")
    arrays = {
        key: np.frombuffer(content, np.float32, int(np.prod(shape)), offset).reshape(shape)
        for key, (shape, offset) in header["arrays"].items()
    }
    convolutions = {key: (algorithm, tuple(padding)) for key, (algorithm, padding) in header["convolutions"].items()}
    return Layout([PlanRow(*row) for row in header["plan"]], convolutions, arrays)


def write(folder: int, name: str, layout: Layout, between: Callable[[], None] = lambda: None) -> None:
    """Put a network into the folder; between is called now and then and may raise to give up."""
    places: dict[str, tuple[list[int], int]] = {}
    digest = hashlib.sha256()
    header = {
        "name": name,
        "plan": layout.plan,
        "convolutions": layout.convolutions,
        "arrays": places,
        "begin": 10**12,
        "size": 10**12,
        "sha256": "0" * 64,
    }
    for key, array in layout.arrays.items():
        places[key] = (list(array.shape), 10**12)
    # The numbers that are not known yet are as long as any can be, so the header cannot outgrow its place.
    begin = -(-(32 + len(json.dumps(header).encode())) // mmap.PAGESIZE) * mmap.PAGESIZE
    end = begin
    for key, array in layout.arrays.items():
        places[key] = (list(array.shape), end)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    header["begin"], header["size"] = begin, end

    draft = f"{name}.{os.getpid()}.{secrets.token_hex(4)}.draft"
    try:
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        raise Unusable(f"{draft}: {error.strerror}") from None
    try:
        os.posix_fallocate(file, 0, end)  # a full disk is noticed now
        for key, array in layout.arrays.items():
            data = np.ascontiguousarray(array, np.float32)
            bytes_ = data.tobytes() + bytes(-data.nbytes % ALIGNMENT)
            digest.update(bytes_)
            _write_all(file, bytes_, places[key][1])
            between()
        header["sha256"] = digest.hexdigest()
        text = json.dumps(header).encode()
        _write_all(file, MAGIC + b"%016d" % len(text) + text, 0)
        os.fsync(file)  # the name must not outlive a crash without the content
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException as error:
        _remove(folder, draft)
        if isinstance(error, OSError):
            raise Unusable(f"{name}: {error.strerror}") from None
        raise
    finally:
        os.close(file)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


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
