"""Channels of two tensors, one after the other."""

from __future__ import annotations

import numpy as np

from ..errors import fail
from ..tensors import braces


def concatenate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(C1, H, W), (C2, H, W) -> (C1 + C2, H, W)"""
    if a.shape[1:] != b.shape[1:]:
        fail(f"concatenate: b has shape {braces(b.shape)}, expected the height and width of a, {braces(a.shape)}")
    return np.concatenate([a, b])
