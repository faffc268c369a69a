"""Sines and cosines of the logarithm of the input, the noise's standard deviation, at the checkpoint's own frequencies:
diffusers' GaussianFourierProjection (Tancik et al. 2020, arXiv:2006.10739, section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.modules import Layout, Network, PlanRow, Read, Value, joined, plain, vector_value


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    layout.arrays[f"{row.key}.weight"] = read(row.key)[0]


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    number = np.log(joined(plain(inputs[0]))[:, 0, 0])  # (batch, 1)
    angle = (number * network.arrays[f"{row.key}.weight"] * np.float32(2) * np.float32(np.pi)).astype(np.float64)
    return vector_value(np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32))
