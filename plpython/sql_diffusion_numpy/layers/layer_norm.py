"""Layer normalisation over the features of each token (Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3)."""

from __future__ import annotations

import functools

import numpy as np

from ..threads import workspace
from .elementwise import apply


@functools.lru_cache(maxsize=64)
def _average(count: int) -> np.ndarray:
    return np.full((count, 1), 1 / count, np.float32)


def layer_norm_tokens(values: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """(..., features), as an activation (batch, height, width, channels) is, in float32."""
    features = values.shape[-1]
    average = _average(features)

    def normalize(x: np.ndarray, out: np.ndarray) -> None:
        squares = workspace("even", *x.shape)
        mean = np.matmul(x, average)  # (tokens, 1)
        np.subtract(x, mean, out=out)
        np.multiply(out, out, out=squares)
        factor = np.matmul(squares, average)
        np.add(factor, np.float32(eps), out=factor)
        np.sqrt(factor, out=factor)
        np.divide(out, factor, out=out)
        np.multiply(out, weight, out=out)
        np.add(out, bias, out=out)

    rows = np.ascontiguousarray(values).reshape(-1, features)
    return apply(normalize, np.empty_like(rows), rows).reshape(values.shape)


def layer_norm(input: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float) -> np.ndarray:
    """(..., features), by population variance, in double precision, as torch.nn.functional.layer_norm."""
    x = input.astype(np.float64)
    x -= x.mean(axis=-1, keepdims=True)
    x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    if weight is not None:
        x *= weight
    if bias is not None:
        x += bias
    return x.astype(np.float32)
