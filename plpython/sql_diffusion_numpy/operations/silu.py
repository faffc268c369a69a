"""SiLU of every element."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain
from ..layers.silu import silu


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(silu(joined(plain(inputs[0]))), None)]
