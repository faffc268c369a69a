"""Twice the height and width, diffusers' Upsample2D: each pixel four times, then a 3x3 convolution, in one step."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import convolve
from ..layers.modules import Layout, Network, PlanRow, Read, Value, lay_out_convolution, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    weight, bias = read(f"{row.key}.conv")
    lay_out_convolution(layout, f"{row.key}.conv", weight, bias, "upsample", (1, 1, 1, 1))


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    return convolve(plain(inputs[0]), network.convolutions[f"{row.key}.conv"])
