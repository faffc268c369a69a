"""Attention of tokens to themselves and those before them: the first input's first channels are queries, and the second
input holds the keys of all and, in as many channels more, their values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain
from ..layers.scaled_dot_product_attention import attend


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    channels, heads = row.out_channels, row.settings["heads"]
    tokens, kept = joined(plain(inputs[0]))[:, 0], joined(plain(inputs[1]))[:, 0]  # (batch, tokens, channels)
    batch, queries = tokens.shape[:2]
    keys = kept.shape[1]

    def by_heads(values: np.ndarray) -> np.ndarray:
        return values.reshape(batch, values.shape[1], heads, channels // heads).transpose(0, 2, 1, 3)

    out = np.empty((batch, queries, channels), np.float32)
    # The last of all tokens sees all; the others those up to their own.
    mask = None if queries in (1, keys) else np.triu(np.full((queries, keys), -np.inf, np.float32), keys - queries + 1)
    attend(
        by_heads(tokens[..., :channels] * np.float32(row.settings["scale"])),
        by_heads(kept[..., :channels]),
        by_heads(kept[..., channels:]),
        by_heads(out),
        mask,
        is_causal=queries == keys,
    )
    return [Piece(out[:, None], None)]
