"""A border of a constant value."""

from __future__ import annotations

import numpy as np


def pad(input: np.ndarray, left: int, right: int, top: int, bottom: int, value: float) -> np.ndarray:
    """(channels, height, width) -> (channels, top + height + bottom, left + width + right)"""
    return np.pad(input, ((0, 0), (top, bottom), (left, right)), constant_values=np.float32(value))
