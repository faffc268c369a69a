"""A gated GELU: half of the features, times gelu of the other half (Shazeer 2020, arXiv:2002.05202, equation 6)."""

from __future__ import annotations

import numpy as np

from .elementwise import apply, apply_alone
from .gelu import gelu_into


@np.errstate(over="ignore", under="ignore")
def _geglu_into(hidden: np.ndarray, gate: np.ndarray, out: np.ndarray) -> None:
    gelu_into(gate, out)
    np.multiply(out, hidden, out=out)


def geglu_alone(part: int, rows: np.ndarray, out: np.ndarray) -> None:
    """(rows, 2 features) -> out, (rows, features), in a task of parallel, this part of it."""
    features = out.shape[1]
    apply_alone(_geglu_into, part, out, rows[:, :features], rows[:, features:])


def geglu(input: np.ndarray) -> np.ndarray:
    """(..., 2 features) -> (..., features): hidden gelu(gate), the first half being hidden. float32."""
    features = input.shape[-1] // 2
    rows = np.ascontiguousarray(input).reshape(-1, 2 * features)
    out = np.empty((len(rows), features), np.float32)
    apply(_geglu_into, out, rows[:, :features], rows[:, features:])
    return out.reshape(*input.shape[:-1], features)
