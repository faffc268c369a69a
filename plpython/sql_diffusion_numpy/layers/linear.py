"""A linear layer over the last dimension."""

from __future__ import annotations

import numpy as np


def linear(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(..., in) x (out, in) + (out) -> (..., out)"""
    outs, ins = weight.shape
    output = np.matmul(input.reshape(-1, ins), weight.T)
    if bias is not None:
        output += bias
    return output.reshape(*input.shape[:-1], outs)
