"""Self-attention over the pixels of a picture, diffusers' Attention with its residual."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.conv2d import Piece, convolve, extent
from ..layers.modules import (
    Layout,
    Network,
    PlanRow,
    Read,
    Value,
    joined,
    lay_out_convolution,
    lay_out_module,
    lay_out_norm,
    norm_of,
    plain,
    zeros_for_none,
)
from ..layers.scaled_dot_product_attention import attend


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    """The three projections become one, with the factor 1 / sqrt(E) of the attention in that of the queries."""
    key, heads = row.key, row.settings["heads"]
    if row.settings.get("num_groups") is not None:
        lay_out_norm(layout, read, f"{key}.group_norm")
    weights, biases = [], []
    for layer in ("to_q", "to_k", "to_v"):
        weight, bias = read(f"{key}.{layer}")
        scale = np.float32((len(weight) / heads) ** -0.5 if layer == "to_q" else 1)
        weights.append(weight * scale)
        biases.append(zeros_for_none(bias, len(weight)) * scale)
    lay_out_convolution(layout, f"{key}.to_qkv", np.concatenate(weights), np.concatenate(biases), "direct1/1")
    lay_out_module(layout, read, f"{key}.to_out.0", 0, 0)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation = plain(inputs[0])
    key, settings, heads = row.key, row.settings, row.settings["heads"]
    norm = None
    if settings.get("num_groups") is not None:
        norm = norm_of(network, activation, f"{key}.group_norm", settings["num_groups"], settings["eps"], False)
    batch, height, width, _ = extent(activation)
    qkv = convolve(activation, network.convolutions[f"{key}.to_qkv"], norm, statistics=False)[0].values
    size = qkv.shape[3] // (3 * heads)
    # (3, batch, heads, pixels, size)
    query, keys, value = qkv.reshape(batch, -1, 3, heads, size).transpose(2, 0, 3, 1, 4)
    attended = np.empty((batch, height * width, heads, size), np.float32)
    attend(query, keys, value, attended.transpose(0, 2, 1, 3))
    return convolve(
        [Piece(attended.reshape(batch, height, width, heads * size), None)],
        network.convolutions[f"{key}.to_out.0"],
        residual=joined(activation),
        output_scale=1 / settings["output_scale_factor"],
    )
