"""relu of every element."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import Piece
from ..layers.modules import Network, PlanRow, Value, joined, plain
from ..layers.relu import relu


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    values = joined(plain(inputs[0]))
    return [Piece(relu(values, out=values if row.inputs[0] in network.passing else None), None)]
