"""The sum of two inputs of one shape; either may be one for all pictures of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, extent, joined
from ..layers.conv2d import convolve
from ..layers.elementwise import activate
from ..layers.modules import Network, PlanRow, Unfinished, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    for left, right, step in zip(inputs, inputs[::-1], row.inputs[::-1], strict=True):
        if isinstance(left, Unfinished):
            other = joined(plain(right))
            if len(other) == extent(left.activation)[0]:
                statistics, in_place = row.step in network.normed, step in network.spent
                return convolve(*left, residual=other, in_place=in_place, statistics=statistics)
    values = [joined(plain(value)) for value in inputs]
    if values[0].shape != values[1].shape:
        return [Piece(values[0] + values[1], None)]
    free = (each for each, step in zip(values, row.inputs, strict=True) if step in network.spent)
    return [Piece(activate(np.add, *values, out=next(free, None)), None)]
