"""Tensors: nested lists from PostgreSQL, checked, as float32 arrays; shapes; bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import fail


def braces(numbers: Sequence[int]) -> str:
    """Numbers as PostgreSQL writes an array of them: {3,64,64}."""
    return "{" + ",".join(str(number) for number in numbers) + "}"


def tensor(value: Any, name: str, dimensions: str | None = None) -> np.ndarray:
    """A nested list as a float32 array; name, as "conv2d: input", opens the message of an error.

    dimensions names those that are expected, "channels, height, width"; None for any rank.
    """
    if value is None:
        fail(f"{name} is null")
    array = np.array(value, dtype=np.float32)  # a null element becomes NaN
    if array.size == 0:
        fail(f"{name} is empty")
    if dimensions is not None:
        rank = len(dimensions.split(", "))
        if array.ndim != rank:
            plural = "s" if rank > 1 else ""
            fail(f"{name} has shape {braces(array.shape)}, expected {rank} dimension{plural} ({dimensions})")
    return array


@functools.cache
def _letters() -> list[np.ndarray]:
    """What written puts together, four letters at a time: sign and first digit, four digits, last digit and exponent."""

    def table(texts: list[str]) -> np.ndarray:
        return np.frombuffer("".join(texts).encode(), np.uint32)

    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    powers = [f"{max(exponent, 1) - 150:+04d}" for exponent in range(256)]
    return [
        table([f"{sign}0x{digit:x}" for sign in "+-" for digit in range(16)]),
        digits[np.arange(1 << 16)[:, None] >> [12, 8, 4, 0] & 15].view(np.uint32)[:, 0],
        table([f"{digit:x}p{power[:2]}" for digit in range(16) for power in powers]),
        table([f"{power[2:]}\0\0" for power in powers]),
    ]


def written(array: np.ndarray) -> np.ndarray:
    """The text of finite float32 numbers, exactly, as C writes them in hexadecimal: +0xc00000p-020 is 12."""
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    exponent = bits >> 23 & 255
    whole = bits & 0x7FFFFF | (exponent > 0).astype(np.uint32) << 23  # what is very small has no leading 1
    places = (bits >> 27 & 16 | whole >> 20, whole >> 4 & 0xFFFF, (whole & 15) << 8 | exponent, exponent)
    letters = np.empty((len(bits), 4), np.uint32)
    for place, (table, numbers) in enumerate(zip(_letters(), places, strict=True)):
        letters[:, place] = table[numbers]
    return letters.view(np.uint8).astype(np.uint32).view("U16").reshape(array.shape)


def check_values(array: np.ndarray, name: str, value: Any = None) -> None:
    """Refuse NaN and infinite values, and null elements of the nested list that the array was made of."""
    if not np.isfinite(array).all():
        check_nulls(value, name)
        fail(f"{name} holds NaN or infinite values")


def check_nulls(value: Any, name: str) -> None:
    """Refuse null elements of a nested list; None is no list, and holds none."""
    if isinstance(value, list) and _holds_none(value):
        fail(f"{name} holds null elements")


def _holds_none(value: Any) -> bool:
    return any(_holds_none(part) for part in value) if isinstance(value, list) else value is None


def check_same_shape(array: np.ndarray, model: np.ndarray, name: str, model_name: str) -> None:
    if array.shape != model.shape:
        fail(f"{name} has shape {braces(array.shape)}, expected the shape of {model_name}, {braces(model.shape)}")


def check_shape(shape: Sequence[Any] | None, name: str) -> list[int]:
    if shape is None:
        fail(f"{name} is null")
    flat = all(not isinstance(size, list) for size in shape)
    if not flat or not 1 <= len(shape) <= 6 or any(size is None or size < 1 for size in shape):
        written = (
            "{"
            + ",".join(
                "NULL" if size is None else str(size).replace(" ", "").replace("[", "{").replace("]", "}")
                for size in shape
            )
            + "}"
        )
        fail(f"{name} is {written}, expected 1 to 6 positive sizes")
    return list(shape)


def check_size(shape: Sequence[int], name: str) -> None:
    """Refuse a tensor before it is made that would have more than 2 ** 26 elements: an array holds twice that."""
    if math.prod(shape) > 1 << 26:
        written = braces([min(size, 2**31 - 1) for size in shape])
        fail(f"{name} has shape {written}, expected at most {1 << 26} elements", sqlstate="54000")


def numel(shape: Sequence[int]) -> int:
    """The number of elements of a tensor of this shape; at most 10 ** 18, for shapes that no array can have."""
    return min(math.prod(shape), 10**18)


def reshape(input: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The same elements, row-major, in another shape."""
    if input.size != numel(shape):
        fail(
            f"reshape: input has shape {braces(input.shape)}, "
            f"expected {numel(shape)} elements for the shape {braces(shape)}"
        )
    return input.reshape(shape)


def tensor_from_bytes(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Numbers of dtype float16, bfloat16 or float32, least significant byte first, row-major."""
    sizes = {"float16": 2, "bfloat16": 2, "float32": 4}
    if dtype not in sizes:
        fail(f'tensor_from_bytes: dtype is "{dtype}", expected float16, bfloat16 or float32')
    expected = numel(shape) * sizes[dtype]
    if len(data) != expected:
        fail(
            f"tensor_from_bytes: bytes has {len(data)} bytes, "
            f"expected {expected} for the shape {braces(shape)} of {dtype}"
        )
    array = numbers_from_bytes(data, dtype)
    check_values(array, "tensor_from_bytes: bytes")
    return array.reshape(shape)


def numbers_from_bytes(data: bytes, dtype: str) -> np.ndarray:
    """Numbers of dtype float16, bfloat16 or float32 as float32, flat."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if dtype == "float16" else "<f4").astype(np.float32)


def read_array_send(data: bytes) -> np.ndarray:
    """What array_send(real[]) gives: a header, then each element after its length; null elements become NaN."""
    rank, has_null = np.frombuffer(data, ">i4", 2)
    shape = np.frombuffer(data, ">i4", 2 * rank, 12)[::2]
    if has_null:
        return np.full(shape, np.nan, np.float32)
    elements = np.frombuffer(data, [("length", ">i4"), ("value", ">f4")], -1, 12 + 8 * int(rank))
    return elements["value"].astype(np.float32).reshape(shape)
