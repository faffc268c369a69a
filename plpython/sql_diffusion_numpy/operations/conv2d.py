"""A convolution, and the norm before it where one was left to do; with scale_factor 2 of a picture twice as large."""

from __future__ import annotations

from typing import Any

from ..layers.conv2d import convolve
from ..layers.modules import (
    Layout,
    Network,
    PlanRow,
    Read,
    Unfinished,
    Value,
    lay_out_convolution,
    lay_out_module,
    with_norm,
)


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    kernel, stride, padding = (row.settings[name] for name in ("kernel_size", "stride", "padding"))
    if row.settings.get("scale_factor", 1) == 2:  # of a 3x3 kernel, stride and padding 1
        weight, bias = read(row.key)
        lay_out_convolution(layout, row.key, weight, bias, "upsample", (1, 1, 1, 1), height, width)
    elif (kernel, stride, padding) in ((3, 1, 1), (1, 1, 0)):
        lay_out_module(layout, read, row.key, height, width)
    else:
        weight, bias = read(row.key)
        lay_out_convolution(layout, row.key, weight, bias, f"direct{kernel}/{stride}", (padding,) * 4, height, width)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation, norm = with_norm(inputs[0])
    if row.step in network.left:
        return Unfinished(activation, network.convolutions[row.key], norm)
    return convolve(activation, network.convolutions[row.key], norm, statistics=row.step in network.normed)
