"""relu of every element: left for the step behind to do, where one alone takes it."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.modules import Network, Normalized, PlanRow, Value, plain
from ..layers.relu import Rectifier, relu


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation = plain(inputs[0])
    if row.step in network.passing:
        return Normalized(activation, Rectifier())
    values = joined(activation)
    return [Piece(relu(values, out=values if row.inputs[0] in network.spent else None), None)]
