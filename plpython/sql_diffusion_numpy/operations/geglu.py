"""The first half of the channels times gelu of the second."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.conv2d import convolve
from ..layers.geglu import geglu
from ..layers.modules import Network, PlanRow, Unfinished, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    if isinstance(inputs[0], Unfinished):
        return convolve(*inputs[0], gated=True, statistics=False)
    return [Piece(geglu(joined(plain(inputs[0]))), None)]
