"""The residual block, diffusers' ResnetBlock2D (He et al. 2015, arXiv:1512.03385; Ho et al. 2020, appendix B)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers.activation import Activation, Piece, extent, joined
from ..layers.conv2d import convolve
from ..layers.gelu import gelu
from ..layers.group_norm import Norm
from ..layers.mish import mish
from ..layers.modules import (
    Layout,
    Network,
    Normalized,
    PlanRow,
    Read,
    Value,
    lay_out_module,
    lay_out_norm,
    norm_of,
    plain,
    vector_of,
    zeros_for_none,
)
from ..layers.relu import relu
from ..layers.silu import silu

# What may stand behind a norm. SiLU is done where the next layer reads its pixels; the others in a pass of their own.
ACTIVATIONS = {"silu": silu, "gelu": gelu, "mish": mish, "relu": relu}


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    """time_emb_proj is left to finish_layout, which joins those of all blocks that share a time embedding."""
    key = row.key
    lay_out_norm(layout, read, f"{key}.norm1")
    lay_out_module(layout, read, f"{key}.conv1", height, width)
    lay_out_norm(layout, read, f"{key}.norm2")
    lay_out_module(layout, read, f"{key}.conv2", height, width)
    if row.in_channels != row.out_channels:
        lay_out_module(layout, read, f"{key}.conv_shortcut", height, width)


def time_name(row: PlanRow) -> str:
    """What the projections of the time embedding that this block takes are called, those of all such blocks together."""
    return f"time_emb_proj of {row.inputs[1]}"


def finish_layout(layout: Layout, read: Read, rows: list[PlanRow]) -> None:
    """One product for the time of all blocks."""
    together: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for row in rows:
        if len(row.inputs) > 1:
            weight, bias = read(f"{row.key}.time_emb_proj")
            together.setdefault(time_name(row), []).append((weight, zeros_for_none(bias, len(weight))))
    for name, projections in together.items():
        layout.arrays[f"{name}.weight"] = np.ascontiguousarray(np.concatenate([weight for weight, _ in projections]).T)
        layout.arrays[f"{name}.bias"] = np.concatenate([bias for _, bias in projections])


def project(network: Network, name: str, embedding: np.ndarray, non_linearity: str = "silu") -> np.ndarray:
    """The activation and time_emb_proj of every block that takes it at once: (..., sum of their channels)."""
    return ACTIVATIONS[non_linearity](embedding) @ network.arrays[f"{name}.weight"] + network.arrays[f"{name}.bias"]


def projections(plan: list[PlanRow]) -> dict[str, slice]:
    """The key of a block -> its part of the projected time embedding."""
    parts, ends = {}, dict[str, int]()
    for row in plan:
        if row.operation == "resnet_block" and len(row.inputs) > 1:
            begin = ends.get(time_name(row), 0)
            size = row.out_channels * (2 if row.settings["time_scale_shift"] == "scale_shift" else 1)
            parts[row.key] = slice(begin, begin + size)
            ends[time_name(row)] = begin + size
    return parts


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    if len(inputs) == 1:
        return resnet_block(network, row, plain(inputs[0]), None)
    name = time_name(row)
    if name not in shared:
        shared[name] = project(network, name, vector_of(inputs[1]), row.settings.get("non_linearity", "silu"))
        shared["projections"] = projections(network.plan)
    return resnet_block(network, row, plain(inputs[0]), shared[name][..., shared["projections"][row.key]])


def resampled(values: np.ndarray, resample: str) -> np.ndarray:
    """(batch, height, width, channels): every pixel four times (upsample), or the means of four (downsample)."""
    if resample == "upsample":
        return values.repeat(2, axis=1).repeat(2, axis=2)
    batch, height, width, channels = values.shape
    return values.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4), dtype=np.float32)


def activated(activation: Activation, norm: Norm, non_linearity: str) -> Activation:
    """After a norm and what stands behind it."""
    normal = joined(plain(Normalized(activation, norm)))
    return [Piece(normal if norm.silu else ACTIVATIONS[non_linearity](normal), None)]


def resnet_block(network: Network, row: PlanRow, activation: Activation, projected: np.ndarray | None) -> Activation:
    """norm1, SiLU or another activation, conv1, the projected time embedding, norm2, the same, conv2, and the input again.

    projected: (channels), or (2 * channels), scale and shift, with time_scale_shift scale_shift; for all pictures, or with
    a first dimension for each. None for no time.
    """
    key, settings, convolutions = row.key, row.settings, network.convolutions
    groups, eps = settings["num_groups"], settings["eps"]
    non_linearity, resample = settings.get("non_linearity", "silu"), settings.get("resample")
    is_silu = non_linearity == "silu"
    first_norm = norm_of(network, activation, f"{key}.norm1", groups, eps, is_silu)
    norm: Norm | None = first_norm
    residual, entry = activation, activation
    if resample is not None or not is_silu:
        entry, norm = activated(activation, first_norm, non_linearity), None
    if resample is not None:  # between the norm and the convolution
        entry, residual = ([Piece(resampled(joined(each), resample), None)] for each in (entry, activation))
    shortcut = convolutions.get(f"{key}.conv_shortcut")
    added = joined(residual) if shortcut is None else convolve(residual, shortcut, statistics=False)[0].values
    conv1, conv2 = convolutions[f"{key}.conv1"], convolutions[f"{key}.conv2"]
    scale_shift = settings["time_scale_shift"] == "scale_shift"
    bias = conv1.bias if scale_shift or projected is None else conv1.bias + projected
    hidden = convolve(entry, conv1, norm, bias=np.broadcast_to(bias, (extent(activation)[0], bias.shape[-1])))
    norm = norm_of(network, hidden, f"{key}.norm2", groups, eps, is_silu)
    if scale_shift and projected is not None:
        scale, shift = np.split(projected, 2, axis=-1)
        norm = Norm(norm.scale * (1 + scale), norm.shift * (1 + scale) + shift, is_silu)
    if not is_silu:
        hidden, norm = activated(hidden, norm, non_linearity), None
    output_scale, statistics = 1 / settings["output_scale_factor"], row.step in network.normed
    return convolve(hidden, conv2, norm, residual=added, output_scale=output_scale, statistics=statistics)
