"""What the network gives under the name of the row's key: the input as it is."""

from __future__ import annotations

from typing import Any

from ..layers.modules import Network, PlanRow, Value


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return inputs[0]
