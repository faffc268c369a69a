"""A border of a constant value."""

from __future__ import annotations

import numpy as np

from ..errors import fail


def pad(input: np.ndarray, left: int, right: int, top: int, bottom: int, value: float) -> np.ndarray:
    """(channels, height, width) -> (channels, top + height + bottom, left + width + right)"""
    if min(left, right, top, bottom) < 0:
        fail(f"pad: padding is {left}, {right}, {top}, {bottom} (left, right, top, bottom), expected none below 0")
    return np.pad(input, ((0, 0), (top, bottom), (left, right)), constant_values=np.float32(value))
