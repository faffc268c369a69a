"""Every pixel becomes a square of pixels."""

from __future__ import annotations

import numpy as np

from ..errors import fail


def interpolate_nearest(input: np.ndarray, scale_factor: int) -> np.ndarray:
    """(channels, height, width) -> (channels, height * scale_factor, width * scale_factor)"""
    if scale_factor < 1:
        fail(f"interpolate_nearest: scale_factor is {scale_factor}, expected at least 1")
    return input.repeat(scale_factor, axis=1).repeat(scale_factor, axis=2)
