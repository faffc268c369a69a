"""Convolutions, run: tiles are read, transformed, multiplied, transformed back and added to (winograd.py says why).

What is worked on at a time stays in the cache from one operation to the next; threads share the work out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..threads import check_point, get_count, parallel, share, workspace
from .activation import Activation, Piece, extent
from .geglu import geglu, geglu_alone
from .group_norm import Norm, Statistics, Taken, channel_statistics, merge_statistics, pixels_a_row, repeated
from .products import multiply, transform, transform_block, transform_twice, transform_weight
from .relu import Rectifier, relu_into
from .winograd import FEW, SMALL, Convolution

Entry = Norm | Rectifier  # what a layer does to the values that it reads

# Values that are worked on at a time, so that they stay in the cache between one operation and the next
_CACHED = 1 << 16  # of a norm
_TOGETHER = 1 << 17  # of a product
_PADDED = 1 << 18  # of the input
_KERNELS = 3 << 20  # of an out block that is transformed at each call
_GATED = 2 << 20  # that are gated together
_SHIFTED = 1 << 16  # pixels of a result that is worth making from products of shifted pixels
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


class _Sizes(NamedTuple):
    """Of a convolution's input, its tiles and its result."""

    batch: int
    ins: int
    outs: int
    columns: int  # of the input, with the padding
    down: int  # rows of tiles
    across: int
    height: int  # of the result
    width: int


def _sizes(activation: Activation, convolution: Convolution) -> _Sizes:
    algorithm, (left, right, top, bottom) = convolution.algorithm, convolution.padding
    batch, height, width, ins = extent(activation)
    if algorithm.name == "upsample":
        height, width = 2 * height, 2 * width
    else:
        kernel, stride = algorithm.g.shape[1], algorithm.step // algorithm.out
        height = (height + top + bottom - kernel) // stride + 1
        width = (width + left + right - kernel) // stride + 1
    down, across = -(-height // algorithm.out), -(-width // algorithm.out)
    columns = (across - 1) * algorithm.step + algorithm.size
    return _Sizes(batch, ins, convolution.out_channels, columns, down, across, height, width)


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


class _Plan(NamedTuple):
    """How the work of a convolution is shared out."""

    threads: int
    parts: list[tuple[list[_Chunk], tuple[int, int]]]  # tiles, and the out blocks that they are multiplied with
    rows: int  # of tiles that are multiplied at a time, as if they were alone
    read_at_once: int  # rows of tiles whose input is read at a time, so that a session does not hold much memory
    small: bool  # whether the products are small ones (lay_out_weight)
    by_block: bool  # all tiles are made first, and each block of the weight is transformed when its turn comes
    shifted: bool  # pixels are multiplied with all taps at once, and their products added up where they belong


def _plan(convolution: Convolution, sizes: _Sizes, gated: bool) -> _Plan:
    """Threads share out the tile rows; where tiles are so few that fetching weights is what takes time, the weights."""
    algorithm, points = convolution.algorithm, convolution.points
    batch, ins, outs, columns, down, across, height, width = sizes
    _, in_blocks, out_blocks, in_block, out_block = convolution.weight.shape

    # Tile rows that are worked on at a time: within the cache, but enough of them to be worth fetching the weights for,
    # and products below 10^6 (lay_out_weight).
    row_size = (1 if points is None else len(points)) * across * in_blocks * max(in_block, outs)
    most = max(1, _TOGETHER // row_size, min(32 // across, 2 * _TOGETHER // row_size))
    small = in_block * outs <= SMALL
    # An even number of them, for the threads
    most = -(-down // (2 * -(-down // (2 * most)))) if small else max(1, (512 if points is None else 256) // across)
    if gated:
        most = max(1, min(most, _GATED // (across * outs)))
    # Taps are few where a large picture comes out: to gather their pixels takes longer than to multiply them.
    shifted = points is None and algorithm.step == 1 and algorithm.size**2 * outs <= ins and height * width >= _SHIFTED
    if shifted:
        most = 8
    read_at_once = max(most, (_PADDED // (columns * ins) - algorithm.size) // algorithm.step + 1)

    taps = algorithm.size**2 if points is None else algorithm.g.shape[1] ** 2
    cost = batch * height * width * (taps * ins * outs + _PASSES * (ins + outs))
    threads = max(1, min(get_count(), cost // _WORTH))
    all_rows, all_blocks = (0, batch * down), (0, out_blocks)
    # Small pictures are worked on several at a time, as if each were alone, where every thread has about as many.
    group = 0
    if small and down % most == 0 and down * algorithm.out == height and -(-batch // threads) * threads <= 1.15 * batch:
        group = _GROUPED // (row_size * down)
    # Weights that are transformed at each call, and meet few tiles: a block of them is multiplied while it is in the cache.
    by_block = (
        not algorithm.kept
        and down * across <= FEW
        and batch * down * across <= 2 * FEW
        and threads <= out_blocks
        and len(algorithm.g) ** 2 * ins * out_block <= _KERNELS
    )
    if by_block:
        parts = [(_chunks(*all_rows, down, most), (block, block + 1)) for block in range(out_blocks)]
    elif threads <= out_blocks and (batch * down * across < 32 * threads or batch * down < threads):
        parts = [(_chunks(*all_rows, down, most), blocks) for blocks in share(out_blocks, threads)]
    elif group > 0:
        parts = [(_groups(*pictures, down, group), all_blocks) for pictures in share(batch, threads)]
        read_at_once = down
    elif small:  # the same chunks whatever the batch and the threads, so that sums are the same to the bit
        chunks = _chunks(*all_rows, down, most)
        parts = [(chunks[slice(*some)], all_blocks) for some in share(len(chunks), threads)]
    else:
        parts = [(_chunks(*rows, down, most), all_blocks) for rows in share(batch * down, threads)]
    return _Plan(threads, parts, most, read_at_once, small, by_block, shifted)


# A chunk, its tiles, and the workspaces of which the first may be written over next
Made = tuple[_Chunk, np.ndarray, Iterator[str]]


class _Tiles:
    """The tiles of a convolution's input, transformed."""

    def __init__(
        self, activation: Activation, convolution: Convolution, norm: Entry | None, sizes: _Sizes, plan: _Plan
    ) -> None:
        self.activation, self.convolution, self.norm, self.sizes, self.plan = activation, convolution, norm, sizes, plan
        self.kept: np.ndarray | None = None  # all of them

    def of(self, thread: int, chunks: list[_Chunk]) -> Iterator[Made]:
        """Those of each chunk, (points, tiles, in)."""
        if self.kept is None:
            yield from self._make(thread, chunks)
        else:
            for chunk in chunks:
                check_point(thread)
                yield chunk, self.kept[:, self._place(chunk)], itertools.cycle(("even", "odd"))

    def keep(self) -> None:
        """Make all of them now."""
        batch, ins, _, _, down, across, _, _ = self.sizes
        kept = workspace("all tiles", len(self.convolution.algorithm.g) ** 2, batch * down * across, ins)
        shares = share(batch * down, self.plan.threads)

        def work(thread: int) -> None:
            for chunk, tiles, _ in self._make(thread, _chunks(*shares[thread], down, self.plan.rows)):
                kept[:, self._place(chunk)] = tiles

        parallel(work, len(shares))
        self.kept = kept

    def _place(self, chunk: _Chunk) -> slice:
        """Of a chunk's tiles among those of all pictures."""
        begin, end = ((chunk.first * self.sizes.down + row) * self.sizes.across for row in (chunk.begin, chunk.end))
        return slice(begin, end)

    def _make(self, thread: int, chunks: list[_Chunk]) -> Iterator[Made]:
        _, size, step, *_ = self.convolution.algorithm
        left, _, top, _ = self.convolution.padding
        while chunks:
            first_picture, last_picture, first, _ = chunks[0]
            pictures, number = slice(first_picture, last_picture), last_picture - first_picture
            together = [
                each for each in chunks if each.first == first_picture and each.end - first <= self.plan.read_at_once
            ]
            chunks = chunks[len(together) :]
            stop = together[-1].end
            rows = (stop - first - 1) * step + size
            if size == 1 and step == 1 and self.norm is None and len(self.activation) == 1:
                lines = self.activation[0].values[pictures, first : first + rows]
            else:
                lines = workspace("padded", number, rows, self.sizes.columns, self.sizes.ins)
                _read_rows(lines, self.activation, self.norm, pictures, first * step - top, left)
            for chunk in together:
                check_point(thread)
                scratch = itertools.cycle(("even", "odd"))  # each operation reads what the one before it wrote
                tiles = self._gather(lines[:, (chunk.begin - first) * step :], chunk.end - chunk.begin, scratch)
                yield chunk, tiles, scratch

    def _gather(self, lines: np.ndarray, many: int, scratch: Iterator[str]) -> np.ndarray:
        """So many rows of tiles from lines of the input (pictures, rows, columns, in): (points, tiles, in), or shifted the lines."""
        algorithm, points = self.convolution.algorithm, self.convolution.points
        size, step, number, across, ins = algorithm.size, algorithm.step, len(lines), self.sizes.across, self.sizes.ins
        count = number * many * across
        if self.plan.shifted:
            return lines[:, : many + size - 1]
        picture, row, column, channel = lines.strides
        if size == 1 and step == 1:
            return lines[:, :many].reshape(1, count, ins)
        if algorithm.b is None or points is None:  # a row of a tile is one run of memory
            tiles = workspace(next(scratch), number, many, across, size, size * ins)
            strides = (picture, step * row, step * column, row, channel)
            tiles[...] = np.ndarray(tiles.shape, np.float32, lines, 0, strides)
            return tiles.reshape(1, count, size * size * ins)
        gathered = workspace(next(scratch), size, size, number, many, across, ins)
        shifts = (row, column, picture, step * row, step * column, channel)
        gathered[...] = np.ndarray(gathered.shape, np.float32, lines, 0, shifts)
        tiles = workspace(next(scratch), len(points), count, ins)
        given, transformed = gathered.reshape(size * size, -1), tiles.reshape(len(points), -1)
        if algorithm.kept:
            transform(points, given, transformed, min(many, self.plan.rows) * across * ins)
        else:
            transform_twice(algorithm.b, given, transformed)
        return tiles


class _Result:
    """What a convolution makes of tiles: products, transformed back, with all that is added to them."""

    def __init__(
        self,
        values: np.ndarray,
        convolution: Convolution,
        sizes: _Sizes,
        plan: _Plan,
        bias: np.ndarray | None,
        residual: np.ndarray | None,
        output_scale: float,
        gated: bool,
    ) -> None:
        self.values, self.convolution, self.sizes, self.plan = values, convolution, sizes, plan
        self.bias = convolution.bias[None] if bias is None else bias
        self.residual, self.output_scale, self.gated = residual, output_scale, gated

    def make(
        self,
        thread: int,
        blocks: tuple[int, int],
        chunk: _Chunk,
        tiles: np.ndarray,
        weight: np.ndarray,
        scratch: Iterator[str],
    ) -> np.ndarray:
        """The part of the result that the tiles and these out blocks of the weight give, (pictures, rows, width, out)."""
        algorithm, out_block = self.convolution.algorithm, weight.shape[4]
        mine = slice(blocks[0] * out_block, blocks[1] * out_block)
        pictures, out = slice(chunk.first, chunk.last), algorithm.out
        rows = slice(chunk.begin * out, min(chunk.end * out, self.sizes.height))
        target = self.values[pictures, rows, :, mine]
        bias = (self.bias if len(self.bias) == 1 else self.bias[pictures])[:, mine]
        residual = None if self.residual is None else self.residual[pictures, rows, :, mine]
        if self.convolution.points is None:
            if self.plan.shifted:
                self._add_shifted(target, tiles, weight, bias, scratch)
            else:
                self._add(thread, target, tiles, weight, bias, scratch)
            if residual is not None:
                np.add(target, residual, out=target)
        else:
            self._transform_back(target, chunk, tiles, weight, bias, residual, scratch)
        if self.output_scale != 1:
            np.multiply(target, np.float32(self.output_scale), out=target)
        return target

    def _add(
        self,
        thread: int,
        target: np.ndarray,
        tiles: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        scratch: Iterator[str],
    ) -> None:
        """What the products give is the result, or its sum over the in blocks."""
        number, many, across, _ = target.shape
        in_blocks, wide, count, unit = weight.shape[1], bias.shape[1], number * many * across, self._unit(many)
        flat = target.reshape(count, -1)
        if self.gated:
            halves, flat = flat, workspace("gated", count, wide)
        summed = flat
        if in_blocks == 1:
            multiply(tiles, weight, flat[None, None], self.plan.small, unit)
        else:
            product = workspace(next(scratch), 1, in_blocks, count, wide)
            multiply(tiles, weight, product, self.plan.small, unit)
            summed = workspace(next(scratch), count, wide)
            transform(self.convolution.pixels, product.reshape(in_blocks, -1), summed.reshape(1, -1), unit * wide)
        times = pixels_a_row(flat[: len(flat) // number])
        long = flat.reshape(number, -1, times * wide)
        np.add(summed.reshape(long.shape), repeated(bias, times)[:, None], out=long)
        if self.gated:
            geglu_alone(thread, flat, halves)

    def _add_shifted(
        self, target: np.ndarray, lines: np.ndarray, weight: np.ndarray, bias: np.ndarray, scratch: Iterator[str]
    ) -> None:
        """Each tap's products are a picture, and the result the sum of these, shifted: kn2row (Vasudevan, Anderson and Gregg 2017, arXiv:1704.04428)."""
        size, (number, many, width, outs), (_, rows, columns, ins) = (
            self.convolution.algorithm.size,
            target.shape,
            lines.shape,
        )
        taps = weight.swapaxes(2, 3).reshape(size, size, ins, outs).swapaxes(2, 3).reshape(-1, ins)
        product = workspace(next(scratch), number, len(taps), rows * columns)
        np.matmul(taps, lines.reshape(number, -1, ins).swapaxes(1, 2), out=product)
        pictures = product.reshape(number, size, size, outs, rows, columns)
        summed = workspace(next(scratch), number, outs, many, width)
        summed[...] = bias[:, :, None, None]
        for down, right in itertools.product(range(size), repeat=2):
            np.add(summed, pictures[:, down, right, :, down : down + many, right : right + width], out=summed)
        target[...] = summed.transpose(0, 2, 3, 1)

    def _transform_back(
        self,
        target: np.ndarray,
        chunk: _Chunk,
        tiles: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray,
        residual: np.ndarray | None,
        scratch: Iterator[str],
    ) -> None:
        """What the products give is transformed with A, and each tile comes to its place."""
        algorithm, pixels, across = self.convolution.algorithm, self.convolution.pixels, self.sizes.across
        out, number, many, wide = algorithm.out, chunk.last - chunk.first, chunk.end - chunk.begin, bias.shape[1]
        in_blocks, count, unit = weight.shape[1], number * many * across, self._unit(many)
        product = workspace(next(scratch), len(tiles), in_blocks, count, wide)
        multiply(tiles, weight, product, self.plan.small, unit)
        summed = workspace(next(scratch), out * out, count * wide)
        if algorithm.kept:
            transform(pixels, product.reshape(len(tiles) * in_blocks, -1), summed, unit * wide)
        else:
            transform_twice(algorithm.a, product.reshape(len(tiles) * in_blocks, -1), summed, in_blocks)
        placed = summed.reshape(out, out, number, many, across, wide).transpose(2, 3, 0, 4, 1, 5)
        addend, tiled = bias[:, None, None, None, None], (number, many, out, across, out, wide)
        _, rows, width, _ = target.shape
        if (rows, width) != (many * out, across * out):  # the last tiles are cut
            whole = workspace(next(scratch), *tiled)
            np.add(placed, addend, out=whole)
            whole = whole.reshape(number, many * out, across * out, wide)[:, :rows, :width]
            if residual is None:
                target[...] = whole
            else:
                np.add(whole, residual, out=target)
        elif residual is None:
            np.add(placed, addend, out=target.reshape(tiled))
        else:
            np.add(placed, addend, out=placed)
            np.add(placed, residual.reshape(tiled), out=target.reshape(tiled))

    def _unit(self, many: int) -> int:
        """Of so many tile rows, how many tiles are multiplied as if they were alone."""
        return min(many, self.plan.rows) * self.sizes.across


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
    sizes = _sizes(activation, convolution)
    plan = _plan(convolution, sizes, gated)
    all_blocks = (0, convolution.weight.shape[2])
    shares_tiles = plan.parts[0][1] == all_blocks
    if gated and not shares_tiles:  # what is to be gated is small, but each half of it another thread's
        [whole] = convolve(activation, convolution, norm, bias, statistics=False)
        return [Piece(geglu(whole.values), None)]

    # Tiles can be added to what they are written over, unless it is read for others; a product that is the result cannot.
    values = residual if in_place and convolution.points is not None else None
    if values is None or any(np.may_share_memory(values, each.values) for each in activation):
        channels = sizes.outs // 2 if gated else sizes.outs
        values = np.empty((sizes.batch, sizes.height, sizes.width, channels), np.float32)
    tiles = _Tiles(activation, convolution, norm, sizes, plan)
    result = _Result(values, convolution, sizes, plan, bias, residual, output_scale, gated)
    algorithm, weight = convolution.algorithm, convolution.weight
    if plan.by_block:
        tiles.keep()
    elif not algorithm.kept:
        weight = transform_weight(algorithm, weight)
    taken: list[list[list[Taken]]] = [[[] for _ in range(sizes.batch)] for _ in plan.parts]  # for each picture
    shares = share(len(plan.parts), plan.threads)

    def work(thread: int) -> None:
        for part in range(*shares[thread]):
            chunks, blocks = plan.parts[part]
            mine = weight[:, :, slice(*blocks)]
            if plan.by_block:
                mine = transform_block(algorithm, mine)
            for chunk, made, scratch in tiles.of(thread, chunks):
                target = result.make(thread, blocks, chunk, made, mine, scratch)
                if statistics:
                    _take(target, chunk, plan.rows, taken[part])

    parallel(work, len(shares))
    if not statistics:
        return [Piece(values, None)]
    if shares_tiles:  # the parts are of the same channels
        taken = [[[each for part in taken for each in part[picture]] for picture in range(sizes.batch)]]
    mean, deviation = (np.concatenate(kind, axis=1) for kind in zip(*map(merge_statistics, taken), strict=True))
    return [Piece(values, Statistics(mean, deviation))]


def _take(target: np.ndarray, chunk: _Chunk, rows: int, taken: list[list[Taken]]) -> None:
    """The statistics of a chunk of the result, for each picture, so many tile rows as if they were alone."""
    number, many = chunk.last - chunk.first, chunk.end - chunk.begin
    unit = min(many, rows)
    for place, each in enumerate(channel_statistics(target.reshape(number * many // unit, -1, target.shape[3]))):
        taken[chunk.first + place * unit // many].append(each)


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
