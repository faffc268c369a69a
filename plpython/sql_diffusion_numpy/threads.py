"""Work shared out over threads.

NumPy runs its loops and BLAS its products without holding Python's lock, so threads of Python do run side by side as
long as each call is large. BLAS itself is kept at one thread: a product of a Winograd convolution is too small to be
shared out, the 36 of them are not, and copies, norms and exponentials are shared out the same way.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

Task = Callable[[int], Any]

MOST = 64
SWITCH = 0.0002  # seconds after which a thread that waits for Python's lock asks for it; Python's own 0.005 is a layer


class _Worker:
    """A thread that waits for a task, runs it, reports, and waits again."""

    def __init__(self, part: int) -> None:
        self.part = part
        self.task: Task | None = None
        self.error: BaseException | None = None
        self.begin = threading.Lock()
        self.done = threading.Lock()
        self.begin.acquire()
        self.done.acquire()
        threading.Thread(target=self.run, name=f"sql_diffusion {part}", daemon=True).start()

    def run(self) -> None:
        while True:
            self.begin.acquire()
            try:
                assert self.task is not None
                self.task(self.part)
            except BaseException as error:  # handed to the caller, who raises it
                self.error = error
            self.task = None
            self.done.release()


_workers: list[_Worker] = []
_count = 1
_check: Callable[[], None] | None = None  # raises where the call is to end; for the caller's thread alone
_ended = False  # whether it has raised, so that the other threads end too


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Threads begun in here get no signals: the server's handlers belong to its main thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


blas_was_loaded = False  # before this package could tell it to use one thread


def load_numpy() -> None:
    """Import NumPy, its BLAS held at one thread (this module shares the work out), its threads without signals."""
    global blas_was_loaded
    blas_was_loaded = "numpy" in sys.modules
    for library in ("OPENBLAS", "OMP", "MKL", "BLIS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with signals_blocked():
        import numpy  # noqa: F401
    try:
        import threadpoolctl
    except ImportError:
        return
    threadpoolctl.threadpool_limits(1, user_api="blas")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_count() -> int:
    return min(4, cores())


def set_count(count: int) -> None:
    """From now on share work out over this many threads, the caller's own among them."""
    global _count
    sys.setswitchinterval(min(SWITCH, sys.getswitchinterval()))
    with signals_blocked():
        while len(_workers) < count - 1:
            _workers.append(_Worker(len(_workers) + 1))
    _count = count


def get_count() -> int:
    return _count


class Ended(Exception):
    """In a thread that need not go on, since the call has ended in the caller's thread."""


def set_check(check: Callable[[], None] | None) -> None:
    """What check_point is to call, if anything: often, so that it has to be cheap."""
    global _check
    _check = check


def check_point(part: int) -> None:
    """For tasks of parallel, now and then: a cancelled query ends within a layer, too."""
    global _ended
    if part > 0:
        if _ended:
            raise Ended
    elif _check is not None:
        try:
            _check()
        except BaseException:
            _ended = True
            raise


def parallel(task: Task, parts: int) -> None:
    """Run task(0) ... task(parts - 1), parts <= get_count(), at the same time; return when all are done."""
    global _ended
    _ended = False
    helpers = _workers[: parts - 1]
    for worker in helpers:
        worker.task = task
        worker.begin.release()
    try:
        task(0)
    except BaseException:
        for worker in helpers:
            worker.done.acquire()
            worker.error = None
        raise
    for worker in helpers:
        worker.done.acquire()
    for worker in helpers:
        if worker.error is not None:
            error, worker.error = worker.error, None
            raise error


_workspaces = threading.local()


def workspace(name: str, *shape: int) -> Any:
    """An uninitialised float32 array of this thread, the same memory at each call with the same name.

    It is mapped, not allocated, so that what was too small goes back to the system when it grows; in large pages, where
    there are any. Each begins at another place in its page: loads from one and stores to another at the same place hold
    each other up.
    """
    import numpy

    size = 1
    for extent in shape:
        size *= extent
    store: dict[str, Any] = _workspaces.__dict__
    flat = store.get(name)
    if flat is None or flat.size < size:
        offset = 1088 * len(store) % mmap.PAGESIZE
        mapped = mmap.mmap(-1, 4 * size + offset, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                mapped.madvise(mmap.MADV_HUGEPAGE)
        flat = store[name] = numpy.frombuffer(mapped, numpy.float32, offset=offset)
    return flat[:size].reshape(shape)


def give_back(*names: str) -> None:
    """Unmap the caller's workspaces of these names."""
    for name in names:
        _workspaces.__dict__.pop(name, None)


def share(total: int, parts: int) -> list[tuple[int, int]]:
    """range(total) in so many consecutive (begin, end), none empty."""
    parts = max(1, min(parts, total))
    return [(total * part // parts, total * (part + 1) // parts) for part in range(parts)]
