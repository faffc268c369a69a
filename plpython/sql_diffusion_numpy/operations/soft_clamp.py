"""tanh(x / limit) * limit of every element: small values stay, none goes beyond."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    limit = np.float32(row.settings["limit"])
    return [Piece(np.tanh(joined(plain(inputs[0])) / limit) * limit, None)]
