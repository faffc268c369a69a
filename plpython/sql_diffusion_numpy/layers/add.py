"""Sums: of two tensors, and of a tensor and a vector of its channels."""

from __future__ import annotations

import numpy as np

from ..errors import fail
from ..tensors import check_same_shape


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    check_same_shape(b, a, "add: b", "a")
    return a + b


def add_channels(input: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(channels, ...) + (channels)"""
    if len(vector) != len(input):
        fail(
            f"add_channels: vector has {len(vector)} elements, "
            f"expected one for each of the {len(input)} channels of input"
        )
    return input + vector.reshape(-1, *[1] * (input.ndim - 1))
