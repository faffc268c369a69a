"""The first half of the channels times gelu of the second."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import Piece
from ..layers.geglu import geglu
from ..layers.modules import Network, PlanRow, Value, joined, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(geglu(joined(plain(inputs[0]))), None)]
