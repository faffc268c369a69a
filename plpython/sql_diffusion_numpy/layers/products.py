"""The products of a convolution, and the transforms before and behind them (winograd.py)."""

from __future__ import annotations

import functools
import math

import numpy as np

from ..threads import get_count, parallel, share, workspace
from .winograd import SMALL_PRODUCT, Algorithm

_TWICE = 1 << 13  # columns of a transform of two steps


def transform(matrix: np.ndarray, columns: np.ndarray, out: np.ndarray, unit: int = 0) -> None:
    """out = matrix @ columns (..., rows, columns), in blocks of columns that are small products in the sense of lay_out_weight.

    unit: so many columns are multiplied as if they were alone; 0 for all.
    """
    unit = unit or columns.shape[-1]
    block = math.gcd(unit, 512)
    if block < 64:
        block = unit
    if block == columns.shape[-1]:
        np.matmul(matrix, columns, out=out)
    else:
        columns, out = (each.reshape(*each.shape[:-1], -1, block).swapaxes(-3, -2) for each in (columns, out))
        np.matmul(matrix, columns, out=out)


def transform_twice(matrix: np.ndarray, columns: np.ndarray, out: np.ndarray, blocks: int = 1) -> None:
    """out = np.kron(matrix, matrix) @ columns in two steps, of less than half as many multiply-adds.

    columns (rows of columns * blocks, ...): the sum over so many blocks is transformed.
    """
    first = matrix.astype(np.float32)
    second = np.repeat(first, blocks, axis=1)
    squares, out = columns.reshape(first.shape[1], second.shape[1], -1), out.reshape(len(first), len(second), -1)
    step = max(512, _TWICE // blocks)
    for begin in range(0, squares.shape[2], step):
        some = squares[:, :, begin : begin + step]
        half = workspace("half", len(first), *some.shape[1:])
        transform(first, some.swapaxes(0, 1), half.swapaxes(0, 1))
        transform(second, half, out[:, :, begin : begin + step])


@functools.cache
def _fitting(count: int, most: int) -> int:
    """The largest divisor of count that is at most so many; count itself where there is no fair one."""
    best = max((size for size in range(1, min(count, most) + 1) if count % size == 0), default=count)
    return best if 2 * best >= min(count, most) else count


def multiply(tiles: np.ndarray, weight: np.ndarray, product: np.ndarray, small: bool, unit: int) -> None:
    """(points, tiles, in) times the laid-out weight, into product (points, in blocks, tiles, out).

    So many tiles as unit are multiplied as if they were alone, by small products or not.
    """
    points, _, _ = tiles.shape
    _, in_blocks, out_blocks, in_block, out_block = weight.shape
    some = _fitting(unit, SMALL_PRODUCT // (in_block * out_block)) if small else unit
    np.matmul(
        tiles.reshape(points, -1, some, in_blocks, 1, in_block).transpose(0, 3, 4, 1, 2, 5),
        weight[:, :, :, None],
        out=product.reshape(points, in_blocks, -1, some, out_blocks, out_block).transpose(0, 1, 4, 2, 3, 5),
    )


def transform_weight(algorithm: Algorithm, weight: np.ndarray) -> np.ndarray:
    """A weight that was laid out without its transform, as multiply wants it: there until the next one is transformed.

    The threads share it out. The transforms of what is transformed at each call take two steps.
    """
    out = workspace("kernels", len(algorithm.g) ** 2, *weight.shape[1:])
    columns, transformed = weight.reshape(len(weight), -1), out.reshape(len(out), -1)
    block = math.gcd(columns.shape[1], _TWICE)
    parts = share(columns.shape[1] // block, get_count())

    def work(part: int) -> None:
        mine = slice(*(block * each for each in parts[part]))
        transform_twice(algorithm.g, columns[:, mine], transformed[:, mine])

    parallel(work, len(parts))
    return out


def transform_block(algorithm: Algorithm, weight: np.ndarray) -> np.ndarray:
    """The same of an out block, (kernel, in blocks, 1, in block, out block), by this thread alone: it is in the cache then."""
    out = workspace("block", len(algorithm.g) ** 2, *weight.shape[1:])
    for columns, transformed in zip(weight.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):  # of an in block
        transform_twice(algorithm.g, columns.reshape(len(columns), -1), transformed.reshape(len(transformed), -1))
    return out
