"""Attention of the first input to the third, or to itself where there is none, plus the second."""

from __future__ import annotations

from typing import Any

from ..layers import attention
from ..layers.activation import joined
from ..layers.modules import Layout, Network, PlanRow, Read, Value, plain, with_norm


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    crossed = len(row.inputs) > 2
    attention.lay_out(layout, read, row.key, row.settings["heads"], crossed, row.settings["projections"], height, width)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation, norm = with_norm(inputs[0])
    settings = row.settings
    return attention.attention(
        network,
        row.key,
        activation,
        settings["heads"],
        context=plain(inputs[2]) if len(inputs) > 2 else None,
        norm=norm,
        residual=joined(plain(inputs[1])),
        is_causal=settings.get("is_causal", False),
        projections=settings["projections"],
        statistics=row.step in network.normed,
    )
