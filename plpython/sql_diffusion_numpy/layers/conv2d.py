"""Convolutions, all by one bilinear algorithm.

A convolution of one dimension is out = A [(G w) * (B x)] for a tile x of the input: gather tiles, transform them with
B, multiply with weights that were transformed with G when they were read, transform back with A. In two dimensions
each matrix is its own Kronecker product; with channels, the product in the middle is one matrix product for each of
its entries. What differs is the matrices:

- direct: none at all, and the taps of a tile count as channels, so that one product adds them up too (im2col);
- Winograd F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2016, arXiv:1509.09308, section 4): 16 products for 4 pixels
  and 36 for 16 where the direct way takes 36 and 144;
- upsample: F(4x4, 3x3) of a picture whose pixels were all doubled. B then has equal columns, which merge, and the row
  that belongs to the point -1 vanishes, since a doubled signal is a polynomial with the factor (1 + x): 25 products
  are left.

In large networks a weight may be transformed at each call, so that it takes no more room than its kernels. There all transforms
take two steps, one a dimension, in place of the Kronecker product.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..threads import check_point, get_count, parallel, share, workspace
from .geglu import geglu, geglu_alone
from .group_norm import Norm, Statistics, Taken, channel_statistics, merge_statistics, pixels_a_row, repeated
from .relu import Rectifier, relu_into


class Algorithm(NamedTuple):
    name: str
    size: int  # rows of input that a tile reads
    step: int  # rows of input from one tile to the next
    out: int  # rows of output that a tile makes
    b: np.ndarray | None  # (points, size), None for the direct way
    g: np.ndarray  # (points, kernel)
    a: np.ndarray  # (out, points)
    kept: bool = True  # the weight is transformed with G when it is read; if not, at each call


_B4 = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G4 = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A4 = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
_DOUBLE = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
_LEFT = [0, 1, 3, 4, 5]  # the points of F(4) without -1

WINOGRAD2 = Algorithm(
    "winograd2", 4, 2, 2,
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)  # fmt: skip
WINOGRAD4 = Algorithm("winograd4", 6, 4, 4, _B4, _G4, _A4)
UPSAMPLE = Algorithm("upsample", 4, 2, 4, (_B4 @ _DOUBLE)[_LEFT], _G4[_LEFT], _A4[:, _LEFT])


def direct(kernel: int, stride: int) -> Algorithm:
    return Algorithm("direct", kernel, stride, 1, None, np.eye(kernel), np.ones((1, 1)))


class Convolution(NamedTuple):
    """A convolution as it is kept: the algorithm and the weight in the order in which its products read it."""

    algorithm: Algorithm
    weight: np.ndarray  # (points, in blocks, out blocks, in block, out block); the direct way has one point
    bias: np.ndarray  # (out)
    points: np.ndarray | None  # B in two dimensions: (points, size * size), None for the direct way
    pixels: np.ndarray  # A in two dimensions, repeated for each in block: (out * out, points * in blocks)
    padding: tuple[int, int, int, int]  # left, right, top, bottom, of the input

    @property
    def out_channels(self) -> int:
        return self.weight.shape[2] * self.weight.shape[4]


DIRECT3 = direct(3, 1)
_CHOICES = (DIRECT3, WINOGRAD2, WINOGRAD4)
# F(4x4, 3x3) by the points 0, -1, 1, 1/2, -2 (Barabasz, Anderson, Soodhalter and Gregg 2018, arXiv:1803.10986),
# which is half as wrong as by 0, -1, 1, -2, 2; the weight is transformed at each call.
AT_EACH_CALL = Algorithm(
    "winograd4", 6, 4, 4,
    np.array(
        [
            [2, -3, -4, 3, 2, 0],
            [0, 2, -5, 1, 2, 0],
            [0, -2, 1, 5, 2, 0],
            [0, -4, -2, 4, 2, 0],
            [0, 1, -2, -1, 2, 0],
            [0, 2, -3, -4, 3, 2],
        ]
    ),
    np.array([[45, 0, 0], [-15, 15, -15], [15, 15, 15], [-48, -24, -12], [3, -6, 12], [0, 0, 45]]) / 90,
    np.array([[1, 1, 1, 1, 1, 0], [0, -1, 1, 1 / 2, -2, 0], [0, 1, 1, 1 / 4, 4, 0], [0, -1, 1, 1 / 8, -8, 1]]),
    kept=False,
)  # fmt: skip


def choose_algorithm(in_channels: int, out_channels: int, height: int, width: int, large: bool = False) -> Algorithm:
    """The cheapest way for a 3x3 convolution of stride 1, counted in multiply-adds for one picture.

    A weight is counted as 32: it must be fetched from memory, and kept. In a large network, of which all sessions share
    a copy that is to be hardly larger than its parameters, each that a transform adds to them counts as 32 more; there a
    transform at each call is a choice, too, whose weights count as 20 more, as all that is copied.
    """

    def cost(algorithm: Algorithm) -> int:
        tiles = -(-height // algorithm.out) * -(-width // algorithm.out)
        points, kernel = algorithm.g.shape[0] ** 2, algorithm.g.shape[1] ** 2
        products = (tiles + (32 if algorithm.kept else 52)) * points * in_channels * out_channels
        if algorithm.b is None:
            return products
        if large and algorithm.kept:
            products += 32 * (points - kernel) * in_channels * out_channels
        # The transforms, and some 20 for each value that is copied on the way.
        return products + tiles * points * (
            (algorithm.size**2 + 20) * in_channels + (algorithm.out**2 + 20) * out_channels
        )

    return min((*_CHOICES, AT_EACH_CALL) if large else _CHOICES, key=cost)


def _block(channels: int, most: int) -> int:
    """The largest divisor of channels that is at most so many; channels itself where there is no fair one."""
    best = max(size for size in range(1, min(channels, most) + 1) if channels % size == 0)
    return best if 4 * best >= min(channels, most) else channels


_SMALL = 1 << 17  # weights of a point whose products are small ones
_SMALL_PRODUCT = 1_000_000  # M * N * K of a product that OpenBLAS does not copy for
FEW = 128  # tiles of a picture that do not make a copy of the weight worth it
_AT_ONCE = 1 << 20  # kernels that are transformed together, so that a large layer does not take much memory


def tiles_of(algorithm: Algorithm, height: int, width: int) -> int:
    """How many a picture has."""
    return -(-height // algorithm.step) * -(-width // algorithm.step)


def lay_out_weight(weight: np.ndarray, algorithm: Algorithm, tiles: int = 0) -> np.ndarray:
    """(out, in, kernel, kernel) -> (points, in blocks, out blocks, in block, out block), contiguous.

    tiles: of a picture, as far as that is known; other pictures are multiplied, too, perhaps not as fast.

    The direct way has one point and kernel * kernel times the channels; a weight that is transformed at each call has its
    kernel for points.

    OpenBLAS multiplies small matrices without copying them first, at the full speed of the machine, when M * N * K <=
    10^6: the weight is cut into blocks for that. A large one is faster copied where it meets many tiles: then it is cut for
    the threads alone.
    """
    outs, ins = weight.shape[:2]
    if algorithm.b is None:
        points = weight.transpose(2, 3, 1, 0).reshape(1, -1, outs)
    elif not algorithm.kept:
        points = weight.transpose(2, 3, 1, 0).reshape(-1, ins, outs)
    else:
        transform = np.kron(algorithm.g, algorithm.g)  # (points, kernel * kernel)
        # (points, in, out); in float64, so that the transform costs no accuracy
        points = np.empty((len(transform), ins, outs), np.float32)
        some = max(1, _AT_ONCE // ins)
        for begin in range(0, outs, some):
            kernels = weight[begin : begin + some].reshape(-1, ins, weight[0, 0].size).astype(np.float64)
            points[:, :, begin : begin + some] = np.tensordot(transform, kernels, (1, 2)).transpose(0, 2, 1)
    ins = points.shape[1]
    if ins * outs > _SMALL and 0 < tiles <= FEW:
        out_block = _block(outs, 32)
        in_block = _block(ins, _SMALL_PRODUCT // (tiles * out_block))
    elif ins * outs > _SMALL:
        in_block, out_block = ins, _block(outs, 320)
    else:
        in_block = _block(ins, 512)
        out_block = _block(outs, 64 if in_block <= 128 else 32)
    blocks = points.reshape(-1, ins // in_block, in_block, outs // out_block, out_block).swapaxes(2, 3)
    return np.ascontiguousarray(blocks, np.float32)


def weight_of(convolution: Convolution) -> np.ndarray:
    """(out, in, kernel, kernel): the weight that lay_out_weight transformed."""
    algorithm, weight = convolution.algorithm, convolution.weight
    kernel = algorithm.g.shape[1]
    ins, outs = weight.shape[1] * weight.shape[3], weight.shape[2] * weight.shape[4]
    points = weight.swapaxes(2, 3).reshape(len(weight), ins, outs)
    taps = points
    if algorithm.kept:
        inverse = np.linalg.pinv(np.kron(algorithm.g, algorithm.g))  # (kernel * kernel, points)
        taps = np.tensordot(inverse.astype(np.float32), points, 1)  # (kernel * kernel, in, out)
    return taps.transpose(2, 1, 0).reshape(outs, ins, kernel, kernel)


def assemble(
    algorithm: Algorithm, weight: np.ndarray, bias: np.ndarray, padding: tuple[int, int, int, int]
) -> Convolution:
    """A convolution from a weight that was laid out."""
    b, a = algorithm.b, np.kron(algorithm.a, algorithm.a)
    return Convolution(
        algorithm,
        weight,
        bias,
        None if b is None else np.kron(b, b).astype(np.float32),
        np.repeat(a, weight.shape[1], axis=1).astype(np.float32),
        padding,
    )


class Piece(NamedTuple):
    """Some channels of an activation. An activation is a list of pieces: to concatenate is to append."""

    values: np.ndarray  # (batch, height, width, channels)
    statistics: Statistics | None


Activation = list[Piece]
Entry = Norm | Rectifier  # what a layer does to the values that it reads


def extent(activation: Activation) -> tuple[int, int, int, int]:
    batch, height, width, _ = activation[0].values.shape
    return batch, height, width, sum(piece.values.shape[3] for piece in activation)


def statistics_of(activation: Activation) -> Statistics:
    """Of all pieces side by side; taken now where a piece has none."""
    means, deviations = [], []
    for values, statistics in activation:
        if statistics is None:
            channels = values.shape[3]
            statistics = merge_statistics([channel_statistics(picture.reshape(1, -1, channels)) for picture in values])
        means.append(statistics.mean)
        deviations.append(statistics.deviation)
    if len(activation) == 1:
        return Statistics(means[0], deviations[0])
    return Statistics(np.concatenate(means, axis=1), np.concatenate(deviations, axis=1))


# Values that are worked on at a time, so that they stay in the cache between one operation and the next
_CACHED = 1 << 16  # of a norm
_TOGETHER = 1 << 17  # of a product
_PADDED = 1 << 18  # of the input
_TWICE = 1 << 13  # columns of a transform of two steps
_KERNELS = 3 << 20  # of an out block that is transformed at each call
_GATED = 2 << 20  # that are gated together
_GROUPED = 1 << 19  # of the products of whole pictures, which are small and many: each call of NumPy's costs, too

# Multiply-adds that are worth waking a thread for, and as many of them as the passes over a value come to
_WORTH, _PASSES = 20_000_000, 100


def _read_rows(
    padded: np.ndarray, activation: Activation, norm: Entry | None, pictures: slice, first: int, left: int
) -> None:
    """Fill padded (pictures, rows, columns, channels) with their rows from first on, normalised, zeros outside of them."""
    count, rows, columns, _ = padded.shape
    _, height, width, _ = activation[0].values.shape
    begin, end = max(0, -first), min(rows, height - first)
    right = min(columns, left + width)
    padded[:, :begin] = 0
    padded[:, end:] = 0
    padded[:, begin:end, :left] = 0
    padded[:, begin:end, right:] = 0
    channel = 0
    for values, _ in activation:
        channels = values.shape[3]
        source = values[pictures, first + begin : first + end]  # (pictures, rows, width, channels)
        target = padded[:, begin:end, left:right, channel : channel + channels]
        if norm is None:
            target[...] = source[:, :, : right - left]
        elif isinstance(norm, Rectifier):
            relu_into(source[:, :, : right - left], target)
        else:
            # Of SiLU, x / (1 + exp(-x)) = h + h tanh(h) with h = x / 2: no overflow, and one pass less.
            half = np.float32(0.5 if norm.silu else 1)
            row = slice(channel, channel + channels)
            scale, shift = workspace("scale", count, width, channels), workspace("shift", count, width, channels)
            scale[...] = (norm.scale[pictures, row] * half)[:, None]
            shift[...] = (norm.shift[pictures, row] * half)[:, None]
            scale, shift = scale.reshape(count, 1, -1), shift.reshape(count, 1, -1)
            lines = max(1, _CACHED // scale.size)
            for line in range(0, end - begin, lines):
                chunk = source[:, line : line + lines]
                affine = workspace("even", *chunk.shape)
                flat = affine.reshape(count, chunk.shape[1], -1)
                np.multiply(chunk.reshape(flat.shape), scale, out=flat)
                np.add(flat, shift, out=flat)
                if norm.silu:
                    other = workspace("odd", *chunk.shape)
                    np.tanh(affine, out=other)
                    np.multiply(affine, other, out=other)
                    kept = slice(right - left)
                    np.add(affine[:, :, kept], other[:, :, kept], out=target[:, line : line + lines])
                else:
                    target[:, line : line + lines] = affine[:, :, : right - left]
        channel += channels


def _transform(matrix: np.ndarray, columns: np.ndarray, out: np.ndarray, unit: int = 0) -> None:
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


def _transform_twice(matrix: np.ndarray, columns: np.ndarray, out: np.ndarray, blocks: int = 1) -> None:
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
        _transform(first, some.swapaxes(0, 1), half.swapaxes(0, 1))
        _transform(second, half, out[:, :, begin : begin + step])


@functools.cache
def _fitting(count: int, most: int) -> int:
    """The largest divisor of count that is at most so many; count itself where there is no fair one."""
    best = max((size for size in range(1, min(count, most) + 1) if count % size == 0), default=count)
    return best if 2 * best >= min(count, most) else count


def _multiply(tiles: np.ndarray, weight: np.ndarray, product: np.ndarray, small: bool, unit: int) -> None:
    """(points, tiles, in) times the laid-out weight, into product (points, in blocks, tiles, out).

    So many tiles as unit are multiplied as if they were alone, by small products or not.
    """
    points, _, _ = tiles.shape
    _, in_blocks, out_blocks, in_block, out_block = weight.shape
    some = _fitting(unit, _SMALL_PRODUCT // (in_block * out_block)) if small else unit
    np.matmul(
        tiles.reshape(points, -1, some, in_blocks, 1, in_block).transpose(0, 3, 4, 1, 2, 5),
        weight[:, :, :, None],
        out=product.reshape(points, in_blocks, -1, some, out_blocks, out_block).transpose(0, 1, 4, 2, 3, 5),
    )


def _transform_weight(algorithm: Algorithm, weight: np.ndarray) -> np.ndarray:
    """A weight that was laid out without its transform, as _multiply wants it: there until the next one is transformed.

    The threads share it out. The transforms of what is transformed at each call take two steps.
    """
    out = workspace("kernels", len(algorithm.g) ** 2, *weight.shape[1:])
    columns, transformed = weight.reshape(len(weight), -1), out.reshape(len(out), -1)
    block = math.gcd(columns.shape[1], _TWICE)
    parts = share(columns.shape[1] // block, get_count())

    def work(part: int) -> None:
        mine = slice(*(block * each for each in parts[part]))
        _transform_twice(algorithm.g, columns[:, mine], transformed[:, mine])

    parallel(work, len(parts))
    return out


def _transform_block(algorithm: Algorithm, weight: np.ndarray) -> np.ndarray:
    """The same of an out block, (kernel, in blocks, 1, in block, out block), by this thread alone: it is in the cache then."""
    out = workspace("block", len(algorithm.g) ** 2, *weight.shape[1:])
    for columns, transformed in zip(weight.swapaxes(0, 1), out.swapaxes(0, 1), strict=True):  # of an in block
        _transform_twice(algorithm.g, columns.reshape(len(columns), -1), transformed.reshape(len(transformed), -1))
    return out


class _Chunk(NamedTuple):
    """Tile rows that are worked on at a time: some of a picture, or all of several pictures."""

    first: int  # picture
    last: int  # the one behind
    begin: int
    end: int


def _chunks(begin: int, end: int, down: int, most: int) -> list[_Chunk]:
    """From tile row begin to end of all pictures, down in each, in chunks of a picture of at most so many."""
    chunks = []
    while begin < end:
        picture, first = divmod(begin, down)
        rows = min(down - first, end - begin)
        for some, stop in share(rows, -(-rows // most)):
            chunks.append(_Chunk(picture, picture + 1, first + some, first + stop))
        begin += rows
    return chunks


def _groups(begin: int, end: int, down: int, most: int) -> list[_Chunk]:
    """All tile rows, down in each, of pictures begin to end, in chunks of at most so many pictures."""
    some = share(end - begin, -(-(end - begin) // most))
    return [_Chunk(begin + first, begin + last, 0, down) for first, last in some]


def convolve(
    activation: Activation,
    convolution: Convolution,
    norm: Entry | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    output_scale: float = 1.0,
    statistics: bool = True,
    in_place: bool = False,
    gated: bool = False,
) -> Activation:
    """(conv2d(norm(activation)) + bias + residual) * output_scale, and the statistics of the result.

    bias (batch, out), instead of the convolution's own; residual (batch, out height, out width, out), of the result's
    shape, and with in_place what it may be written over. gated: geglu(conv2d(norm(activation)) + bias), of a 1x1 convolution,
    without the rest.
    """
    assert not gated or (residual is None and output_scale == 1 and not statistics)
    algorithm, weight, own_bias, points, pixels, (left, right, top, bottom) = convolution
    _, size, step, out, _, _, _, _ = algorithm
    batch, height, width, ins = extent(activation)
    outs = convolution.out_channels
    if algorithm.name == "upsample":
        out_height, out_width = 2 * height, 2 * width
    else:
        kernel, stride = algorithm.g.shape[1], step // out
        out_height = (height + top + bottom - kernel) // stride + 1
        out_width = (width + left + right - kernel) // stride + 1
    down, across = -(-out_height // out), -(-out_width // out)  # tiles
    # Tiles can be added to what they are written over, unless it is read for others; a product that is the result cannot.
    result = residual if in_place and points is not None else None
    if result is None or any(np.may_share_memory(result, each.values) for each in activation):
        result = np.empty((batch, out_height, out_width, outs // 2 if gated else outs), np.float32)
    columns = (across - 1) * step + size
    _, in_blocks, out_blocks, in_block, out_block = weight.shape

    # Tile rows that are worked on at a time: within the cache, but enough of them to be worth fetching the weights for,
    # and products below 10^6 (lay_out_weight).
    row_size = (1 if points is None else len(points)) * across * in_blocks * max(in_block, outs)
    most = max(1, _TOGETHER // row_size, min(32 // across, 2 * _TOGETHER // row_size))
    small = in_block * outs <= _SMALL
    # An even number of them, for the threads
    most = -(-down // (2 * -(-down // (2 * most)))) if small else max(1, (512 if points is None else 256) // across)
    if gated:
        most = max(1, min(most, _GATED // (across * outs)))
    # Tile rows whose input is read at a time: so that a session does not hold much memory.
    read_at_once = max(most, (_PADDED // (columns * ins) - size) // step + 1)

    # Threads share out the tile rows; where tiles are so few that fetching weights is what takes time, the weights.
    taps = size * size if points is None else algorithm.g.shape[1] ** 2
    cost = batch * out_height * out_width * (taps * ins * outs + _PASSES * (ins + outs))
    count, all_rows, all_blocks = max(1, min(get_count(), cost // _WORTH)), (0, batch * down), (0, out_blocks)
    # Small pictures are worked on several at a time, as if each were alone, where every thread has about as many.
    group = 0
    if small and down % most == 0 and down * out == out_height and -(-batch // count) * count <= 1.15 * batch:
        group = _GROUPED // (row_size * down)
    # Weights that are transformed at each call, and meet few tiles: all tiles are made first, and a block of the weights is
    # multiplied while it is in the cache.
    by_block = (
        not algorithm.kept
        and down * across <= FEW
        and batch * down * across <= 2 * FEW
        and count <= out_blocks
        and len(algorithm.g) ** 2 * ins * out_block <= _KERNELS
    )
    if by_block:
        parts = [(_chunks(*all_rows, down, most), (block, block + 1)) for block in range(out_blocks)]
    elif count <= out_blocks and (batch * down * across < 32 * count or batch * down < count):
        if gated:  # what is to be gated is small, but each half of it another thread's
            [whole] = convolve(activation, convolution, norm, bias, statistics=False)
            return [Piece(geglu(whole.values), None)]
        parts = [(_chunks(*all_rows, down, most), blocks) for blocks in share(out_blocks, count)]
    elif group > 0:
        parts = [(_groups(*pictures, down, group), all_blocks) for pictures in share(batch, count)]
        read_at_once = down
    elif small:  # the same chunks whatever the batch and the threads, so that sums are the same to the bit
        chunks = _chunks(*all_rows, down, most)
        parts = [(chunks[slice(*some)], all_blocks) for some in share(len(chunks), count)]
    else:
        parts = [(_chunks(*rows, down, most), all_blocks) for rows in share(batch * down, count)]
    if not algorithm.kept and not by_block:
        weight = _transform_weight(algorithm, weight)
    taken: list[list[list[Taken]]] = [[[] for _ in range(batch)] for _ in parts]  # of each part, for each picture

    def make_tiles(thread: int, chunks: list[_Chunk]) -> Iterator[tuple[_Chunk, np.ndarray, Iterator[str]]]:
        """A chunk, its tiles (points, tiles, in), and the workspaces of which the first may be written over next."""
        while chunks:
            first_picture, last_picture, first, _ = chunks[0]
            pictures, number = slice(first_picture, last_picture), last_picture - first_picture
            together = [each for each in chunks if each.first == first_picture and each.end - first <= read_at_once]
            chunks = chunks[len(together) :]
            stop = together[-1].end
            rows = (stop - first - 1) * step + size
            if size == 1 and step == 1 and norm is None and len(activation) == 1:
                lines = activation[0].values[pictures, first : first + rows]
            else:
                lines = workspace("padded", number, rows, columns, ins)
                _read_rows(lines, activation, norm, pictures, first * step - top, left)
            for chunk in together:
                check_point(thread)
                many = chunk.end - chunk.begin
                block = lines[:, (chunk.begin - first) * step :]
                scratch = itertools.cycle(("even", "odd"))  # each operation reads what the one before it wrote
                picture, row, column, channel = block.strides
                tile_count = number * many * across
                if size == 1 and step == 1:
                    tiles = block[:, :many].reshape(1, tile_count, ins)
                elif algorithm.b is None or points is None:  # a row of a tile is one run of memory
                    tiles = workspace(next(scratch), number, many, across, size, size * ins)
                    strides = (picture, step * row, step * column, row, channel)
                    tiles[...] = np.ndarray(tiles.shape, np.float32, block, 0, strides)
                    tiles = tiles.reshape(1, tile_count, size * size * ins)
                else:
                    tiles = workspace(next(scratch), size, size, number, many, across, ins)
                    shifts = (row, column, picture, step * row, step * column, channel)
                    tiles[...] = np.ndarray(tiles.shape, np.float32, block, 0, shifts)
                    gathered = tiles.reshape(size * size, -1)
                    tiles = workspace(next(scratch), len(points), tile_count, ins)
                    transformed = tiles.reshape(len(points), -1)
                    if algorithm.kept:
                        _transform(points, gathered, transformed, min(many, most) * across * ins)
                    else:
                        _transform_twice(algorithm.b, gathered, transformed)
                yield chunk, tiles, scratch

    def multiply(
        thread: int, part: int, chunk: _Chunk, tiles: np.ndarray, part_weight: np.ndarray, scratch: Iterator[str]
    ) -> None:
        """Make the part of the result that the tiles and some out blocks of the weight give."""
        blocks = parts[part][1]
        mine = slice(blocks[0] * out_block, blocks[1] * out_block)
        wide = mine.stop - mine.start
        pictures, number, many = slice(chunk.first, chunk.last), chunk.last - chunk.first, chunk.end - chunk.begin
        unit = min(many, most)  # tile rows that are multiplied as if they were alone
        tile_count, tile_unit = number * many * across, unit * across
        begin, end = chunk.begin * out, min(chunk.end * out, out_height)
        target = result[pictures, begin:end, :, mine]
        addend = (own_bias[None] if bias is None else bias[pictures])[:, mine]
        beside = None if residual is None else residual[pictures, begin:end, :, mine]
        if pixels.size == in_blocks:  # what the product gives is the result, or its sum over the blocks
            flat = result[pictures, begin:end].reshape(tile_count, -1)[:, mine]
            if gated:
                halves, flat = flat, workspace("gated", tile_count, outs)
            summed = flat
            if in_blocks == 1:
                _multiply(tiles, part_weight, flat[None, None], small, tile_unit)
            else:
                product = workspace(next(scratch), 1, in_blocks, tile_count, wide)
                _multiply(tiles, part_weight, product, small, tile_unit)
                summed = workspace(next(scratch), tile_count, wide)
                _transform(pixels, product.reshape(in_blocks, -1), summed.reshape(1, -1), tile_unit * wide)
            times = pixels_a_row(flat[: len(flat) // number])
            long = flat.reshape(number, -1, times * wide)
            np.add(summed.reshape(long.shape), repeated(addend, times)[:, None], out=long)
            if gated:
                geglu_alone(thread, flat, halves)
            if beside is not None:
                np.add(target, beside, out=target)
        else:
            product = workspace(next(scratch), len(tiles), in_blocks, tile_count, wide)
            _multiply(tiles, part_weight, product, small, tile_unit)
            summed = workspace(next(scratch), out * out, tile_count * wide)
            if algorithm.kept:
                _transform(pixels, product.reshape(len(tiles) * in_blocks, -1), summed, tile_unit * wide)
            else:
                _transform_twice(algorithm.a, product.reshape(len(tiles) * in_blocks, -1), summed, in_blocks)
            placed = summed.reshape(out, out, number, many, across, wide).transpose(2, 3, 0, 4, 1, 5)
            addend, tiled = addend[:, None, None, None, None], (number, many, out, across, out, wide)
            if target.shape[1] != many * out or out_width != across * out:
                whole = workspace(next(scratch), *tiled)
                np.add(placed, addend, out=whole)
                whole = whole.reshape(number, many * out, across * out, wide)[:, : end - begin, :out_width]
                if beside is None:
                    target[...] = whole
                else:
                    np.add(whole, beside, out=target)
            elif beside is None:
                np.add(placed, addend, out=target.reshape(tiled))
            else:
                np.add(placed, addend, out=placed)
                np.add(placed, beside.reshape(tiled), out=target.reshape(tiled))
        if output_scale != 1:
            np.multiply(target, np.float32(output_scale), out=target)
        if statistics:
            units = channel_statistics(target.reshape(number * many // unit, -1, target.shape[3]))
            for place, each in enumerate(units):
                taken[part][chunk.first + place * unit // many].append(each)

    def place(chunk: _Chunk) -> slice:
        """Of a chunk's tiles among those of all pictures."""
        begin, end = ((chunk.first * down + row) * across for row in (chunk.begin, chunk.end))
        return slice(begin, end)

    if by_block:
        all_tiles = workspace("all tiles", len(algorithm.g) ** 2, batch * down * across, ins)
        own_rows = share(batch * down, count)

        def keep_tiles(thread: int) -> None:
            for chunk, tiles, _ in make_tiles(thread, _chunks(*own_rows[thread], down, most)):
                all_tiles[:, place(chunk)] = tiles

        parallel(keep_tiles, len(own_rows))

    def kept_tiles(thread: int, chunks: list[_Chunk]) -> Iterator[tuple[_Chunk, np.ndarray, Iterator[str]]]:
        """What make_tiles made."""
        for chunk in chunks:
            check_point(thread)
            yield chunk, all_tiles[:, place(chunk)], itertools.cycle(("even", "odd"))

    tiles_of_chunks = kept_tiles if by_block else make_tiles
    shares = share(len(parts), count)

    def work(thread: int) -> None:
        for part in range(*shares[thread]):
            chunks, blocks = parts[part]
            part_weight = weight[:, :, slice(*blocks)]
            if by_block:
                part_weight = _transform_block(algorithm, part_weight)
            for chunk, tiles, scratch in tiles_of_chunks(thread, chunks):
                multiply(thread, part, chunk, tiles, part_weight, scratch)

    parallel(work, len(shares))
    if not statistics:
        return [Piece(result, None)]
    if parts[0][1] == all_blocks:  # the parts are of the same channels
        taken = [[[each for part in taken for each in part[picture]] for picture in range(batch)]]
    mean, deviation = (np.concatenate(kind, axis=1) for kind in zip(*map(merge_statistics, taken), strict=True))
    return [Piece(result, Statistics(mean, deviation))]


def conv2d(
    input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, stride: int = 1, padding: int = 0
) -> np.ndarray:
    """(in, height, width), (out, in, kernel height, kernel width), (out) -> (out, ..., ...), for any kernel: im2col."""
    outs, _, *kernel = weight.shape
    padded = np.pad(input, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(1, 2))
    windows = windows[:, ::stride, ::stride]  # (in, out height, out width, kernel height, kernel width)
    _, height, width = windows.shape[:3]
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, height * width)
    output = np.matmul(weight.reshape(outs, -1), columns)
    if bias is not None:
        output += bias[:, None]
    return output.reshape(outs, height, width)
