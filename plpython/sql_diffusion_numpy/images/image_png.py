"""PNG (ISO/IEC 15948) written, compressed by zlib."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of 1 to 4 channels: gray, gray and alpha, RGB, RGBA


def image_png(image: np.ndarray, scale: int, compression: int) -> bytes:
    """The bytes of a PNG of an image (channels, height, width); each pixel becomes a square of scale pixels."""
    levels = np.rint(np.clip(image, 0, 1) * np.float32(255)).astype(np.uint8)
    rows = levels.transpose(1, 2, 0).repeat(scale, axis=1)  # (height, width * scale, channels)
    height, width, channels = rows.shape
    header = struct.pack(">IIBBBBB", width, height * scale, 8, COLOUR_TYPES[channels], 0, 0, 0)
    data = b"" if compression == 0 else _compressed(rows, scale, compression)
    if compression == 0 or len(data) >= height * scale * (1 + width * channels):
        lines = np.zeros((height, 1 + width * channels), np.uint8)
        lines[:, 1:] = rows.reshape(height, -1)
        data = _stored(lines.repeat(scale, axis=0).tobytes())
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _compressed(rows: np.ndarray, scale: int, compression: int) -> bytes:
    """Rows as a zlib stream, by filter 4; a row that equals the one above it is nothing but zeros by filter 2."""
    height, width, channels = rows.shape
    around = np.zeros((height + 1, width + 1, channels), np.int16)
    around[1:, 1:] = rows
    left, above, corner = around[1:, :-1], around[:-1, 1:], around[:-1, :-1]
    predicted = paeth(left, above, corner)
    lines = np.zeros((height, scale, 1 + width * channels), np.uint8)
    lines[:, 0, 0] = 4
    lines[:, 0, 1:] = (rows - predicted).astype(np.uint8).reshape(height, -1)
    lines[:, 1:, 0] = 2
    return zlib.compress(lines.tobytes(), compression)


def paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Of each three, the one nearest to left + above - corner."""
    from_left, from_above = np.abs(above - corner), np.abs(left - corner)
    from_corner = np.abs(left + above - 2 * corner)
    other = np.where(from_above <= from_corner, above, corner)
    return np.where((from_left <= from_above) & (from_left <= from_corner), left, other)


def _stored(data: bytes) -> bytes:
    """A zlib stream that does not compress: blocks of at most 65535 bytes."""
    blocks = []
    for start in range(0, len(data), 65535):
        block = data[start : start + 65535]
        blocks.append(struct.pack("<BHH", start + 65535 >= len(data), len(block), len(block) ^ 0xFFFF) + block)
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(data))
