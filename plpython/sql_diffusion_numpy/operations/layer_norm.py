"""A layer norm over the channels of each pixel or token."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, joined
from ..layers.layer_norm import layer_norm_tokens
from ..layers.modules import Layout, Network, PlanRow, Read, Value, lay_out_norm, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    lay_out_norm(layout, read, row.key)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    weight, bias = network.arrays[f"{row.key}.weight"], network.arrays[f"{row.key}.bias"]
    return [Piece(layer_norm_tokens(joined(plain(inputs[0])), weight, bias, row.settings["eps"]), None)]
