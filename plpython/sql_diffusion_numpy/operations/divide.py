"""The first input divided by the second, a number."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(joined(plain(inputs[0])) / joined(plain(inputs[1])), None)]
