"""Adds to each token the features that the model has learned for its position."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.modules import Layout, Network, PlanRow, Read, Value, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    layout.arrays[f"{row.key}.weight"] = read(row.key)[0]


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    tokens = joined(plain(inputs[0]))  # (batch, 1, tokens, features)
    return [Piece(tokens + network.arrays[f"{row.key}.weight"][: tokens.shape[2]], None)]
