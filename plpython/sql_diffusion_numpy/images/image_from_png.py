"""PNG (ISO/IEC 15948) read."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..errors import fail
from .image_png import SIGNATURE

NAME = "image_from_png: png"
MOST_BYTES, MOST_VALUES = 134217728, 16777216
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by colour type
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# of each pass, its first pixel's x and y, and the steps to the next
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


class Chunk(NamedTuple):
    at: int
    name: str
    size: int
    data: bytes


class Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


def chunks(png: bytes) -> Iterator[Chunk]:
    """The chunks up to IEND; the last may reach beyond the end."""
    at = 8
    while at + 8 <= len(png):
        (size,) = struct.unpack_from(">I", png, at)
        name = "".join(chr(byte) if 0 < byte < 128 else "?" for byte in png[at + 4 : at + 8])
        yield Chunk(at, name, size, png[at + 8 : at + 8 + size])
        if name == "IEND":
            return
        at += size + 12


def image_from_png(png: bytes, cancel_point: Callable[[], None]) -> np.ndarray:
    """A PNG as an image (channels, height, width), values 0 to 1."""
    header = _checked_header(png)
    found = list(chunks(png))
    _check_chunks(png, found, header.colour)
    size = sum(rows * (1 + row_bytes) for *_, rows, row_bytes in _passes(header))
    inflated = _decompressed(b"".join(chunk.data for chunk in found if chunk.name == "IDAT"), size)
    if inflated is None:
        fail(f"{NAME} is damaged: its chunks IDAT hold no zlib stream of {size} bytes")
    samples = _samples(header, inflated, cancel_point)  # (height, width, samples)
    others = {chunk.name: np.frombuffer(chunk.data, np.uint8) for chunk in found if chunk.name in ("PLTE", "tRNS")}
    return _coloured(header, samples, others.get("PLTE"), others.get("tRNS")).transpose(2, 0, 1)


def _checked_header(png: bytes) -> Header:
    if len(png) > MOST_BYTES:
        fail(f"{NAME} has {len(png)} bytes, expected at most {MOST_BYTES}", sqlstate="54000")
    if png[:8] != SIGNATURE:
        fail(
            f"{NAME} does not begin with the signature of a PNG", "No other format is read: convert the picture first."
        )
    if len(png) < 33:
        fail(f"{NAME} ends after {len(png)} bytes, within its header")
    if png[8:16] != b"\0\0\0\x0dIHDR":
        fail(f"{NAME} does not begin with the chunk IHDR of 13 bytes")
    if struct.unpack_from(">I", png, 29)[0] != zlib.crc32(png[12:29]):
        fail(f"{NAME} is damaged: the checksum of the chunk IHDR at byte 8 does not fit")
    header = Header(*struct.unpack_from(">IIBBBBB", png, 16))
    if not (1 <= header.width < 2**31 and 1 <= header.height < 2**31):
        fail(f"{NAME} has the width {header.width} and the height {header.height}, expected 1 to 2147483647")
    if header.depth not in DEPTHS.get(header.colour, ()):
        fail(
            f"{NAME} has the colour type {header.colour} with {header.depth} bits a sample, "
            "expected 0 with 1, 2, 4, 8 or 16, 3 with 1, 2, 4 or 8, or 2, 4 or 6 with 8 or 16"
        )
    if header.compression or header.filtering or header.interlace > 1:
        fail(
            f"{NAME} has the methods {header.compression}, {header.filtering} and {header.interlace} "
            "of compression, filters and interlacing, expected 0, 0 and 0 or 1"
        )
    channels = 3 if header.colour == 3 else SAMPLES[header.colour]
    channels += any(chunk.name == "tRNS" for chunk in chunks(png))
    if header.width * header.height * channels > MOST_VALUES:
        fail(
            f"{NAME} is a picture of {header.width} x {header.height} pixels and {channels} channels, "
            f"expected at most {MOST_VALUES} values",
            sqlstate="54000",
        )
    return header


def _check_chunks(png: bytes, found: list[Chunk], colour: int) -> None:
    before: list[str] = []
    entries = 0
    for at, name, size, data in found:
        if not re.fullmatch("[A-Za-z]{4}", name):
            fail(f"{NAME} has no chunk at byte {at}, expected a name of four letters")
        if at + size + 12 > len(png):
            fail(f"{NAME} ends within the chunk {name} at byte {at}")
        if struct.unpack_from(">I", png, at + 8 + size)[0] != zlib.crc32(data, zlib.crc32(name.encode())):
            fail(f"{NAME} is damaged: the checksum of the chunk {name} at byte {at} does not fit")
        if name[0].isupper() and name not in ("IHDR", "PLTE", "IDAT", "IEND"):
            fail(
                f"{NAME} has the chunk {name} at byte {at}, which is not known, and without which a picture cannot be read"
            )
        if (
            (name == "IHDR" and before)
            or (name == "PLTE" and ({"PLTE", "tRNS", "IDAT"} & set(before) or colour in (0, 4)))
            or (
                name == "tRNS" and ({"tRNS", "IDAT"} & set(before) or colour in (4, 6) or (colour == 3 and not entries))
            )
            or (name == "IDAT" and (("IDAT" in before and before[-1] != "IDAT") or (colour == 3 and not entries)))
            or (name == "IEND" and "IDAT" not in before)
        ):
            fail(f"{NAME} has the chunk {name} at byte {at}, where none can be")
        if (
            (name == "PLTE" and (size % 3 or not 3 <= size <= 768))
            or (name == "tRNS" and not (size == {0: 2, 2: 6}[colour] if colour != 3 else 1 <= size <= entries))
            or (name == "IEND" and size)
        ):
            fail(f"{NAME} has {size} bytes in the chunk {name} at byte {at}, which it cannot have")
        if name == "PLTE":
            entries = size // 3
        if before[-1:] != [name]:
            before.append(name)
    if "IEND" not in before:
        fail(f"{NAME} ends without the chunk IEND")


def _decompressed(data: bytes, size: int) -> bytes | None:
    """A zlib stream of size bytes with nothing behind it; None for anything else, which is left as soon as that is seen."""
    decompressor = zlib.decompressobj()
    try:
        inflated = decompressor.decompress(data, size + 1)
    except zlib.error:
        return None
    whole = decompressor.eof and not decompressor.unused_data and len(inflated) == size
    return inflated if whole else None


def _passes(header: Header) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """First x and y, steps of x and y, columns, rows, and bytes a row of each pass that has pixels."""
    for x, y, step_x, step_y in ADAM7 if header.interlace else [(0, 0, 1, 1)]:
        columns, rows = -((x - header.width) // step_x), -((y - header.height) // step_y)
        if columns > 0 and rows > 0:
            bits = header.depth * SAMPLES[header.colour]
            yield x, y, step_x, step_y, columns, rows, (columns * bits + 7) // 8


def _samples(header: Header, data: bytes, cancel_point: Callable[[], None]) -> np.ndarray:
    samples = SAMPLES[header.colour]
    image = np.zeros((header.height, header.width, samples), np.uint16)
    filtered, start = np.frombuffer(data, np.uint8), 0
    for x, y, step_x, step_y, columns, rows, row_bytes in _passes(header):
        lines = filtered[start : start + rows * (1 + row_bytes)].reshape(rows, 1 + row_bytes)
        start += lines.size
        plain = _unfiltered(lines, max(1, header.depth * samples // 8), cancel_point)
        numbers: np.ndarray
        if header.depth == 16:
            numbers = plain.view(">u2").astype(np.uint16)
        elif header.depth == 8:
            numbers = plain
        else:
            bits = np.unpackbits(plain, axis=1).reshape(rows, -1, header.depth)
            numbers = np.packbits(bits, axis=2)[:, :, 0] >> (8 - header.depth)
        image[y::step_y, x::step_x] = numbers[:, : columns * samples].reshape(rows, columns, samples)
    return image


def _unfiltered(lines: np.ndarray, step: int, cancel_point: Callable[[], None]) -> np.ndarray:
    """The bytes of rows, each of which begins with its filter; step is the number of bytes from a pixel to the next."""
    worst = int(lines[:, 0].max())
    if worst > 4:
        fail(f"{NAME} has a row with the filter {worst}, expected 0 to 4")
    plain = lines[:, 1:].copy()
    above = np.zeros(plain.shape[1], np.uint8)
    for row, kind in zip(plain, lines[:, 0], strict=True):
        cancel_point()
        if kind == 1:
            for lane in range(step):
                row[lane::step] = np.cumsum(row[lane::step], dtype=np.uint8)
        elif kind == 2:
            row += above
        elif kind > 2:
            row[:] = np.frombuffer(_from_neighbours(bytearray(row), bytes(above), step, bool(kind == 4)), np.uint8)
        above = row
    return plain


def _from_neighbours(row: bytearray, above: bytes, step: int, paeth: bool) -> bytearray:
    """Filter 3, the average of left and above, or 4, Paeth's predictor: byte by byte, as each needs the one before."""
    for place, upper in enumerate(above):
        left, corner = (row[place - step], above[place - step]) if place >= step else (0, 0)
        if paeth:
            from_left, from_above, from_corner = abs(upper - corner), abs(left - corner), abs(left + upper - 2 * corner)
            if from_left <= from_above and from_left <= from_corner:
                predicted = left
            else:
                predicted = upper if from_above <= from_corner else corner
        else:
            predicted = (left + upper) >> 1
        row[place] = (row[place] + predicted) & 255
    return row


def _coloured(
    header: Header, samples: np.ndarray, palette: np.ndarray | None, transparency: np.ndarray | None
) -> np.ndarray:
    """Samples (height, width, samples) as values (height, width, channels)."""
    if header.colour == 3:
        assert palette is not None
        colours, last = palette.reshape(-1, 3), int(samples.max())
        if last >= len(colours):
            fail(f"{NAME} has the colour {last} of its palette, expected at most {len(colours) - 1}")
        if transparency is not None:
            alpha = np.full((len(colours), 1), 255, np.uint8)
            alpha[: len(transparency), 0] = transparency
            colours = np.hstack([colours, alpha])
        return (colours[samples[:, :, 0]] / 255.0).astype(np.float32)
    most = (1 << header.depth) - 1
    values = (samples / float(most)).astype(np.float32)
    if transparency is None:
        return values
    transparent = transparency.view(">u2").astype(np.uint16) & most
    opaque = (samples != transparent).any(axis=2, keepdims=True)
    return np.concatenate([values, opaque.astype(np.float32)], axis=2)
