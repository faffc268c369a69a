"""GELU, x Phi(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415, equation 2)."""

from __future__ import annotations

import numpy as np

from ..threads import workspace
from .elementwise import activate

# gelu is x/2 (1 + tanh(x p)), exactly so with tanh(x p) = erf(x / sqrt(2)), which gives p a smooth function of x^2:
# this quotient of two polynomials is within 5e-9 of erf everywhere. Coefficients from the highest power.
_ABOVE = (1.8919879781168904e-4, 7.479821172701955e-3, 9.880476453360715e-2, 0.7978845937040414)
_BELOW = (3.962417694671399e-5, 5.855118901470752e-3, 7.829371178428104e-2, 1.0)
_TANH = (0.035677408136300125, 0.7978845608028654)  # sqrt(2 / pi) (1 + 0.044715 x^2)
_FAR = 36.0  # the square of x from where on gelu is x, or 0, to the last digit of a float32


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray, out: np.ndarray) -> None:
    np.multiply(x, np.float32(coefficients[0]), out=out)
    for coefficient in coefficients[1:-1]:
        np.add(out, np.float32(coefficient), out=out)
        np.multiply(out, x, out=out)
    np.add(out, np.float32(coefficients[-1]), out=out)


@np.errstate(over="ignore", under="ignore")
def _gelu(x: np.ndarray, out: np.ndarray, tanh: bool) -> None:
    """NumPy's warnings are off in this thread: tanh of infinity is 1."""
    square, factor = workspace("even", *x.shape), workspace("odd", *x.shape)
    np.multiply(x, x, out=square)
    np.minimum(square, np.float32(_FAR), out=square)
    _polynomial(_TANH if tanh else _ABOVE, square, factor)
    if not tanh:
        divisor = workspace("divisor", *x.shape)
        _polynomial(_BELOW, square, divisor)
        np.divide(factor, divisor, out=factor)
    np.multiply(factor, x, out=factor)
    np.tanh(factor, out=factor)
    np.add(factor, np.float32(1), out=factor)
    np.multiply(factor, np.float32(0.5), out=factor)
    np.multiply(factor, x, out=out)


def gelu_into(x: np.ndarray, out: np.ndarray) -> None:
    _gelu(x, out, False)


def gelu_tanh_into(x: np.ndarray, out: np.ndarray) -> None:
    _gelu(x, out, True)


def gelu(input: np.ndarray, approximate: str = "none") -> np.ndarray:
    """Any shape, float32."""
    return activate(gelu_tanh_into if approximate == "tanh" else gelu_into, input)
