"""The first input divided by the second, a number."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import Piece
from ..layers.modules import Network, PlanRow, Value, joined, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(joined(plain(inputs[0])) / joined(plain(inputs[1])), None)]
