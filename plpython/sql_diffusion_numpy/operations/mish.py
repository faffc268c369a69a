"""mish of every element."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import Piece
from ..layers.mish import mish
from ..layers.modules import Network, PlanRow, Value, joined, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(mish(joined(plain(inputs[0]))), None)]
