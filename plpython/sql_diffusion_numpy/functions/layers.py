"""Layers: PyTorch's functions, each on its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import session
from .. import tensors as tensor_functions
from ..boundary import boundary, check_all_values, number_text, optional
from ..errors import fail
from ..layers import add as sums
from ..layers import concatenate as concatenation
from ..layers import conv2d as convolution
from ..layers import embedding as embedding_layer
from ..layers import geglu as gated
from ..layers import gelu as gelu_function
from ..layers import group_norm as normalisation
from ..layers import interpolate_nearest as interpolation
from ..layers import layer_norm as token_normalisation
from ..layers import linear as linear_layer
from ..layers import mish as mish_function
from ..layers import pad as padding_layer
from ..layers import quick_gelu as quick_gelu_function
from ..layers import relu as relu_function
from ..layers import scaled_dot_product_attention as attention
from ..layers import silu as activation_function
from ..layers import timestep_embedding as time_wave
from ..tensors import braces, check_nulls, check_same_shape, check_shape, check_size, tensor

# Tensors


@boundary
def reshape(plpy: Any, input: Any, shape: Any) -> Any:
    array = tensor(input, "reshape: input")
    output = tensor_functions.reshape(array, check_shape(shape, "reshape: shape"))
    check_all_values("reshape", input=(array, input))
    return output


@boundary
def tensor_from_bytes(plpy: Any, data: bytes, dtype: str, shape: Any) -> Any:
    return tensor_functions.tensor_from_bytes(data, dtype, check_shape(shape, "tensor_from_bytes: shape"))


# Layers


@boundary
def silu(plpy: Any, input: Any) -> Any:
    array = tensor(input, "silu: input")
    check_all_values("silu", input=(array, input))
    return activation_function.silu(array)


@boundary
def gelu(plpy: Any, input: Any, approximate: str | None) -> Any:
    array = tensor(input, "gelu: input")
    if approximate not in ("none", "tanh"):
        written = "null" if approximate is None else approximate
        fail(f"gelu: approximate is {written}, expected none or tanh")
    check_all_values("gelu", input=(array, input))
    return gelu_function.gelu(array, approximate)


@boundary
def quick_gelu(plpy: Any, input: Any) -> Any:
    array = tensor(input, "quick_gelu: input")
    check_all_values("quick_gelu", input=(array, input))
    return quick_gelu_function.quick_gelu(array)


@boundary
def relu(plpy: Any, input: Any) -> Any:
    array = tensor(input, "relu: input")
    check_all_values("relu", input=(array, input))
    return relu_function.relu(array)


@boundary
def mish(plpy: Any, input: Any) -> Any:
    array = tensor(input, "mish: input")
    check_all_values("mish", input=(array, input))
    return mish_function.mish(array)


@boundary
def geglu(plpy: Any, input: Any) -> Any:
    array = tensor(input, "geglu: input")
    if array.shape[-1] % 2:
        fail(f"geglu: input has shape {braces(array.shape)}, expected an even last dimension")
    check_all_values("geglu", input=(array, input))
    return gated.geglu(array)


@boundary
def add(plpy: Any, a: Any, b: Any) -> Any:
    x, y = tensor(a, "add: a"), tensor(b, "add: b")
    check_same_shape(y, x, "add: b", "a")
    check_all_values("add", a=(x, a), b=(y, b))
    return sums.add(x, y)


@boundary
def add_channels(plpy: Any, input: Any, vector: Any) -> Any:
    x, y = tensor(input, "add_channels: input"), tensor(vector, "add_channels: vector", "channels")
    if len(y) != len(x):
        fail(f"add_channels: vector has {len(y)} elements, expected one for each of the {len(x)} channels of input")
    check_all_values("add_channels", input=(x, input), vector=(y, vector))
    return sums.add_channels(x, y)


@boundary
def concatenate(plpy: Any, a: Any, b: Any) -> Any:
    dimensions = "channels, height, width"
    x, y = tensor(a, "concatenate: a", dimensions), tensor(b, "concatenate: b", dimensions)
    if x.shape[1:] != y.shape[1:]:
        fail(f"concatenate: b has shape {braces(y.shape)}, expected the height and width of a, {braces(x.shape)}")
    check_all_values("concatenate", a=(x, a), b=(y, b))
    return concatenation.concatenate(x, y)


@boundary
def pad(plpy: Any, input: Any, left: int, right: int, top: int, bottom: int, value: float) -> Any:
    array = tensor(input, "pad: input", "channels, height, width")
    if min(left, right, top, bottom) < 0:
        fail(f"pad: padding is {left}, {right}, {top}, {bottom} (left, right, top, bottom), expected none below 0")
    if not np.isfinite(value):
        fail(f"pad: value is {number_text(value)}, expected a finite number")
    channels, height, width = array.shape
    check_size([channels, height + top + bottom, width + left + right], "pad: output")
    check_all_values("pad", input=(array, input))
    return padding_layer.pad(array, left, right, top, bottom, value)


@boundary
def interpolate_nearest(plpy: Any, input: Any, scale_factor: int) -> Any:
    array = tensor(input, "interpolate_nearest: input", "channels, height, width")
    if scale_factor < 1:
        fail(f"interpolate_nearest: scale_factor is {scale_factor}, expected at least 1")
    channels, height, width = array.shape
    check_size([channels, height * scale_factor, width * scale_factor], "interpolate_nearest: output")
    check_all_values("interpolate_nearest", input=(array, input))
    return interpolation.interpolate_nearest(array, scale_factor)


@boundary
def linear(plpy: Any, input: Any, weight: Any, bias: Any) -> Any:
    x, w = tensor(input, "linear: input"), tensor(weight, "linear: weight", "out, in")
    b = optional(bias, "linear: bias", "out")
    if x.shape[-1] != w.shape[1]:
        fail(
            f"linear: input has shape {braces(x.shape)}, "
            f"expected a last dimension of {w.shape[1]}, as weight of shape {braces(w.shape)} takes"
        )
    if b is not None and len(b) != len(w):
        fail(f"linear: bias has {len(b)} elements, expected one for each of the {len(w)} outputs of weight")
    check_all_values("linear", input=(x, input), weight=(w, weight), bias=(b, bias))
    return linear_layer.linear(x, w, b)


@boundary
def conv2d(plpy: Any, input: Any, weight: Any, bias: Any, stride: int | None, padding: int | None) -> Any:
    x = tensor(input, "conv2d: input", "channels, height, width")
    w = tensor(weight, "conv2d: weight", "out, in, height, width")
    b = optional(bias, "conv2d: bias", "out")
    if stride is None or stride < 1:
        fail(f"conv2d: stride is {number_text(stride)}, expected at least 1")
    if padding is None or padding < 0:
        fail(f"conv2d: padding is {number_text(padding)}, expected at least 0")
    if len(x) != w.shape[1]:
        fail(f"conv2d: input has {len(x)} channels, expected {w.shape[1]}, as weight of shape {braces(w.shape)} takes")
    if b is not None and len(b) != len(w):
        fail(f"conv2d: bias has {len(b)} elements, expected one for each of the {len(w)} output channels of weight")
    if x.shape[1] + 2 * padding < w.shape[2] or x.shape[2] + 2 * padding < w.shape[3]:
        fail(
            f"conv2d: input of shape {braces(x.shape)} with padding {padding} "
            f"is smaller than the kernel of weight of shape {braces(w.shape)}"
        )
    check_size([len(x), x.shape[1] + 2 * padding, x.shape[2] + 2 * padding], "conv2d: padded input")
    check_all_values("conv2d", input=(x, input), weight=(w, weight), bias=(b, bias))
    return convolution.conv2d(x, w, b, stride, padding)


@boundary
def group_norm(plpy: Any, input: Any, num_groups: int | None, weight: Any, bias: Any, eps: float | None) -> Any:
    x = tensor(input, "group_norm: input")
    w, b = optional(weight, "group_norm: weight", "channels"), optional(bias, "group_norm: bias", "channels")
    if num_groups is None or num_groups < 1 or len(x) % num_groups:
        fail(
            f"group_norm: num_groups is {number_text(num_groups)}, expected a divisor of the {len(x)} channels of input"
        )
    for vector, name in ((w, "weight"), (b, "bias")):
        if vector is not None and len(vector) != len(x):
            fail(
                f"group_norm: {name} has {len(vector)} elements, "
                f"expected one for each of the {len(x)} channels of input"
            )
    if eps is None or not 0 <= eps < float("inf"):
        fail(f"group_norm: eps is {number_text(eps)}, expected a finite number of at least 0")
    check_all_values("group_norm", input=(x, input), weight=(w, weight), bias=(b, bias))
    if eps == 0 and (np.ptp(x.reshape(num_groups, -1), axis=1) == 0).any():
        fail("division by zero", sqlstate="22012")  # of a group without variance
    return normalisation.group_norm(x, num_groups, w, b, eps)


@boundary
def layer_norm(plpy: Any, input: Any, weight: Any, bias: Any, eps: float | None) -> Any:
    x = tensor(input, "layer_norm: input")
    w, b = optional(weight, "layer_norm: weight", "features"), optional(bias, "layer_norm: bias", "features")
    features = x.shape[-1]
    for vector, name in ((w, "weight"), (b, "bias")):
        if vector is not None and len(vector) != features:
            fail(
                f"layer_norm: {name} has {len(vector)} elements, "
                f"expected one for each of the {features} features of input"
            )
    if eps is None or not 0 <= eps < float("inf"):
        fail(f"layer_norm: eps is {number_text(eps)}, expected a finite number of at least 0")
    check_all_values("layer_norm", input=(x, input), weight=(w, weight), bias=(b, bias))
    if eps == 0 and (np.ptp(x, axis=-1) == 0).any():
        fail("division by zero", sqlstate="22012")  # of a token without variance
    return token_normalisation.layer_norm(x, w, b, eps)


@boundary
def embedding(plpy: Any, input_ids: Any, weight: Any) -> Any:
    ids = np.array(input_ids, dtype=object)  # a null element is None
    if ids.size == 0:
        fail("embedding: input_ids is empty")
    w = tensor(weight, "embedding: weight", "number, features")
    if ids.ndim > 5:
        fail(f"embedding: input_ids has {ids.ndim} dimensions, expected at most 5")
    check_all_values("embedding", weight=(w, weight))
    for number in ids.flat:
        if number is None or not 0 <= number < len(w):
            fail(f"embedding: input_ids holds {number_text(number)}, expected from 0 to {len(w) - 1}")
    return embedding_layer.embedding(ids.astype(np.int64), w)


@boundary
def scaled_dot_product_attention(
    plpy: Any, query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool | None, scale: float | None
) -> Any:
    session.begin(plpy)
    name = "scaled_dot_product_attention"
    q, k, v = tensor(query, f"{name}: query"), tensor(key, f"{name}: key"), tensor(value, f"{name}: value")
    if not 2 <= q.ndim <= 4:
        fail(
            f"{name}: query has shape {braces(q.shape)}, "
            "expected 2 to 4 dimensions (batch, heads, length, features), the first two optional"
        )
    mask = optional(attn_mask, f"{name}: attn_mask", "queries, keys")
    if k.ndim != q.ndim or k.shape[:-2] != q.shape[:-2] or k.shape[-1] != q.shape[-1]:
        fail(f"{name}: key has shape {braces(k.shape)}, expected that of query, {braces(q.shape)}, but for the length")
    if v.ndim != k.ndim or v.shape[:-1] != k.shape[:-1]:
        fail(
            f"{name}: value has shape {braces(v.shape)}, expected that of key, {braces(k.shape)}, but for the features"
        )
    if mask is not None and mask.shape != (q.shape[-2], k.shape[-2]):
        expected = braces((q.shape[-2], k.shape[-2]))
        fail(
            f"{name}: attn_mask has shape {braces(mask.shape)}, "
            f"expected {expected}, a row for each query and an element for each key"
        )
    if is_causal is None:
        fail(f"{name}: is_causal is null, expected true or false")
    if is_causal and mask is not None:
        fail(f"{name}: attn_mask is given and is_causal is true, expected one of the two")
    if scale is not None and not abs(scale) <= 1e30:
        fail(f"{name}: scale is {number_text(scale)}, expected from -1e30 to 1e30")
    check_all_values(name, query=(q, query), key=(k, key), value=(v, value))
    if mask is not None and not (mask < np.inf).all():
        check_nulls(attn_mask, f"{name}: attn_mask")
        fail(f"{name}: attn_mask holds NaN or Infinity, expected finite numbers and -Infinity")
    return attention.scaled_dot_product_attention(q, k, v, mask, is_causal, scale)


@boundary
def timestep_embedding(
    plpy: Any,
    timestep: float,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    max_period: float,
) -> Any:
    check_timestep_embedding(timestep, embedding_dim, downscale_freq_shift, max_period)
    return time_wave.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift, max_period)


def check_timestep_embedding(
    timestep: float, embedding_dim: int, downscale_freq_shift: float, max_period: float
) -> None:
    name, half = "timestep_embedding", embedding_dim // 2
    if not abs(timestep) <= 3.4e38:
        fail(f"{name}: timestep is {number_text(timestep)}, expected a finite number of single precision")
    if not 2 <= embedding_dim <= 65536:
        fail(f"{name}: embedding_dim is {embedding_dim}, expected from 2 to 65536")
    if not -1e30 <= downscale_freq_shift < half:
        fail(
            f"{name}: downscale_freq_shift is {number_text(downscale_freq_shift)}, "
            f"expected from -1e30 to less than half of embedding_dim, {half}"
        )
    if not 1e-30 <= max_period <= 1e30:
        fail(f"{name}: max_period is {number_text(max_period)}, expected from 1e-30 to 1e30")
