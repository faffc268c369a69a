"""ReLU, max(x, 0)."""

from __future__ import annotations

import numpy as np


def relu_into(x: np.ndarray, out: np.ndarray) -> None:
    np.maximum(x, np.float32(0), out=out)


def relu(input: np.ndarray) -> np.ndarray:
    """Any shape, float32."""
    return np.maximum(input, np.float32(0))
