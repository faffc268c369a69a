"""Twice the height and width, diffusers' Upsample2D: each pixel four times, then a 3x3 convolution, in one step."""

from __future__ import annotations

from .conv2d import Activation, convolve
from .modules import Layout, Network, PlanRow, Read, lay_out_convolution


def lay_out(layout: Layout, read: Read, row: PlanRow) -> None:
    weight, bias = read(f"{row.key}.conv")
    lay_out_convolution(layout, f"{row.key}.conv", weight, bias, "upsample", (1, 1, 1, 1))


def upsample(network: Network, row: PlanRow, activation: Activation) -> Activation:
    return convolve(activation, network.convolutions[f"{row.key}.conv"])
