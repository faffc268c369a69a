"""What a pass of a network takes, reckoned from its plan before it begins, and what there is; when what it frees goes back."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import threads
from .errors import fail
from .layers.modules import PlanRow

BATCH = 512 << 20  # bytes of activations that the pictures of a batch may take together
CONTROL_GROUPS = Path("/sys/fs/cgroup")
_BASE = 96 << 20  # Python, NumPy, and a session's own
_SAME = ("concatenate", "group_norm", "output")  # their results are their inputs, looked at in another way
_INSIDE = {
    "resnet_block": 2,
    "attention_block": 4,
    "attention": 4,
}  # what a step makes on the way, in sizes of its result

# Of glibc's mallopt (malloc.h)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
KEPT = 64 << 20  # bytes at the end of the heap that a session keeps between layers
MAPPINGS = 65536  # glibc's own most

_limit: int | None = None


def set_limit(limit: int | None) -> None:
    """For this call, in bytes."""
    global _limit
    _limit = limit


def activations(plan: Sequence[PlanRow], shapes: Mapping[str, Sequence[int]]) -> int:
    """The bytes of the largest set of results that a pass holds at once, and of what a step needs beside them.

    shapes: of the inputs, as network.run takes them, (batch, channels, height, width) or (batch, tokens, features).
    """
    batch = max((shape[0] for shape in shapes.values()), default=1)
    scale = next(  # the height and width of level 0
        ([side * 2.0**row.level for side in shapes[row.key][2:]] for row in plan
         if row.operation == "input" and row.level is not None and row.key in shapes),
        [1.0, 1.0],
    )  # fmt: skip
    last_use = {step: row.step for row in plan for step in row.inputs}
    tokens: dict[int, int] = {}  # of each step, or pixels
    sizes: dict[int, int] = {}
    held: dict[int, frozenset[int]] = {}  # by each result that a later step takes
    most = scratch = 0
    for row in plan:
        if row.level is not None:
            height, width = (-(-side // 2.0**row.level) for side in scale)
            tokens[row.step] = int(height * width)
            # Of a row of tiles: gathered, transformed, multiplied
            scratch = max(scratch, 3 * 36 * -(-int(width) // 4) * max(row.in_channels, row.out_channels))
        elif row.operation == "input":
            shape = shapes.get(row.key, ())
            tokens[row.step] = shape[1] if len(shape) == 3 else 1
        else:
            tokens[row.step] = max((tokens[step] for step in row.inputs if step in tokens), default=1)
        same = row.operation in _SAME
        sizes[row.step] = 0 if same else 4 * batch * tokens[row.step] * row.out_channels
        inside = sizes[row.step] * (1 + _INSIDE.get(row.operation, 0))
        taken = [held.get(step, frozenset()) for step in row.inputs]
        most = max(most, sum(sizes[step] for step in frozenset[int]().union(*held.values())) + inside)
        held[row.step] = frozenset[int]().union(*taken) if same else frozenset([row.step])
        for step in [*row.inputs, row.step]:
            if last_use.get(step, row.step) == row.step and row.operation != "output":
                held.pop(step, None)
    return most + 4 * scratch * threads.get_count()


def available() -> int | None:
    """Bytes that the machine has left, or the control group of the server; None where nothing says so."""
    found = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    for group in _control_groups():
        most, now = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
        if most.isdigit() and now.isdigit():
            cached = [line.split()[1] for line in _read(group / "memory.stat").splitlines() if line[:5] == "file "]
            found.append(int(most) - int(now) + sum(map(int, cached)))
    return min(found, default=None)


def _control_groups() -> list[Path]:
    """The folder of this process's control group (version 2), and of those that it is in, each of which has a limit."""
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            group = CONTROL_GROUPS / line[4:]
            return [group, *(parent for parent in group.parents if parent.is_relative_to(CONTROL_GROUPS))]
    return [CONTROL_GROUPS]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def written(size: int) -> str:
    return f"{-(-size // (1 << 20))} MB"


def check(parameters: int, working: int = 0) -> None:
    """Refuse what the limit or the machine has no room for: bytes of a network's parameters, and of a pass."""
    needed = _BASE + parameters + working
    told = f"the call takes about {written(needed)} of memory, {written(parameters)} of it the network's parameters"
    if _limit is not None and needed > _limit:
        fail(
            f"{told}, more than sql_diffusion.memory_limit, {written(_limit)}",
            "Take a smaller picture or model, or ask an administrator for more: ALTER ROLE ... SET sql_diffusion.memory_limit.",
            "53400",
        )
    room = available()
    if room is not None and needed > room:
        fail(
            f"{told}, more than the {written(room)} that the server has left",
            "Take a smaller picture or model.",
            "53200",
        )


def room_for(parameters: int) -> int:
    """Bytes that the pictures of a batch may take together."""
    return BATCH if _limit is None else min(BATCH, _limit - _BASE - parameters)


@functools.cache
def _glibc() -> Any:
    """The C library where it is glibc, which can be told when freed memory goes back to the system."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        if library.mallopt and library.malloc_trim:
            return library
    return None


@functools.cache
def keep() -> None:
    """What a layer frees is there for the next one: glibc would hand it to the system, which clears each page anew. Said once.

    Larger arrays go back at once, as ever, so that none of them waits behind a small one.
    """
    if _glibc() is not None:
        _glibc().mallopt(M_MMAP_THRESHOLD, 16 << 20)
        _glibc().mallopt(M_TRIM_THRESHOLD, KEPT)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """In here that is so of arrays of any size: a pass of a large network makes and frees hundreds of them."""
    if _glibc() is None:
        yield
        return
    _glibc().mallopt(M_MMAP_MAX, 0)
    _glibc().mallopt(M_TRIM_THRESHOLD, 1 << 30)
    try:
        yield
    finally:
        _glibc().mallopt(M_MMAP_MAX, MAPPINGS)
        _glibc().mallopt(M_TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Hand what a call has freed to the system: glibc would keep it for a process that may do nothing for hours."""
    threads.give_back("kernels", "all tiles")  # of a large network, and by far the largest
    if _glibc() is not None:
        _glibc().malloc_trim(0)
