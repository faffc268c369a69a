"""gelu of every element."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.gelu import gelu
from ..layers.modules import Network, PlanRow, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return [Piece(gelu(joined(plain(inputs[0])), row.settings.get("approximate", "none")), None)]
