"""What is done to every element alone, in pieces that stay in the cache, shared out over threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..threads import check_point, get_count, parallel, share

Elementwise = Callable[[np.ndarray, np.ndarray], None]  # reads the first, writes the second, of one shape; float32

_CACHED = 1 << 17  # elements at a time: threads that hand over to each other more often wait for Python's lock
_WORTH = 1 << 16  # elements of each thread that are worth waking it for


def apply(function: Callable[..., None], out: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    """function(rows of each input, the same rows of out) for all rows of arrays (rows, columns); returns out."""
    parts = share(len(out), min(get_count(), out.size // _WORTH))

    def work(part: int) -> None:
        mine = slice(*parts[part])
        apply_alone(function, part, out[mine], *(array[mine] for array in inputs))

    parallel(work, len(parts))
    return out


def apply_alone(function: Callable[..., None], part: int, out: np.ndarray, *inputs: np.ndarray) -> None:
    """The same in a task of parallel, this part of it."""
    rows, columns = out.shape
    step = max(1, _CACHED // columns)
    for begin in range(0, rows, step):
        check_point(part)
        some = slice(begin, begin + step)
        function(*(array[some] for array in inputs), out[some])


def activate(function: Callable[..., None], *inputs: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """function of every element of arrays of one shape, whichever; out, which is contiguous, may be one of them."""
    flat = [np.ascontiguousarray(input).reshape(-1, 1) for input in inputs]
    result = np.empty_like(flat[0]) if out is None else out.reshape(-1, 1)
    return apply(function, result, *flat).reshape(inputs[0].shape)
