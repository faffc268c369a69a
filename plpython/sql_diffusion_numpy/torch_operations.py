"""What each operation of a plan is in PyTorch: the functions have the operations' names.

The channels are the last dimension of every tensor: pictures are (batch, height, width, channels), which PyTorch's
convolutions see as (batch, channels, height, width) in the memory format channels_last, tokens (batch, tokens, channels)
and vectors (batch, channels). Vectors that come from outside, timesteps and the like, stay on the CPU in float32 until a
layer with weights takes them to its own device and dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .layers.modules import PlanRow, vector_of, vector_value
from .operations import fourier_embedding as numpy_fourier_embedding
from .operations import timestep_embedding as numpy_timestep_embedding

Inputs = list[Any]
Shared = dict[Any, Any]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "mish": functional.mish,
    "relu": functional.relu,
}


def _together(inputs: Inputs) -> Inputs:
    """Two tensors: one that came from outside is taken to where the other is."""
    a, b = inputs
    return [a, b.to(a.device)] if b.device.type == "cpu" else [a.to(b.device), b]


# Layers with their parameters


def _linear(network: Any, key: str, x: Tensor) -> Tensor:
    weight = network.weights[f"{key}.weight"]
    return functional.linear(x.to(weight), weight.flatten(1), network.weights.get(f"{key}.bias"))


def _convolve(network: Any, key: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    weight = network.weights[f"{key}.weight"]
    planes = x.to(weight).permute(0, 3, 1, 2)
    bias = network.weights.get(f"{key}.bias")
    return functional.conv2d(planes, weight, bias, stride, padding).permute(0, 2, 3, 1)


def _group_norm(network: Any, key: str, x: Tensor, num_groups: int, eps: float) -> Tensor:
    weight, bias = network.weights[f"{key}.weight"], network.weights[f"{key}.bias"]
    if x.ndim == 4:
        return functional.group_norm(x.permute(0, 3, 1, 2), num_groups, weight, bias, eps).permute(0, 2, 3, 1)
    return functional.group_norm(x.transpose(1, -1), num_groups, weight, bias, eps).transpose(1, -1)


def _resized(x: Tensor, resample: str) -> Tensor:
    """Twice as high and wide, every pixel four times (upsample), or the means of four (downsample)."""
    planes = x.permute(0, 3, 1, 2)
    resized = (
        functional.interpolate(planes, scale_factor=2.0) if resample == "upsample" else functional.avg_pool2d(planes, 2)
    )
    return resized.permute(0, 2, 3, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, **settings: Any) -> Tensor:
    """(batch, queries, channels), (batch or 1, keys, channels) twice -> (batch, queries, channels)"""
    batch = len(query)

    def by_heads(x: Tensor) -> Tensor:
        return x.expand(batch, -1, -1).unflatten(2, (heads, -1)).transpose(1, 2)

    attended = functional.scaled_dot_product_attention(by_heads(query), by_heads(key), by_heads(value), **settings)
    return attended.transpose(1, 2).flatten(2)


def _attention(
    network: Any, row: PlanRow, x: Tensor, context: Tensor, projections: list[str], is_causal: bool = False
) -> Tensor:
    query, key, value, out = (f"{row.key}.{name}" for name in projections)
    tokens, others = (each.flatten(1, -2) for each in (x, context))
    attended = _attend(
        _linear(network, query, tokens),
        _linear(network, key, others),
        _linear(network, value, others),
        row.settings["heads"],
        is_causal=is_causal,
    )
    return _linear(network, out, attended).reshape(x.shape)


def attention(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    context = inputs[2] if len(inputs) > 2 else inputs[0]
    settings = row.settings
    attended = _attention(network, row, inputs[0], context, settings["projections"], settings.get("is_causal", False))
    return attended + inputs[1]


def attention_block(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    [x], settings = inputs, row.settings
    normal = x
    if settings.get("num_groups") is not None:
        normal = _group_norm(network, f"{row.key}.group_norm", x, settings["num_groups"], settings["eps"])
    attended = _attention(network, row, normal, normal, ["to_q", "to_k", "to_v", "to_out.0"])
    return (attended + x) / settings["output_scale_factor"]


def causal_attention(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    """The last queries of as many as there are keys: each sees the keys up to its own."""
    channels, mask = row.out_channels, None
    query, kept = inputs[0][..., :channels], inputs[1]
    queries, keys = query.shape[1], kept.shape[1]
    if 1 < queries < keys:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return _attend(
        query,
        kept[..., :channels],
        kept[..., channels:],
        row.settings["heads"],
        scale=row.settings["scale"],
        attn_mask=mask,
        is_causal=queries == keys,
    )


def conv2d(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    [x], settings = inputs, row.settings
    if settings.get("scale_factor", 1) == 2:
        x = _resized(x, "upsample")
    return _convolve(network, row.key, x, settings["stride"], settings["padding"])


def downsample(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    [x] = inputs
    if row.settings["padding"] == 0:  # right and bottom alone
        return _convolve(network, f"{row.key}.conv", functional.pad(x, (0, 0, 0, 1, 0, 1)), 2)
    return _convolve(network, f"{row.key}.conv", x, 2, 1)


def upsample(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    resized = _resized(inputs[0], "upsample")
    if len(inputs) > 1:
        resized = resized[:, : inputs[1].shape[1], : inputs[1].shape[2]]
    return _convolve(network, f"{row.key}.conv", resized, 1, 1)


def group_norm(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    normal = _group_norm(network, row.key, inputs[0], row.settings["num_groups"], row.settings["eps"])
    return functional.silu(normal, inplace=True) if row.settings["silu"] else normal


def layer_norm(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    weight, bias = network.weights[f"{row.key}.weight"], network.weights[f"{row.key}.bias"]
    return functional.layer_norm(inputs[0], (len(weight),), weight, bias, row.settings["eps"])


def linear(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    hidden = _linear(network, row.key, inputs[0])
    return hidden if len(inputs) == 1 else hidden + inputs[1].to(hidden)


def resnet_block(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    key, settings, x = row.key, row.settings, inputs[0]
    groups, eps, resample = settings["num_groups"], settings["eps"], settings.get("resample")
    non_linearity = settings.get("non_linearity", "silu")
    activation = ACTIVATIONS[non_linearity]
    hidden = activation(_group_norm(network, f"{key}.norm1", x, groups, eps))
    if resample is not None:
        hidden, x = _resized(hidden, resample), _resized(x, resample)
    hidden = _convolve(network, f"{key}.conv1", hidden, 1, 1)
    scale = shift = None
    if len(inputs) > 1:
        place = row.inputs[1], non_linearity
        if place not in shared:
            shared[place] = activation(inputs[1])
        time = _linear(network, f"{key}.time_emb_proj", shared[place])[:, None, None]
        if settings["time_scale_shift"] == "scale_shift":
            scale, shift = time.chunk(2, dim=-1)
        else:
            hidden = hidden + time
    hidden = _group_norm(network, f"{key}.norm2", hidden, groups, eps)
    if scale is not None:
        hidden = hidden * (1 + scale) + shift
    hidden = _convolve(network, f"{key}.conv2", activation(hidden), 1, 1)
    if f"{key}.conv_shortcut.weight" in network.weights:
        x = _convolve(network, f"{key}.conv_shortcut", x)
    return (hidden + x) / settings["output_scale_factor"]


def embedding(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    weight = network.weights[f"{row.key}.weight"]
    return functional.embedding(inputs[0][..., 0].to(weight.device, torch.int64), weight)


def position_embedding(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return inputs[0] + network.weights[f"{row.key}.weight"][: inputs[0].shape[1]]


def quantize(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    """In float64 where the device has it, for vectors that are nearly as near."""
    [x], codebook = inputs, network.weights[f"{row.key}.weight"]
    wide = torch.float32 if codebook.device.type == "mps" else torch.float64
    vectors = codebook.to(wide)
    distances = vectors.square().sum(1) / 2 - x.to(vectors) @ vectors.T
    return functional.embedding(distances.argmin(-1), codebook)


# Numbers, in NumPy: what they cost is nothing, and they are the same on every device


def timestep_embedding(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    wave = numpy_timestep_embedding.run(network, row, [vector_value(inputs[0].float().cpu().numpy())], {})
    return torch.from_numpy(vector_of(wave)).reshape(len(inputs[0]), -1)


def fourier_embedding(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    wave = numpy_fourier_embedding.run(network, row, [vector_value(inputs[0].float().cpu().numpy())], {})
    return torch.from_numpy(vector_of(wave)).reshape(len(inputs[0]), -1)


# Elements


def add(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    a, b = _together(inputs)
    return a + b


def affine(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return inputs[0] * row.settings["scale"] + row.settings["shift"]


def center_input_sample(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return 2 * inputs[0] - 1


def concatenate(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return torch.cat(_together(inputs), dim=-1)


def divide(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    number = inputs[1].to(inputs[0])
    return inputs[0] / number.reshape(-1, *[1] * (inputs[0].ndim - 1))


def geglu(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    hidden, gate = inputs[0].chunk(2, dim=-1)
    return hidden * functional.gelu(gate)


def gelu(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return functional.gelu(inputs[0], approximate=row.settings.get("approximate", "none"))


def mish(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return functional.mish(inputs[0])


def quick_gelu(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return inputs[0] * torch.sigmoid(1.702 * inputs[0])


def relu(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return functional.relu(inputs[0])


def silu(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return functional.silu(inputs[0])


def soft_clamp(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return torch.tanh(inputs[0] / row.settings["limit"]) * row.settings["limit"]


# Tokens, inputs and outputs


def key_value_cache(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    """What the passes before have kept, where there is any, and behind it the last channels of the first input."""
    added = inputs[0][..., row.in_channels - row.out_channels :]
    return torch.cat([inputs[1], added], dim=1) if isinstance(inputs[1], Tensor) else added


def select_token(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    tokens = inputs[0]
    if "last" in row.settings:
        return tokens[:, -1]
    ids, sought = inputs[1][..., 0].to(tokens.device), row.settings.get("token_id")
    # argmax is the first of those that are greatest, and the very first where there is none
    places = (ids if sought is None else (ids == sought).int()).argmax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), places]


def output(network: Any, row: PlanRow, inputs: Inputs, shared: Shared) -> Tensor:
    return inputs[0]
