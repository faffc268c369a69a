"""Twice the height and width, diffusers' Upsample2D: each pixel four times, then a 3x3 convolution, in one step."""

from __future__ import annotations

from typing import Any

from ..layers.activation import Piece, extent, joined
from ..layers.conv2d import convolve
from ..layers.modules import Layout, Network, PlanRow, Read, Value, lay_out_convolution, plain, with_norm
from ..layers.winograd import assemble, direct, lay_out_weight, weight_of


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    weight, bias = read(f"{row.key}.conv")
    lay_out_convolution(layout, f"{row.key}.conv", weight, bias, "upsample", (1, 1, 1, 1), height, width)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    """As high and wide as the second input, where there is one: a row or a column less where that has an odd number."""
    activation, convolution = plain(inputs[0]), network.convolutions[f"{row.key}.conv"]
    _, height, width, _ = extent(activation)
    if len(inputs) > 1:
        _, wanted_height, wanted_width, _ = extent(with_norm(inputs[1])[0])
        if (wanted_height, wanted_width) != (2 * height, 2 * width):
            algorithm = direct(3, 1)
            weight = lay_out_weight(weight_of(convolution), algorithm)
            pixels = joined(activation).repeat(2, axis=1).repeat(2, axis=2)[:, :wanted_height, :wanted_width]
            activation, convolution = [Piece(pixels, None)], assemble(algorithm, weight, convolution.bias, (1, 1, 1, 1))
    return convolve(activation, convolution, statistics=row.step in network.normed)
