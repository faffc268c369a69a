"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1)."""

from __future__ import annotations

import numpy as np

from ..threads import check_point, get_count, parallel, share, workspace

_CACHED = 1 << 17  # scores that stay in the cache between one operation and the next
_FEW = 128  # queries that are worth a product, however many the keys
_SAFE = 60.0  # exp of this is far from overflow, exp of its negative far from nothing


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    out: np.ndarray,
    attn_mask: np.ndarray | None = None,
    is_causal: bool = False,
) -> None:
    """out = softmax(query key^T + attn_mask) value, for many pictures and heads.

    query (batch, heads, L, E), which carries the factor 1 / sqrt(E) already; key (batch, heads, S, E); value (batch,
    heads, S, Ev); out (batch, heads, L, Ev); attn_mask (L, S); with is_causal query i sees the keys up to i. The scores
    are made with the keys down and the queries across, some queries at a time, never all; a row of ones under the
    values then makes the last product give the sum of the exponentials too.
    """
    batch, heads, queries, _ = query.shape
    sources, outs = value.shape[2:]
    together = max(1, min(-(-heads // get_count()), _CACHED // (sources * queries)))  # heads in a chunk
    length = min(queries, max(_FEW, _CACHED // sources))  # queries in a chunk
    chunks = [
        (picture, slice(head, head + together), slice(begin, begin + length))
        for picture in range(batch)
        for head in range(0, heads, together)
        for begin in range(0, queries, length)
    ]
    parts = share(len(chunks), get_count())

    def work(part: int) -> None:
        before = None
        for picture, some, span in chunks[slice(*parts[part])]:
            check_point(part)
            q, k = query[picture, some, span], key[picture, some]
            if before != (picture, some.start):  # what the chunks of the same heads share
                before = (picture, some.start)
                values = workspace("odd", len(q), outs + 1, sources)
                values[:, :outs] = value[picture, some].swapaxes(1, 2)
                values[:, outs] = 1
                longest_key = np.einsum("hse,hse->hs", k, k).max()
            seen = min(sources, span.start + q.shape[1]) if is_causal else sources  # keys that any of them sees
            scores = workspace("even", len(q), seen, q.shape[1])
            np.matmul(k[:, :seen], q.swapaxes(1, 2), out=scores)
            if attn_mask is not None:
                np.add(scores, attn_mask[span].T, out=scores)
            if is_causal:
                late = np.arange(seen)[:, None] > np.arange(span.start, span.start + q.shape[1])
                np.copyto(scores, np.float32(-np.inf), where=late)
            # Softmax may take any one number from all scores of a query; where none can be large (Cauchy and Schwarz),
            # none need be.
            longest = np.sqrt(np.einsum("hle,hle->hl", q, q).max() * longest_key)
            if attn_mask is not None or not longest <= _SAFE:
                largest = scores.max(axis=1, keepdims=True)
                if attn_mask is not None:
                    largest[largest == -np.inf] = 0  # a query that sees nothing
                np.subtract(scores, largest, out=scores)
            np.exp(scores, out=scores)
            product = workspace("attended", len(q), outs + 1, q.shape[1])
            np.matmul(values[:, :, :seen], scores, out=product)
            if attn_mask is not None:
                np.copyto(product[:, outs], np.float32(1), where=product[:, outs] == 0)
            np.divide(product[:, :outs], product[:, outs:], out=out[picture, some, span].swapaxes(1, 2))

    parallel(work, len(parts))


def scaled_dot_product_attention(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    attn_mask: np.ndarray | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> np.ndarray:
    """query (..., L, E), key (..., S, E), value (..., S, Ev) -> (..., L, Ev), with up to two leading dimensions.

    attn_mask (L, S), -infinity where a query is not to see a key.
    """
    out = np.empty((*query.shape[:-1], value.shape[-1]), np.float32)
    scaled = query * np.float32(query.shape[-1] ** -0.5 if scale is None else scale)
    four = [(x[None] if x.ndim == 3 else x[None, None] if x.ndim == 2 else x) for x in (scaled, key, value, out)]
    attend(four[0], four[1], four[2], four[3], attn_mask, is_causal)
    return out
