"""Values 0 to 1 become values -1 to 1."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(2 * joined(plain(inputs[0])) - 1, None)]
