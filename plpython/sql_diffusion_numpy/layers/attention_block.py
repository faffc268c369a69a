"""Self-attention over the pixels of a picture, diffusers' Attention with its residual."""

from __future__ import annotations

import numpy as np

from .conv2d import Activation, Piece, convolve, extent
from .modules import (
    Layout,
    Network,
    PlanRow,
    Read,
    joined,
    lay_out_convolution,
    lay_out_module,
    lay_out_norm,
    norm_of,
    zeros_for_none,
)
from .scaled_dot_product_attention import attend


def lay_out(layout: Layout, read: Read, row: PlanRow) -> None:
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


def attention_block(network: Network, row: PlanRow, activation: Activation) -> Activation:
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
