"""For each pixel the nearest vector of a codebook (van den Oord et al. 2017, arXiv:1711.00937, equation 1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.modules import Layout, Network, PlanRow, Read, Value, plain

_AT_ONCE = 1 << 20  # distances


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    layout.arrays[f"{row.key}.weight"] = read(row.key)[0]


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    codebook = network.arrays[f"{row.key}.weight"]  # (vectors, channels)
    values = joined(plain(inputs[0]))
    pixels = values.reshape(-1, values.shape[3])
    vectors = codebook.astype(np.float64)
    half = (vectors**2).sum(axis=1) / 2
    nearest = np.empty(len(pixels), np.intp)
    together = max(1, _AT_ONCE // len(codebook))
    for first in range(0, len(pixels), together):
        # |z - e|^2 / 2, but for |z|^2 / 2, which is the same for all e
        some = slice(first, first + together)
        nearest[some] = np.argmin(half - pixels[some].astype(np.float64) @ vectors.T, axis=1)
    return [Piece(codebook[nearest].reshape(values.shape), None)]
