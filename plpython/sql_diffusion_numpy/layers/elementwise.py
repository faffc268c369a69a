"""What is done to every element alone, in pieces that stay in the cache, shared out over threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..threads import check_point, get_count, parallel, share

Elementwise = Callable[[np.ndarray, np.ndarray], None]  # reads the first, writes the second, of one shape; float32

_CACHED = 1 << 15  # elements at a time
_WORTH = 1 << 16  # elements of each thread that are worth waking it for


def apply(function: Callable[..., None], out: np.ndarray, *inputs: np.ndarray) -> np.ndarray:
    """function(rows of each input, the same rows of out) for all rows of arrays (rows, columns); returns out."""
    rows, columns = out.shape
    step = max(1, _CACHED // columns)
    parts = share(rows, min(get_count(), out.size // _WORTH))

    def work(part: int) -> None:
        first, last = parts[part]
        for begin in range(first, last, step):
            check_point(part)
            some = slice(begin, min(last, begin + step))
            function(*(array[some] for array in inputs), out[some])

    parallel(work, len(parts))
    return out


def activate(function: Callable[..., None], *inputs: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """function of every element of arrays of one shape, whichever; out, which is contiguous, may be one of them."""
    flat = [np.ascontiguousarray(input).reshape(-1, 1) for input in inputs]
    result = np.empty_like(flat[0]) if out is None else out.reshape(-1, 1)
    return apply(function, result, *flat).reshape(inputs[0].shape)
