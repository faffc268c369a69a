"""PostgreSQL's binary form of real[], made and read by NumPy, and rows of it and of bytes for COPY.

An array is, in big-endian 32-bit words: the number of dimensions, whether there are NULLs, the element's type; for
each dimension its length and lower bound; for each element its length in bytes (always 4 here) and its value.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from psycopg import Connection
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from .tensors import Float32Array

INT4_OID, FLOAT4_OID, FLOAT4_ARRAY_OID = 23, 700, 1021

COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
COPY_TRAILER = struct.pack("!h", -1)

# Elements encoded at a time: twice this in bytes fits a core's cache, and memory does not grow with the tensor.
CHUNK = 1 << 16


class Bytes(NamedTuple):
    """A bytea that comes in pieces."""

    length: int
    pieces: Iterator[memoryview]


Field = str | tuple[int, ...] | Float32Array | Bytes | None


def array_header(array: Float32Array) -> bytes:
    """What precedes the elements."""
    dimensions = b"".join(struct.pack("!ii", length, 1) for length in array.shape)
    return struct.pack("!iii", array.ndim, 0, FLOAT4_OID) + dimensions


def encoded_length(array: Float32Array) -> int:
    """The bytes that the array takes in this form."""
    return 12 + 8 * array.ndim + 8 * array.size


def encode_elements(array: Float32Array) -> Iterator[memoryview]:
    """The elements in pieces. A piece is overwritten by the next: use it before asking for more."""
    bits = np.ascontiguousarray(array, dtype="<f4").reshape(-1).view("<i4")  # (elements,)
    piece = np.empty((min(CHUNK, max(bits.size, 1)), 2), dtype=">i4")  # (elements, [length, value])
    piece[:, 0] = 4
    for start in range(0, bits.size, CHUNK):
        part = bits[start : start + CHUNK]
        piece[: part.size, 1] = part
        yield piece[: part.size].data.cast("B")


def encode_array(array: Float32Array) -> bytes:
    """The whole array at once: for a parameter of a query."""
    return array_header(array) + b"".join(bytes(piece) for piece in encode_elements(array))


def encode_field(value: Field) -> Iterator[bytes | memoryview]:
    """One field of a row of COPY: its length, then its bytes; -1 for NULL. Text, int[], bytea or real[]."""
    if value is None:
        yield struct.pack("!i", -1)
    elif isinstance(value, str):
        text = value.encode()
        yield struct.pack("!i", len(text)) + text
    elif isinstance(value, Bytes):
        yield struct.pack("!i", value.length)
        yield from value.pieces
    elif isinstance(value, tuple):
        elements = b"".join(struct.pack("!ii", 4, element) for element in value)
        yield struct.pack("!iiiiii", 20 + len(elements), 1, 0, INT4_OID, len(value), 1) + elements
    else:
        yield struct.pack("!i", encoded_length(value)) + array_header(value)
        yield from encode_elements(value)


def encode_row(*fields: Field) -> Iterator[bytes | memoryview]:
    """One row of COPY in binary form, in pieces to be written in turn."""
    yield struct.pack("!h", len(fields))
    for field in fields:
        yield from encode_field(field)


def decode_array(data: bytes | bytearray | memoryview) -> Float32Array:
    """The array that PostgreSQL sent; NULL elements are not expected and refused."""
    dimensions, has_nulls, oid = struct.unpack_from("!iii", data)
    if has_nulls or oid != FLOAT4_OID:
        raise ValueError("expected a real[] without NULLs")
    shape = [struct.unpack_from("!ii", data, 12 + 8 * axis)[0] for axis in range(dimensions)]
    words = np.frombuffer(data, dtype=">f4", offset=12 + 8 * dimensions)  # length, value, length, value, ...
    return words[1::2].astype(np.float32).reshape(shape)


class Float32ArrayDumper(Dumper):
    """NumPy arrays as parameters of queries."""

    format = Format.BINARY
    oid = FLOAT4_ARRAY_OID

    def dump(self, obj: Any) -> bytes:
        return encode_array(obj)


class Float32ArrayLoader(Loader):
    """real[] in results as NumPy arrays."""

    format = Format.BINARY

    def load(self, data: bytes | bytearray | memoryview) -> Float32Array:
        return decode_array(data)


def register(connection: Connection[Any]) -> None:
    """Lets a connection send and receive NumPy arrays as real[]."""
    connection.adapters.register_dumper(np.ndarray, Float32ArrayDumper)
    connection.adapters.register_loader(FLOAT4_ARRAY_OID, Float32ArrayLoader)
