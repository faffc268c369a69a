"""Half the height and width, diffusers' Downsample2D: a 3x3 convolution of stride 2."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import convolve
from ..layers.modules import Layout, Network, PlanRow, Read, Value, lay_out_convolution, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    """padding 0 pads right and bottom by 1."""
    weight, bias = read(f"{row.key}.conv")
    padding = (0, 1, 0, 1) if row.settings["padding"] == 0 else (1, 1, 1, 1)
    lay_out_convolution(layout, f"{row.key}.conv", weight, bias, "direct3/2", padding, height, width)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    convolution = network.convolutions[f"{row.key}.conv"]
    return convolve(plain(inputs[0]), convolution, statistics=row.step in network.normed)
