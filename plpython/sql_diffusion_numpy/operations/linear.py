"""A linear layer of a vector, or of each pixel or token, plus the second input, where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.conv2d import convolve
from ..layers.modules import (
    Layout,
    Network,
    PlanRow,
    Read,
    Value,
    joined,
    lay_out_module,
    plain,
    vector_of,
    vector_value,
    with_norm,
    zeros_for_none,
)


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    if is_vector(row):
        weight, bias = read(row.key)
        if f"{row.key}.weight" not in layout.arrays:  # which an embedding before it has laid out and shares
            layout.arrays[f"{row.key}.turned"] = np.ascontiguousarray(weight.T)
        layout.arrays[f"{row.key}.bias"] = zeros_for_none(bias, len(weight))
    else:
        lay_out_module(layout, read, row.key, height, width)


def is_vector(row: PlanRow) -> bool:
    return row.level is None and "tokens" not in row.settings


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    if is_vector(row):
        turned = network.arrays.get(f"{row.key}.turned")
        if turned is None:
            turned = network.arrays[f"{row.key}.weight"].T
        hidden = vector_of(inputs[0]) @ turned + network.arrays[f"{row.key}.bias"]
        return vector_value(hidden if len(inputs) == 1 else hidden + vector_of(inputs[1]))
    activation, norm = with_norm(inputs[0])
    residual = joined(plain(inputs[1])) if len(inputs) > 1 else None
    return convolve(activation, network.convolutions[row.key], norm, residual=residual)
