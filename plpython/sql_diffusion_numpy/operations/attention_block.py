"""Self-attention over the pixels of a picture, diffusers' Attention with its residual."""

from __future__ import annotations

from typing import Any

from ..layers import attention
from ..layers.activation import joined
from ..layers.modules import Layout, Network, PlanRow, Read, Value, lay_out_norm, norm_of, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    if row.settings.get("num_groups") is not None:
        lay_out_norm(layout, read, f"{row.key}.group_norm")
    attention.lay_out(layout, read, row.key, row.settings["heads"], context=False, height=height, width=width)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation, key, settings = plain(inputs[0]), row.key, row.settings
    norm = None
    if settings.get("num_groups") is not None:
        norm = norm_of(network, activation, f"{key}.group_norm", settings["num_groups"], settings["eps"], False)
    return attention.attention(
        network,
        key,
        activation,
        settings["heads"],
        norm=norm,
        residual=joined(activation),
        output_scale=1 / settings["output_scale_factor"],
        statistics=row.step in network.normed,
    )
