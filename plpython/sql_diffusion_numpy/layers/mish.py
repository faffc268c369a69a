"""Mish, x tanh(softplus(x)) (Misra 2019, arXiv:1908.08681, equation 1)."""

from __future__ import annotations

import numpy as np

from ..threads import workspace
from .elementwise import activate


def mish_into(x: np.ndarray, out: np.ndarray) -> None:
    """tanh(ln(1 + e)) is n / (n + 2) with n = e (e + 2) and e = exp(x); above 20 that is 1."""
    power, other = workspace("even", *x.shape), workspace("odd", *x.shape)
    np.minimum(x, np.float32(20), out=power)
    np.exp(power, out=power)
    np.add(power, np.float32(2), out=other)
    np.multiply(power, other, out=power)
    np.add(power, np.float32(2), out=other)
    np.divide(power, other, out=power)
    np.multiply(power, x, out=out)


def mish(input: np.ndarray) -> np.ndarray:
    """Any shape, float32."""
    with np.errstate(under="ignore"):
        return activate(mish_into, input)
