"""Reads safetensors files one tensor at a time, as float32 arrays or as the bytes that they are in the file, so that memory stays near
the largest tensor.

The safetensors library opens the file and checks its header: lengths, offsets, overlaps, element counts. The tensors
are then read at the offsets that the header names, and not through the library's memory map, whose pages would stay
resident until the whole model is.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .errors import Problem, enumerate_some

Float32Array = NDArray[np.float32]

# What is read, and how it lies in the file (little endian, as the format says).
STORAGE: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
# Of the types in 16 bits: the bits of the exponent. All of them are set in NaN and infinities alone.
EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80}
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

PIECE = 1 << 19  # elements that are read at a time where they are copied as they are

# Numbers of things, such as CLIP's position_ids: no network that is run learns them, so they are left in the file.
COUNTS: dict[str, np.dtype[Any]] = {
    **{f"{letter}{8 * size}": np.dtype(f"<{letter.lower()}{size}") for letter in "IU" for size in (1, 2, 4, 8)},
    "BOOL": np.dtype("?"),
}


class Tensor(NamedTuple):
    """Where a tensor lies in a file; nothing of it has been read yet."""

    file: Path
    name: str
    dtype: str  # of STORAGE; of a count I64 and its like
    shape: tuple[int, ...]
    offset: int  # of its first byte in the file
    transposed: bool = False  # whether the file holds the matrix with its rows and columns exchanged

    def rows(self, start: int, stop: int) -> "Tensor":
        """Some of its rows: the part of the file that holds them, under the same name."""
        skipped = start * int(np.prod(self.shape[1:], dtype=np.int64)) * self.storage.itemsize
        return self._replace(shape=(stop - start, *self.shape[1:]), offset=self.offset + skipped)

    def transpose(self) -> "Tensor":
        """The matrix with its rows and columns exchanged."""
        return self._replace(shape=self.shape[::-1], transposed=not self.transposed)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """How many bytes of the file it takes."""
        return self.size * self.storage.itemsize

    @property
    def storage(self) -> np.dtype[Any]:
        """How an element lies in the file."""
        return STORAGE.get(self.dtype) or COUNTS[self.dtype]


def read_header(file: Path, counts: bool = False) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, those of whole numbers only where counts says so.

    Raises a Problem for a file that is damaged or of another kind.
    """
    try:
        with safe_open(file, framework="numpy"):
            pass
        with file.open("rb") as stream:
            (header_length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(header_length), object_pairs_hook=no_name_twice)
    except FileNotFoundError:
        raise Problem(f"{file} does not exist", "Check the path.") from None
    except OSError as error:
        raise Problem(
            f"{file} cannot be read: {error.strerror or error}", "Check the path and its permissions."
        ) from error
    except (SafetensorError, ValueError, struct.error, RecursionError) as error:
        raise Problem(
            f"{file} is not a whole safetensors file: {str(error).removeprefix('Error while deserializing header: ')}",
            "It may have been cut short while it was copied or downloaded: fetch it again and compare its SHA-256.",
        ) from error

    entries = {
        name: entry
        for name, entry in header.items()
        if name != "__metadata__" and (counts or entry["dtype"] not in COUNTS)
    }
    odd = [f"{name} is {entry['dtype']}" for name, entry in entries.items() if entry["dtype"] not in STORAGE | COUNTS]
    if odd:
        raise Problem(
            f"{file} holds tensors of types that are not read: {enumerate_some(odd)}",
            "float64, float32, float16 and bfloat16 are. Convert it in diffusers: "
            "pipeline.to(torch.float32).save_pretrained(folder), then load the folder.",
        )
    return {
        name: Tensor(file, name, entry["dtype"], tuple(entry["shape"]), 8 + header_length + entry["data_offsets"][0])
        for name, entry in entries.items()
    }


def read_metadata(file: Path) -> dict[str, str]:
    """What else the header of a safetensors file says, in words, such as how a LoRA was trained."""
    with file.open("rb") as stream:
        (header_length,) = struct.unpack("<Q", stream.read(8))
        metadata = json.loads(stream.read(header_length)).get("__metadata__", {})
    return {str(key): str(value) for key, value in metadata.items()}


def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two entries of one name the library may have checked the other."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("its header holds a name twice")
    return dict(pairs)


def read_tensor(tensor: Tensor) -> Float32Array:
    """Its values as float32, in its shape. Raises a Problem where a value is NaN or infinite."""
    values = to_float32(read_stored(tensor, 0, tensor.size), tensor.dtype)

    finite = np.isfinite(values)
    if not finite.all():
        stored_shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        first = np.unravel_index(int(finite.argmin()), stored_shape or (1,))
        raise Problem(
            f"{tensor.name} in {tensor.file} holds {finite.size - int(finite.sum())} values that are NaN or infinite, "
            f"the first at [{', '.join(map(str, first))}]",
            "Such a network draws nothing. Take another revision or variant of the checkpoint.",
        )
    return values.reshape(tensor.shape[::-1]).T if tensor.transposed else values.reshape(tensor.shape)


def read_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor in 16 bits, row-major, in pieces. Raises a Problem where a value is NaN or infinite."""
    if tensor.transposed:
        stored = read_stored(tensor, 0, tensor.size).reshape(tensor.shape[::-1])
        parts = iter([np.ascontiguousarray(stored.T).reshape(-1)])
    else:
        parts = (read_stored(tensor, start, PIECE) for start in range(0, tensor.size, PIECE))
    exponent = EXPONENTS[tensor.dtype]
    for part in parts:
        if (part.view("<u2") & exponent == exponent).any():
            read_tensor(tensor)  # which says where
        yield part.data.cast("B")


def read_stored(tensor: Tensor, start: int, count: int) -> NDArray[Any]:
    """Some of its elements, as they lie in the file; fewer at its end."""
    count = min(count, tensor.size - start)
    stored = np.fromfile(tensor.file, tensor.storage, count, offset=tensor.offset + start * tensor.storage.itemsize)
    if stored.size != count:
        raise Problem(f"{tensor.file} became shorter while it was read", "Load it again when nothing writes to it.")
    return stored


def to_float32(stored: NDArray[Any], dtype: str) -> Float32Array:
    """Elements of a type of STORAGE as float32; what is beyond it becomes infinite."""
    if dtype == "BF16":  # the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return stored.astype(np.float32, copy=False)


def from_bytes(data: bytes, name: str) -> Float32Array:
    """What the bytes of a type of NAMES stand for, flat."""
    [dtype] = (dtype for dtype, known in NAMES.items() if known == name)
    return to_float32(np.frombuffer(data, STORAGE[dtype]), dtype)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
