"""Sines and cosines of the input, a timestep or another number: of each of its channels, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import joined
from ..layers.modules import Network, PlanRow, Value, plain, vector_value
from ..layers.timestep_embedding import timestep_embedding


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    numbers = joined(plain(inputs[0]))[:, 0, 0]  # (batch, channels)
    size = row.out_channels // row.in_channels
    waves = [[timestep_embedding(float(number), size, **row.settings) for number in each] for each in numbers]
    return vector_value(np.array(waves).reshape(len(numbers), -1))
