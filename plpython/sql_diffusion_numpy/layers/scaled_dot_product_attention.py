"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""

from __future__ import annotations

import numpy as np

from ..threads import get_count, parallel, share, workspace

_CACHED = 1 << 17  # scores that stay in the cache between one operation and the next
_SAFE = 60.0  # exp of this is far from overflow, exp of its negative far from nothing


def attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> None:
    """out = softmax(query key^T) value, for many pictures and heads.

    query (batch, heads, L, E), which carries the factor 1 / sqrt(E) already; key (batch, heads, S, E); value (batch,
    heads, S, Ev); out (batch, heads, L, Ev). The scores are made with the keys down and the queries across; a row of
    ones under the values then makes the last product give the sum of the exponentials too.
    """
    batch, heads, queries, _ = query.shape
    sources, outs = value.shape[2:]
    together = max(1, min(-(-heads // get_count()), _CACHED // (sources * queries)))  # heads in a chunk
    length = max(1, min(queries, _CACHED // sources))  # queries in a chunk
    chunks = [
        (picture, slice(head, head + together), slice(begin, begin + length))
        for picture in range(batch)
        for head in range(0, heads, together)
        for begin in range(0, queries, length)
    ]
    parts = share(len(chunks), get_count())

    def work(part: int) -> None:
        for picture, some, span in chunks[slice(*parts[part])]:
            q, k, v = query[picture, some, span], key[picture, some], value[picture, some]
            scores = workspace("even", len(q), sources, q.shape[1])
            np.matmul(k, q.swapaxes(1, 2), out=scores)
            # Softmax may take any one number from all scores of a query; where none can be large (Cauchy and Schwarz),
            # none need be.
            longest = np.sqrt(np.einsum("hle,hle->hl", q, q).max() * np.einsum("hse,hse->hs", k, k).max())
            if not longest <= _SAFE:
                np.subtract(scores, scores.max(axis=1, keepdims=True), out=scores)
            np.exp(scores, out=scores)
            values = workspace("odd", len(q), outs + 1, sources)
            values[:, :outs] = v.swapaxes(1, 2)
            values[:, outs] = 1
            product = workspace("attended", len(q), outs + 1, q.shape[1])
            np.matmul(values, scores, out=product)
            np.divide(product[:, :outs], product[:, outs:], out=out[picture, some, span].swapaxes(1, 2))

    parallel(work, len(parts))


def scaled_dot_product_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """query (..., L, E), key (..., S, E), value (..., S, Ev) -> (..., L, Ev), with up to two leading dimensions."""
    out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
    scaled = query * np.float32(query.shape[-1] ** -0.5)
    attend(*((x[None] if x.ndim == 3 else x[None, None] if x.ndim == 2 else x) for x in (scaled, key, value, out)))
    return out
