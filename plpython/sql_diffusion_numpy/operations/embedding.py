"""The row of the table that each number of the input names, as the features of a token."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.embedding import embedding
from ..layers.modules import Layout, Network, PlanRow, Read, Value, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    layout.arrays[f"{row.key}.weight"] = read(row.key)[0]


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    weight = network.arrays[f"{row.key}.weight"]
    numbers = joined(plain(inputs[0]))  # (batch, 1, tokens, 1), or (batch, 1, 1, 1)
    ids = numbers.reshape(len(numbers), -1).astype(np.int64)
    return [Piece(embedding(ids, weight)[:, None], None)]
