"""The network: a loop over the rows of unet_plan.

lay_out reads the parameters once; assemble_network makes a network of what lay_out made, or of the same arrays read
back from a file; run is one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .layers import attention_block, downsample, resnet_block, upsample
from .layers.conv2d import Activation, Piece, assemble, convolve
from .layers.group_norm import Norm, apply_norm
from .layers.modules import (
    ALGORITHMS,
    Layout,
    Network,
    PlanRow,
    Read,
    joined,
    lay_out_module,
    lay_out_norm,
    norm_of,
    zeros_for_none,
)
from .layers.silu import silu
from .layers.timestep_embedding import timestep_embedding


def lay_out(plan: list[PlanRow], read: Read, height: int, width: int) -> Layout:
    """The parameters of a network, its samples being about (height, width): others run too, perhaps not as fast."""
    layout = Layout(plan, {}, {})
    weights, biases = [], []
    for row in plan:
        key = row.key
        if row.operation == "time_embedding":
            for layer in ("linear_1", "linear_2"):
                weight, bias = read(f"{key}.{layer}")
                layout.arrays[f"{key}.{layer}.weight"] = np.ascontiguousarray(weight.T)
                layout.arrays[f"{key}.{layer}.bias"] = zeros_for_none(bias, len(weight))
        elif row.operation == "resnet_block":
            resnet_block.lay_out(layout, read, row, height, width)
            weight, bias = read(f"{key}.time_emb_proj")
            weights.append(weight)
            biases.append(zeros_for_none(bias, len(weight)))
        elif row.operation == "attention_block":
            attention_block.lay_out(layout, read, row)
        elif row.operation == "downsample":
            downsample.lay_out(layout, read, row)
            height, width = -(-height // 2), -(-width // 2)
        elif row.operation == "upsample":
            upsample.lay_out(layout, read, row)
            height, width = 2 * height, 2 * width
        elif row.operation == "conv2d":
            lay_out_module(layout, read, key, height, width)
        elif row.operation == "group_norm_silu":
            lay_out_norm(layout, read, key)
    if weights:  # one product for the time of all resnets
        layout.arrays["time_emb_proj.weight"] = np.ascontiguousarray(np.concatenate(weights).T)
        layout.arrays["time_emb_proj.bias"] = np.concatenate(biases)
    return layout


def assemble_network(layout: Layout) -> Network:
    arrays = layout.arrays
    convolutions = {
        name: assemble(ALGORITHMS[algorithm], arrays[name + ".weight"], arrays[name + ".bias"], padding)
        for name, (algorithm, padding) in layout.convolutions.items()
    }
    projections, begin = {}, 0
    for row in layout.plan:
        if row.operation == "resnet_block":
            size = row.out_channels * (2 if row.settings["time_scale_shift"] == "scale_shift" else 1)
            projections[row.key] = slice(begin, begin + size)
            begin += size
    return Network(layout.plan, convolutions, arrays, projections)


def time_embedding(network: Network, row: PlanRow, timestep: float) -> np.ndarray:
    """How far the diffusion has come, as every resnet block takes it: timestep_embedding, linear_1, SiLU, linear_2."""
    arrays, key = network.arrays, row.key
    wave = timestep_embedding(timestep, **row.settings)
    hidden = silu(wave @ arrays[f"{key}.linear_1.weight"] + arrays[f"{key}.linear_1.bias"])
    return hidden @ arrays[f"{key}.linear_2.weight"] + arrays[f"{key}.linear_2.bias"]


def project(network: Network, embedding: np.ndarray) -> np.ndarray:
    """SiLU and time_emb_proj of every resnet block at once: (sum of their channels)."""
    return silu(embedding) @ network.arrays["time_emb_proj.weight"] + network.arrays["time_emb_proj.bias"]


def run_steps(
    network: Network, sample: np.ndarray, timestep: float
) -> Iterator[tuple[PlanRow, Activation, Norm | None]]:
    """One pass, a step at a time: -> the row, and the activation that it leaves.

    A norm is not None after group_norm_silu, which is left for the convolution behind it to do.
    """
    activation: Activation = [Piece(np.ascontiguousarray(sample.transpose(0, 2, 3, 1), np.float32), None)]
    skips: list[Activation] = []
    norm: Norm | None = None
    projected = np.zeros(0, np.float32)
    for row in network.plan:
        key, settings = row.key, row.settings
        if row.pops:
            activation = activation + skips.pop()
        if row.operation == "center_input_sample":
            activation = [Piece(2 * activation[0].values - 1, None)]
        elif row.operation == "time_embedding":
            projected = project(network, time_embedding(network, row, timestep))
        elif row.operation == "resnet_block":
            activation = resnet_block.resnet_block(network, row, activation, projected[network.projections[key]])
        elif row.operation == "attention_block":
            activation = attention_block.attention_block(network, row, activation)
        elif row.operation == "downsample":
            activation = downsample.downsample(network, row, activation)
        elif row.operation == "upsample":
            activation = upsample.upsample(network, row, activation)
        elif row.operation == "conv2d":
            activation = convolve(activation, network.convolutions[key], norm)
            norm = None
        elif row.operation == "group_norm_silu":
            norm = norm_of(network, activation, key, settings["num_groups"], settings["eps"], True)
        else:
            raise ValueError(f"unet: operation {row.operation!r} is unknown")
        if row.pushes:
            skips.append(activation)
        yield row, activation, norm


def channels_first(activation: Activation, norm: Norm | None = None) -> np.ndarray:
    """(batch, channels, height, width), normalised."""
    values = joined(activation)
    return (values if norm is None else apply_norm(values, norm)).transpose(0, 3, 1, 2)


def run(
    network: Network, sample: np.ndarray, timestep: float, between: Callable[[], None] = lambda: None
) -> np.ndarray:
    """One pass: (batch, channels, height, width) -> the same shape. between is called after each step of the plan."""
    activation: Activation = []
    for step in run_steps(network, sample, timestep):
        activation = step[1]
        between()
    return channels_first(activation)
