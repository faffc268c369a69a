"""Sines and cosines of the logarithm of the input, the noise's standard deviation, at the checkpoint's own frequencies:
diffusers' GaussianFourierProjection (Tancik et al. 2020, arXiv:2006.10739, section 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import fail
from ..layers.activation import joined
from ..layers.modules import Layout, Network, PlanRow, Read, Value, plain, vector_value


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    if f"{row.key}.weight" not in layout.arrays:  # a network asks it for its timestep and for its class
        layout.arrays[f"{row.key}.weight"] = read(row.key)[0]


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    given = joined(plain(inputs[0]))[:, 0, 0]  # (batch, 1)
    if not given.min() > 0:
        fail(
            f"unet: {row.key} takes the logarithm of its input, which is {given.min():g}, expected above 0",
            "Its timesteps are standard deviations of the noise: of training timesteps 0 can be left out, "
            "timesteps => '{900,600,300}'.",
        )
    number = np.log(given)
    angle = (number * network.arrays[f"{row.key}.weight"] * np.float32(2) * np.float32(np.pi)).astype(np.float64)
    return vector_value(np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32))
