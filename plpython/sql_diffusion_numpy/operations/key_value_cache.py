"""The keys and values of the tokens before, and behind them those of these tokens: the last channels of the first input,
which holds queries, keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    added = joined(plain(inputs[0]))[..., row.in_channels - row.out_channels :]  # (batch, 1, tokens, channels)
    if not inputs[1]:  # the first pass
        return [Piece(np.ascontiguousarray(added), None)]
    return [Piece(np.concatenate([joined(plain(inputs[1])), added], axis=2), None)]
