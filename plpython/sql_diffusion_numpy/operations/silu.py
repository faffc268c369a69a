"""SiLU of a vector."""

from __future__ import annotations

from typing import Any

from ..layers.modules import Network, PlanRow, Value, vector_of, vector_value
from ..layers.silu import silu


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return vector_value(silu(vector_of(inputs[0])))
