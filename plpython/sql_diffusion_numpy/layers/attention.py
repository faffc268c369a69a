"""Attention with its projections, diffusers' Attention: of tokens to each other, or to those of a context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .activation import Activation, Piece, extent
from .conv2d import Entry, convolve
from .modules import Layout, Network, Read, lay_out_convolution, lay_out_module, zeros_for_none
from .scaled_dot_product_attention import attend

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


def lay_out(
    layout: Layout,
    read: Read,
    key: str,
    heads: int,
    context: bool,
    projections: Sequence[str] = PROJECTIONS,
    height: int = 0,
    width: int = 0,
) -> None:
    """The projections of one input become one, with the factor 1 / sqrt(E) of the attention in that of the queries.

    height, width: of what attends, as far as that is known.
    """
    weights, biases = [], []
    for layer in projections[:3]:
        weight, bias = read(f"{key}.{layer}")
        scale = np.float32((len(weight) / heads) ** -0.5 if layer == projections[0] else 1)
        weights.append(weight * scale)
        biases.append(zeros_for_none(bias, len(weight)) * scale)
    if context:
        lay_out_convolution(layout, f"{key}.query", weights[0], biases[0], "direct1/1", height=height, width=width)
        lay_out_convolution(
            layout, f"{key}.key_value", np.concatenate(weights[1:]), np.concatenate(biases[1:]), "direct1/1"
        )
    else:
        joint, bias = np.concatenate(weights), np.concatenate(biases)
        lay_out_convolution(layout, f"{key}.query_key_value", joint, bias, "direct1/1", height=height, width=width)
    lay_out_module(layout, read, f"{key}.{projections[3]}", height, width)


def _heads(values: np.ndarray, parts: int, heads: int) -> np.ndarray:
    """(batch, height, width, parts * heads * size) -> (parts, batch, heads, pixels, size)"""
    batch, _, _, channels = values.shape
    return values.reshape(batch, -1, parts, heads, channels // (parts * heads)).transpose(2, 0, 3, 1, 4)


def attention(
    network: Network,
    key: str,
    activation: Activation,
    heads: int,
    context: Activation | None = None,
    norm: Entry | None = None,
    residual: np.ndarray | None = None,
    is_causal: bool = False,
    output_scale: float = 1.0,
    projections: Sequence[str] = PROJECTIONS,
    statistics: bool = True,
) -> Activation:
    """(attention(norm(activation), context) + residual) * output_scale; context None is the activation itself.

    context (batch, height, width, channels), or of one entry for all of the batch; the result has the pixels of the
    activation.
    """
    batch, height, width, _ = extent(activation)
    if context is None:
        joint = convolve(activation, network.convolutions[f"{key}.query_key_value"], norm, statistics=False)[0].values
        query, keys, value = _heads(joint, 3, heads)
    else:
        own = convolve(activation, network.convolutions[f"{key}.query"], norm, statistics=False)[0].values
        other = convolve(context, network.convolutions[f"{key}.key_value"], statistics=False)[0].values
        [query], (keys, value) = _heads(own, 1, heads), _heads(other, 2, heads)
        if len(keys) != batch:
            keys, value = (np.broadcast_to(x, (batch, *x.shape[1:])) for x in (keys, value))
    attended = np.empty((batch, height * width, heads, value.shape[3]), np.float32)
    attend(query, keys, value, attended.transpose(0, 2, 1, 3), is_causal=is_causal)
    return convolve(
        [Piece(attended.reshape(batch, height, width, -1), None)],
        network.convolutions[f"{key}.{projections[3]}"],
        residual=residual,
        output_scale=output_scale,
        statistics=statistics,
    )
