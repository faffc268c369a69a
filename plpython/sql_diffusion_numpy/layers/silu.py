"""SiLU, x / (1 + exp(-x)) (Hendrycks and Gimpel 2016; Elfwing et al. 2017)."""

from __future__ import annotations

import numpy as np


def silu(input: np.ndarray) -> np.ndarray:
    """Any shape, float32; in float64 in between, so that exp does not overflow where a float32 may be."""
    x = input.astype(np.float64)
    return (x / (1 + np.exp(np.minimum(-x, 700)))).astype(np.float32)
