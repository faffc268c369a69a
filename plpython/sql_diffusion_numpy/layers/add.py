"""Sums: of two tensors, and of a tensor and a vector of its channels."""

from __future__ import annotations

import numpy as np


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a + b


def add_channels(input: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(channels, ...) + (channels)"""
    return input + vector.reshape(-1, *[1] * (input.ndim - 1))
