"""The network: a loop over the rows of unet_plan.

lay_out reads the parameters once and puts them in the order in which the layers use them; assemble makes a network of what
lay_out made, or of the same arrays read back from a file; run is one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .layers import conv2d
from .layers.attention import attend
from .layers.conv2d import Activation, Convolution, Piece, assemble, convolve, direct, extent, lay_out_weight, statistics_of
from .layers.group_norm import Norm, prepare_norm
from .layers.timestep_embedding import timestep_embedding

Read = Callable[[str], tuple[np.ndarray, np.ndarray | None]]  # key -> weight, bias
Arrays = dict[str, np.ndarray]

ALGORITHMS = {
    "winograd2": conv2d.WINOGRAD2,
    "winograd4": conv2d.WINOGRAD4,
    "upsample": conv2d.UPSAMPLE,
    **{f"direct{kernel}/{stride}": direct(kernel, stride) for kernel in (1, 3) for stride in (1, 2)},
}


class PlanRow(NamedTuple):
    """A row of unet_plan(model)."""

    step: int
    operation: str
    key: str
    pops: bool
    pushes: bool
    in_channels: int
    out_channels: int
    settings: dict[str, Any]


class Layout(NamedTuple):
    """A network as it is kept: everything but the arrays is plain data, fit for JSON."""

    plan: list[PlanRow]
    convolutions: dict[str, tuple[str, tuple[int, int, int, int]]]  # name -> algorithm, padding
    arrays: Arrays


class Network(NamedTuple):
    plan: list[PlanRow]
    convolutions: dict[str, Convolution]
    arrays: Arrays
    projections: dict[str, slice]  # key of a resnet -> its part of the projected time embedding


def lay_out(plan: list[PlanRow], read: Read, height: int, width: int) -> Layout:
    """The arrays of a network, its pictures being about (height, width)."""
    arrays: Arrays = {}
    convolutions: dict[str, tuple[str, tuple[int, int, int, int]]] = {}

    def convolution(
        name: str, weight: np.ndarray, bias: np.ndarray | None, algorithm: str, *padding: int
    ) -> None:
        left, right, top, bottom = padding or (0, 0, 0, 0)
        convolutions[name] = (algorithm, (left, right, top, bottom))
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        arrays[name + ".weight"] = lay_out_weight(weight, ALGORITHMS[algorithm])
        arrays[name + ".bias"] = np.zeros(len(weight), np.float32) if bias is None else bias

    def plain(name: str) -> None:
        weight, bias = read(name)
        if weight.ndim == 4 and weight.shape[2] == 3:
            cheapest = conv2d.choose_algorithm(weight.shape[1], weight.shape[0], height, width).name
            convolution(name, weight, bias, "direct3/1" if cheapest == "direct" else cheapest, 1, 1, 1, 1)
        else:
            convolution(name, weight, bias, "direct1/1")

    def norm(name: str) -> None:
        weight, bias = read(name)
        arrays[name + ".weight"] = weight
        arrays[name + ".bias"] = np.zeros_like(weight) if bias is None else bias

    projection_weights, projection_biases = [], []
    for row in plan:
        key = row.key
        if row.operation == "time_embedding":
            for layer in ("linear_1", "linear_2"):
                weight, bias = read(f"{key}.{layer}")
                arrays[f"{key}.{layer}.weight"] = np.ascontiguousarray(weight.T)
                arrays[f"{key}.{layer}.bias"] = np.zeros(len(weight), np.float32) if bias is None else bias
        elif row.operation == "resnet_block":
            norm(f"{key}.norm1")
            plain(f"{key}.conv1")
            norm(f"{key}.norm2")
            plain(f"{key}.conv2")
            if row.in_channels != row.out_channels:
                plain(f"{key}.conv_shortcut")
            weight, bias = read(f"{key}.time_emb_proj")
            projection_weights.append(weight)
            projection_biases.append(np.zeros(len(weight), np.float32) if bias is None else bias)
        elif row.operation == "attention_block":
            if row.settings.get("num_groups") is not None:
                norm(f"{key}.group_norm")
            weights, biases = [], []
            for layer in ("to_q", "to_k", "to_v"):
                weight, bias = read(f"{key}.{layer}")
                scale = np.float32((len(weight) / row.settings["heads"]) ** -0.5 if layer == "to_q" else 1)
                weights.append(weight * scale)
                biases.append(np.zeros(len(weight), np.float32) if bias is None else bias * scale)
            convolution(f"{key}.to_qkv", np.concatenate(weights), np.concatenate(biases), "direct1/1")
            plain(f"{key}.to_out.0")
        elif row.operation == "downsample":
            padding = row.settings["padding"]
            weight, bias = read(f"{key}.conv")
            convolution(f"{key}.conv", weight, bias, "direct3/2", *((0, 1, 0, 1) if padding == 0 else (padding,) * 4))
            height, width = (-(-height // 2), -(-width // 2)) if padding else (height // 2, width // 2)
        elif row.operation == "upsample":
            weight, bias = read(f"{key}.conv")
            convolution(f"{key}.conv", weight, bias, "upsample", 1, 1, 1, 1)
            height, width = 2 * height, 2 * width
        elif row.operation == "conv2d":
            plain(key)
        elif row.operation == "group_norm_silu":
            norm(key)
    if projection_weights:
        arrays["time_emb_proj.weight"] = np.ascontiguousarray(np.concatenate(projection_weights).T)
        arrays["time_emb_proj.bias"] = np.concatenate(projection_biases)
    return Layout(plan, convolutions, arrays)


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


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def time_embedding(network: Network, row: PlanRow, timestep: float) -> np.ndarray:
    """The time embedding after its SiLU, projected for every resnet at once: (sum of their channels)."""
    arrays, key = network.arrays, row.key
    wave = timestep_embedding(timestep, **row.settings)
    hidden = _silu(wave @ arrays[f"{key}.linear_1.weight"] + arrays[f"{key}.linear_1.bias"])
    embedding = hidden @ arrays[f"{key}.linear_2.weight"] + arrays[f"{key}.linear_2.bias"]
    return _silu(embedding) @ arrays["time_emb_proj.weight"] + arrays["time_emb_proj.bias"]


def _norm(network: Network, activation: Activation, name: str, num_groups: int, eps: float, silu: bool) -> Norm:
    _, height, width, _ = extent(activation)
    weight, bias = network.arrays[name + ".weight"], network.arrays[name + ".bias"]
    return prepare_norm(statistics_of(activation), height * width, num_groups, eps, weight, bias, silu)


def resnet_block(network: Network, row: PlanRow, activation: Activation, projected: np.ndarray) -> Activation:
    """diffusers' ResnetBlock2D. projected (channels) or, for scale_shift, (2 * channels)."""
    key, settings = row.key, row.settings
    groups, eps = settings["num_groups"], settings["eps"]
    batch = extent(activation)[0]
    convolutions = network.convolutions
    shortcut = convolutions.get(f"{key}.conv_shortcut")
    if shortcut is not None:
        residual = convolve(activation, shortcut, statistics=False)[0].values
    elif len(activation) == 1:
        residual = activation[0].values
    else:
        residual = np.concatenate([piece.values for piece in activation], axis=3)
    conv1, conv2 = convolutions[f"{key}.conv1"], convolutions[f"{key}.conv2"]
    scale_shift = settings["time_scale_shift"] == "scale_shift"
    bias = conv1.bias if scale_shift else conv1.bias + projected
    hidden = convolve(
        activation, conv1, _norm(network, activation, f"{key}.norm1", groups, eps, True),
        bias=np.broadcast_to(bias, (batch, len(bias))),
    )  # fmt: skip
    norm = _norm(network, hidden, f"{key}.norm2", groups, eps, True)
    if scale_shift:
        scale, shift = np.split(projected, 2)
        norm = Norm(norm.scale * (1 + scale), norm.shift * (1 + scale) + shift, True)
    return convolve(hidden, conv2, norm, residual=residual, output_scale=1 / settings["output_scale_factor"])


def attention_block(network: Network, row: PlanRow, activation: Activation) -> Activation:
    """diffusers' Attention of a picture with itself, and the residual."""
    key, settings, heads = row.key, row.settings, row.settings["heads"]
    norm = None
    if settings.get("num_groups") is not None:
        norm = _norm(network, activation, f"{key}.group_norm", settings["num_groups"], settings["eps"], False)
    batch, height, width, channels = extent(activation)
    qkv = convolve(activation, network.convolutions[f"{key}.to_qkv"], norm, statistics=False)[0].values
    size = qkv.shape[3] // (3 * heads)
    # (3, batch * heads, pixels, size) -> (batch * heads, pixels, size)
    query, key_, value = qkv.reshape(batch, -1, 3, heads, size).transpose(2, 0, 3, 1, 4)
    attended = np.empty((batch, height * width, heads, size), np.float32)
    for picture in range(batch):
        attend(query[picture], key_[picture], value[picture], out=attended[picture].transpose(1, 0, 2))
    residual = activation[0].values if len(activation) == 1 else np.concatenate([p.values for p in activation], axis=3)
    return convolve(
        [Piece(attended.reshape(batch, height, width, heads * size), None)],
        network.convolutions[f"{key}.to_out.0"], residual=residual,
        output_scale=1 / settings["output_scale_factor"],
    )  # fmt: skip


def run(
    network: Network,
    sample: np.ndarray,
    timestep: float,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """One pass: (batch, channels, height, width) -> the same shape. between is called after each step of the plan."""
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
            projected = time_embedding(network, row, timestep)
        elif row.operation == "resnet_block":
            activation = resnet_block(network, row, activation, projected[network.projections[key]])
        elif row.operation == "attention_block":
            activation = attention_block(network, row, activation)
        elif row.operation in ("downsample", "upsample"):
            activation = convolve(activation, network.convolutions[f"{key}.conv"])
        elif row.operation == "conv2d":
            activation = convolve(activation, network.convolutions[key], norm)
            norm = None
        elif row.operation == "group_norm_silu":
            norm = _norm(network, activation, key, settings["num_groups"], settings["eps"], True)
        else:
            raise ValueError(f"unet: operation {row.operation!r} is unknown")
        if row.pushes:
            skips.append(activation)
        between()
    return activation[0].values.transpose(0, 3, 1, 2)
