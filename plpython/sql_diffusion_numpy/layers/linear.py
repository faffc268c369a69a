"""A linear layer over the last dimension."""

from __future__ import annotations

import numpy as np

from ..errors import fail
from ..tensors import braces


def linear(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(..., in) x (out, in) + (out) -> (..., out)"""
    outs, ins = weight.shape
    if input.shape[-1] != ins:
        fail(
            f"linear: input has shape {braces(input.shape)}, "
            f"expected a last dimension of {ins}, as weight of shape {braces(weight.shape)} takes"
        )
    if bias is not None and len(bias) != outs:
        fail(f"linear: bias has {len(bias)} elements, expected one for each of the {outs} outputs of weight")
    output = np.matmul(input.reshape(-1, ins), weight.T)
    if bias is not None:
        output += bias
    return output.reshape(*input.shape[:-1], outs)
