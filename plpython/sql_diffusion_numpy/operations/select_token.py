"""The features of one token: of the first whose id is token_id, or without that setting, whose id is greatest; with the
setting last, of the last one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import joined
from ..layers.modules import Network, PlanRow, Value, plain, vector_value


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    tokens, numbers = joined(plain(inputs[0]))[:, 0], joined(plain(inputs[1]))
    if "last" in row.settings:
        return vector_value(np.ascontiguousarray(tokens[:, -1]))
    ids = numbers.reshape(len(numbers), -1)
    sought = row.settings.get("token_id")
    # argmax is the first of those that are greatest, and the very first where there is none
    places = np.argmax(ids if sought is None else ids == sought, axis=1)
    return vector_value(tokens[np.arange(len(tokens)), places])
