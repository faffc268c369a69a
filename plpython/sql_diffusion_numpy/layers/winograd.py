"""Convolutions as they are kept, all for one bilinear algorithm; conv2d.py runs them.

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

from typing import NamedTuple

import numpy as np


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


SMALL = 1 << 17  # weights of a point whose products are small ones
SMALL_PRODUCT = 1_000_000  # M * N * K of a product that OpenBLAS does not copy for
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
    if ins * outs > SMALL and 0 < tiles <= FEW:
        out_block = _block(outs, 32)
        in_block = _block(ins, SMALL_PRODUCT // (tiles * out_block))
    elif ins * outs > SMALL:
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
