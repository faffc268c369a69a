"""A linear layer of a vector, or of each pixel or token, plus the second input, where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.conv2d import convolve
from ..layers.modules import (
    Layout,
    Network,
    PlanRow,
    Read,
    Unfinished,
    Value,
    lay_out_module,
    plain,
    with_norm,
    zeros_for_none,
)
from ..threads import get_count, parallel, share

LARGE = 1 << 22  # numbers of a weight, which among those that vectors meet a vocabulary's has


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    if row.level is None and width == 0:  # a vector, or nobody knows how many tokens
        weight, bias = read(row.key)
        if f"{row.key}.weight" not in layout.arrays:  # which an embedding before it has laid out and shares
            layout.arrays[f"{row.key}.turned"] = np.ascontiguousarray(weight.T)
        layout.arrays[f"{row.key}.bias"] = zeros_for_none(bias, len(weight))
    else:
        lay_out_module(layout, read, row.key, height, width)


def multiply(rows: np.ndarray, turned: np.ndarray, shared_out: bool) -> np.ndarray:
    """(rows, in) times (in, out) -> (rows, out), the outputs shared out over threads or not."""
    out = np.empty((len(rows), turned.shape[1]), np.float32)
    parts = share(turned.shape[1], get_count() if shared_out else 1)

    def work(part: int) -> None:
        some = slice(*parts[part])
        np.matmul(rows, turned[:, some], out=out[:, some])

    parallel(work, len(parts))
    return out


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    if row.key not in network.convolutions:  # a vector or tokens: one plain product, which reads each weight once
        turned = network.arrays.get(f"{row.key}.turned")
        if turned is None:
            turned = network.arrays[f"{row.key}.weight"].T
        values = joined(plain(inputs[0]))  # (batch, 1, tokens, in)
        shared_out = "tokens" in row.settings or turned.size >= LARGE
        hidden = multiply(values.reshape(-1, values.shape[-1]), turned, shared_out)
        hidden += network.arrays[f"{row.key}.bias"]
        hidden = hidden.reshape(*values.shape[:-1], -1)
        return [Piece(hidden if len(inputs) == 1 else hidden + joined(plain(inputs[1])), None)]
    activation, norm = with_norm(inputs[0])
    if row.step in network.left:
        return Unfinished(activation, network.convolutions[row.key], norm)
    residual = joined(plain(inputs[1])) if len(inputs) > 1 else None
    statistics = row.step in network.normed
    return convolve(activation, network.convolutions[row.key], norm, residual=residual, statistics=statistics)
