"""Half the height and width, diffusers' Downsample2D: a 3x3 convolution of stride 2."""

from __future__ import annotations

from .conv2d import Activation, convolve
from .modules import Layout, Network, PlanRow, Read, lay_out_convolution


def lay_out(layout: Layout, read: Read, row: PlanRow) -> None:
    """padding 0 pads right and bottom by 1."""
    weight, bias = read(f"{row.key}.conv")
    padding = (0, 1, 0, 1) if row.settings["padding"] == 0 else (1, 1, 1, 1)
    lay_out_convolution(layout, f"{row.key}.conv", weight, bias, "direct3/2", padding)


def downsample(network: Network, row: PlanRow, activation: Activation) -> Activation:
    return convolve(activation, network.convolutions[f"{row.key}.conv"])
