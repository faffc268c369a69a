"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""

from __future__ import annotations

import numpy as np

from ..threads import get_count, parallel, share, workspace

_CACHED = 1 << 18  # scores that stay in the cache between one operation and the next
_SAFE = 60.0  # exp of this is far from overflow, exp of its negative far from nothing


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> None:
    """softmax(query key^T) value, for many heads at a time.

    query (heads, L, E), which carries the factor 1 / sqrt(E) already; key (heads, S, E); value (heads, S, Ev); out (heads, L, Ev).
    The scores are made with the keys down and the queries across; a row of ones under the values then makes the last product
    give the sum of the exponentials too.
    """
    heads, queries, width = query.shape
    sources, outs = value.shape[1:]
    together = max(1, min(heads, _CACHED // (sources * queries)))  # heads in a chunk
    slice_ = max(1, min(queries, _CACHED // sources))  # queries in a chunk
    chunks = [
        (head, min(heads, head + together), begin, min(queries, begin + slice_))
        for head in range(0, heads, together)
        for begin in range(0, queries, slice_)
    ]
    parts = share(len(chunks), get_count())

    def work(part: int) -> None:
        for first, last, begin, end in chunks[slice(*parts[part])]:
            q, k = query[first:last, begin:end], key[first:last]
            scores = workspace("scores", last - first, sources, end - begin)
            np.matmul(k, q.swapaxes(1, 2), out=scores)
            # Softmax may take any one number from all scores of a query; where none can be large (Cauchy and Schwarz), none need be.
            longest = np.sqrt(np.einsum("hle,hle->hl", q, q).max() * np.einsum("hse,hse->hs", k, k).max())
            if not longest <= _SAFE:
                np.subtract(scores, scores.max(axis=1, keepdims=True), out=scores)
            np.exp(scores, out=scores)
            values = workspace("values", last - first, outs + 1, sources)
            values[:, :outs] = value[first:last].swapaxes(1, 2)
            values[:, outs] = 1
            product = workspace("attended", last - first, outs + 1, end - begin)
            np.matmul(values, scores, out=product)
            np.divide(product[:, :outs], product[:, outs:], out=out[first:last, begin:end].swapaxes(1, 2))

    parallel(work, len(parts))
