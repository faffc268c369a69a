"""The functions of schema sql_diffusion_numpy: arguments from PostgreSQL, checked; results for it. Each is the twin
of the function of schema sql_diffusion with its name, where it is explained, and refuses what that one refuses in the
same words."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import doctor as diagnosis
from . import gpt, memory, network, parameters, pipeline, random, schedulers, session, tokenizer
from . import redraw as redrawing
from . import tensors as tensor_functions
from .errors import Refused, fail
from .images import image_from_png as png_reader
from .images import image_png as png_writer
from .images import image_resize as resizing
from .layers import add as sums
from .layers import concatenate as concatenation
from .layers import conv2d as convolution
from .layers import embedding as embedding_layer
from .layers import geglu as gated
from .layers import gelu as gelu_function
from .layers import group_norm as normalisation
from .layers import interpolate_nearest as interpolation
from .layers import layer_norm as token_normalisation
from .layers import linear as linear_layer
from .layers import mish as mish_function
from .layers import pad as padding_layer
from .layers import quick_gelu as quick_gelu_function
from .layers import relu as relu_function
from .layers import scaled_dot_product_attention as attention
from .layers import silu as activation_function
from .layers import timestep_embedding as time_wave
from .layers.conv2d import Activation, Piece
from .layers.modules import Network, PlanRow, Value, joined, plain
from .operations import attention_block as attention_module
from .operations import downsample as downsample_module
from .operations import resnet_block as resnet_module
from .operations import upsample as upsample_module
from .tensors import braces, check_nulls, check_same_shape, check_shape, check_size, check_values, tensor

Function = Callable[..., Any]


# What sql_diffusion.fail raises, and what whoever may not do something is told; an error of any other kind, a cancel above
# all, is PostgreSQL's own and passes as it is.
OURS = ("22023", "42704", "55000", "0A000", "42501")

MANY, AT_ONCE = 256, 1 << 15  # elements of an array whose texts are worth making all at once, and at most


def postgres_error(plpy: Any, error: Exception) -> Exception:
    """The error as PostgreSQL is to show it.

    PL/Python puts the name of the exception's type and a colon before the message. Messages begin with the name of the
    function and a colon, so that name makes the type, and the words are those of the SQL function.
    """
    if isinstance(error, Refused):
        message, hint, sqlstate = error.message, error.hint, error.sqlstate
    else:  # raised by a function in SQL that was called through plpy
        message, hint, sqlstate = str(error), error.spidata[2], error.sqlstate  # type: ignore[attr-defined]
    name, colon, rest = message.partition(": ")
    if not colon:
        name, rest = "sql_diffusion", message
    shown: Exception = type(name, (plpy.Error,), {"__module__": "builtins"})(rest)
    shown.sqlstate = sqlstate  # type: ignore[attr-defined]
    if hint is not None:
        shown.hint = hint  # type: ignore[attr-defined]
    return shown


@contextlib.contextmanager
def errors(plpy: Any) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise postgres_error(plpy, error) from None
    except MemoryError:
        raise postgres_error(plpy, Refused("out of memory", None, "53200")) from None
    except plpy.SPIError as error:
        if error.sqlstate not in OURS:
            raise
        raise postgres_error(plpy, error) from None


def as_lists(value: Any) -> Any:
    """A result, or a row of it, with nested lists for its arrays, as PL/Python takes them.

    PL/Python makes numbers of the texts of what the lists hold: so texts are what they hold of a large array, and of others
    NumPy's numbers, whose text is half as long as that of a float of Python, and as exact.
    """
    if isinstance(value, np.ndarray):
        if value.ndim > 2 or (value.size > AT_ONCE and value.ndim > 1):
            return [as_lists(part) for part in value]
        if value.size >= MANY and value.dtype == np.float32 and np.isfinite(value).all():
            return tensor_functions.written(value).tolist()
        return list(value) if value.ndim == 1 else [list(part) for part in value]
    if isinstance(value, dict):
        return {name: as_lists(part) for name, part in value.items()}
    return tuple(map(as_lists, value)) if isinstance(value, tuple) else value


def check_range(value: Any) -> None:
    """Refuse infinite results of finite arguments, as PostgreSQL's arithmetic does."""
    for array in value.values() if isinstance(value, dict) else [value]:
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            fail("value out of range: overflow", sqlstate="22003")


def boundary(function: Function) -> Function:
    """A function that PostgreSQL calls: arrays become lists, and what it refuses PostgreSQL's error.

    Of rows the first is made at once: an error behind it would be shown as "error fetching next item from iterator".
    """

    @functools.wraps(function)
    def call(plpy: Any, *arguments: Any) -> Any:
        with errors(plpy):
            result = function(plpy, *arguments)
            if inspect.isgenerator(result):
                return map(as_lists, itertools.chain(list(itertools.islice(result, 1)), result))
            check_range(result)
            return as_lists(result)

    return call


# As in SQL, a function looks at the shapes of its arguments first, at its settings then and at every value last.


def optional(value: Any, name: str, dimensions: str) -> np.ndarray | None:
    return None if value is None else tensor(value, name, dimensions)


def check_all_values(function: str, **arguments: tuple[np.ndarray | None, Any]) -> None:
    """Refuse values of arguments, each an array and the nested list that it was made of."""
    for name, (array, value) in arguments.items():
        if array is not None:
            check_values(array, f"{function}: {name}", value)


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
        fail(f"pad: value is {_number(value)}, expected a finite number")
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
        fail(f"conv2d: stride is {_number(stride)}, expected at least 1")
    if padding is None or padding < 0:
        fail(f"conv2d: padding is {_number(padding)}, expected at least 0")
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
        fail(f"group_norm: num_groups is {_number(num_groups)}, expected a divisor of the {len(x)} channels of input")
    for vector, name in ((w, "weight"), (b, "bias")):
        if vector is not None and len(vector) != len(x):
            fail(
                f"group_norm: {name} has {len(vector)} elements, "
                f"expected one for each of the {len(x)} channels of input"
            )
    if eps is None or not 0 <= eps < float("inf"):
        fail(f"group_norm: eps is {_number(eps)}, expected a finite number of at least 0")
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
        fail(f"layer_norm: eps is {_number(eps)}, expected a finite number of at least 0")
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
            fail(f"embedding: input_ids holds {_number(number)}, expected from 0 to {len(w) - 1}")
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
        fail(f"{name}: scale is {_number(scale)}, expected from -1e30 to 1e30")
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
        fail(f"{name}: timestep is {_number(timestep)}, expected a finite number of single precision")
    if not 2 <= embedding_dim <= 65536:
        fail(f"{name}: embedding_dim is {embedding_dim}, expected from 2 to 65536")
    if not -1e30 <= downscale_freq_shift < half:
        fail(
            f"{name}: downscale_freq_shift is {_number(downscale_freq_shift)}, "
            f"expected from -1e30 to less than half of embedding_dim, {half}"
        )
    if not 1e-30 <= max_period <= 1e30:
        fail(f"{name}: max_period is {_number(max_period)}, expected from 1e-30 to 1e30")


# Blocks: one row of a plan, run on its own


def _activation(array: np.ndarray) -> Activation:
    return [Piece(np.ascontiguousarray(array.transpose(1, 2, 0))[None], None)]


def _module(key: str | None, name: str) -> str | None:
    """The key of a module below another; without that, none."""
    return None if key is None else f"{key}.{name}"


def _read_module(
    plpy: Any, name: str, model: str, component: str, key: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    parameter = parameters.read_parameter(plpy, model, component, key)
    if parameter is None:
        session.query(
            plpy, "select sql_diffusion.check_parameter($1, $2, $3, $4)", ["text"] * 4, [model, component, key, name]
        )
    assert parameter is not None
    return parameter


def _block(
    plpy: Any, row: PlanRow, array: np.ndarray, model: str, component: str, first: str | None
) -> tuple[Network, Activation]:
    """The network that has this row alone. first is the module that takes the input."""
    name = row.operation

    @functools.cache
    def read(key: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        return _read_module(plpy, name, model, component, key)

    weight = read(first)[0]
    expected = weight.shape[0] if weight.ndim == 1 else weight.shape[1]
    if len(array) != expected:
        shape = "" if weight.ndim == 1 else f" of shape {braces(weight.shape)}"
        fail(f"{name}: input has {len(array)} channels, expected {expected}, as {first}{shape} takes")
    groups = row.settings.get("num_groups", 1)
    if weight.ndim == 1 and (groups is None or groups < 1 or len(array) % groups):
        fail(f"{name}: num_groups is {_number(groups)}, expected a divisor of the {len(array)} channels of input")
    if row.operation == "resnet_block":
        row = row._replace(in_channels=len(array), out_channels=len(read(f"{row.key}.conv1")[0]))
    entry = PlanRow(1, "input", "sample", [], len(array), len(array), 0, {})
    layout = network.lay_out([entry, row], read, array.shape[1], array.shape[2])
    return network.assemble_network(layout), _activation(array)


def _finish(value: Value) -> Any:
    return joined(plain(value))[0].transpose(2, 0, 1)


def _check_block(name: str, output_scale_factor: float | None, eps: float | None) -> None:
    if output_scale_factor is None or not 0 < abs(output_scale_factor) < float("inf"):
        fail(f"{name}: output_scale_factor is {_number(output_scale_factor)}, expected a finite number other than 0")
    if eps is None or not 0 <= eps < float("inf"):
        fail(f"{name}: eps is {_number(eps)}, expected a finite number of at least 0")


@boundary
def resnet_block(
    plpy: Any,
    input: Any,
    temb: Any,
    model: str,
    key: str,
    num_groups: int | None,
    eps: float | None,
    time_scale_shift: str | None,
    output_scale_factor: float | None,
    component: str,
) -> Any:
    session.begin(plpy)
    x = tensor(input, "resnet_block: input", "channels, height, width")
    time = optional(temb, "resnet_block: temb", "features")
    if time_scale_shift not in ("default", "scale_shift"):
        written = "null" if time_scale_shift is None else time_scale_shift
        fail(f"resnet_block: time_scale_shift is {written}, expected default or scale_shift")
    _check_block("resnet_block", output_scale_factor, eps)
    check_all_values("resnet_block", temb=(time, temb))
    settings = {
        "num_groups": num_groups,
        "eps": eps,
        "time_scale_shift": time_scale_shift,
        "output_scale_factor": output_scale_factor,
    }
    row = PlanRow(2, "resnet_block", key, [1, 0] if time is not None else [1], 0, 0, 0, settings)
    if time is not None:
        projection = _read_module(plpy, "resnet_block", model, component, _module(key, "time_emb_proj"))[0]
        if len(time) != projection.shape[1]:
            fail(
                f"resnet_block: the input of {key}.time_emb_proj has shape {braces(time.shape)}, "
                f"expected a last dimension of {projection.shape[1]}"
            )
        norm = parameters.read_parameter(plpy, model, component, _module(key, "norm2"))
        if norm is not None:
            channels = len(norm[0])
            expected = 2 * channels if time_scale_shift == "scale_shift" else channels
            if len(projection) != expected:
                fail(
                    f"resnet_block: {key}.time_emb_proj has {len(projection)} outputs, expected {expected} "
                    f"for the {channels} channels of {key}.norm2 and time_scale_shift {time_scale_shift}"
                )
    block, activation = _block(plpy, row, x, model, component, _module(key, "norm1"))
    row = block.plan[1]
    projected = None if time is None else resnet_module.project(block, resnet_module.time_name(row), time)
    return _finish(resnet_module.resnet_block(block, row, activation, projected))


@boundary
def attention_block(
    plpy: Any,
    input: Any,
    model: str,
    key: str,
    heads: int | None,
    num_groups: int | None,
    eps: float | None,
    output_scale_factor: float | None,
    component: str,
) -> Any:
    session.begin(plpy)
    x = tensor(input, "attention_block: input", "channels, height, width")
    _check_block("attention_block", output_scale_factor, eps)
    query = parameters.read_parameter(plpy, model, component, _module(key, "to_q"))
    if query is not None and (heads is None or heads < 1 or len(query[0]) % heads):
        outs = len(query[0])
        fail(f"attention_block: heads is {_number(heads)}, expected a divisor of the {outs} outputs of {key}.to_q")
    settings = {"heads": heads, "num_groups": num_groups, "eps": eps, "output_scale_factor": output_scale_factor}
    row = PlanRow(2, "attention_block", key, [1], len(x), len(x), 0, settings)
    first = _module(key, "to_q" if num_groups is None else "group_norm")
    block, activation = _block(plpy, row, x, model, component, first)
    return _finish(attention_module.run(block, row, [activation], {}))


@boundary
def downsample(plpy: Any, input: Any, model: str, key: str, padding: int | None, component: str) -> Any:
    session.begin(plpy)
    x = tensor(input, "downsample: input", "channels, height, width")
    if padding not in (0, 1):
        fail(f"downsample: padding is {_number(padding)}, expected 0 or 1")
    if padding == 0 and min(x.shape[1:]) < 2:
        fail(
            f"downsample: input has shape {braces(x.shape)}, expected at least 2 pixels in height and width with padding 0"
        )
    if padding == 0:
        check_all_values("pad", input=(x, input))
    row = PlanRow(2, "downsample", key, [1], len(x), len(x), 1, {"padding": padding})
    block, activation = _block(plpy, row, x, model, component, _module(key, "conv"))
    return _finish(downsample_module.run(block, row, [activation], {}))


@boundary
def upsample(plpy: Any, input: Any, model: str, key: str, component: str) -> Any:
    session.begin(plpy)
    x = tensor(input, "upsample: input", "channels, height, width")
    check_all_values("upsample", input=(x, input))
    row = PlanRow(2, "upsample", key, [1], len(x), len(x), -1, {})
    block, activation = _block(plpy, row, x, model, component, _module(key, "conv"))
    return _finish(upsample_module.run(block, row, [activation], {}))


# The network


def _check_input(row: PlanRow, value: Any, deepest: int, name: str) -> np.ndarray:
    """What sql_diffusion.check_input says."""
    tokens = "tokens" in row.settings
    if row.level is not None:
        dimensions = "channels, height, width"
    elif not tokens:
        dimensions = "features"
    else:
        dimensions = "tokens" if row.in_channels == 1 else "tokens, features"
    array = tensor(value, name, dimensions)
    check_values(array, name, value)
    if row.level is not None:
        channels, height, width = array.shape
        factor = 2 ** (deepest - row.level)
        if channels != row.in_channels:
            fail(f"{name} has {channels} channels, expected {row.in_channels}")
        if height % factor or width % factor:
            fail(f"{name} is {height} high and {width} wide, expected multiples of {factor}")
    elif not (tokens and row.in_channels == 1) and array.shape[-1] != row.in_channels:
        fail(f"{name} has {array.shape[-1]} features, expected {row.in_channels}")
    number = row.settings.get("num_embeddings")
    if number is not None and not ((array >= 0) & (array < number) & (array == np.floor(array))).all():
        fail(f"{name} has a value that is not a whole number from 0 to {number - 1}")
    most = row.settings.get("most_tokens")
    if most is not None and len(array) > most:
        fail(f"{name} has {len(array)} tokens, expected at most {most}")
    return array


def _check_inputs(plan: list[PlanRow], inputs: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    """The inputs of a network as a batch of one, checked as sql_diffusion.check_inputs does."""
    plan = network.plan_part(plan, inputs)
    wanted = [row for row in plan if row.operation == "input"]
    deepest = network.deepest_level(plan)
    for surplus in (key for key, value in inputs.items() if value is not None):
        if surplus not in [row.key for row in wanted]:
            names = ", ".join(row.key for row in wanted)
            fail(f"{name}: {surplus} is not an input of this network, expected {names}")
    arrays = {}
    for row in wanted:
        if "optional" in row.settings and inputs.get(row.key) is None:
            continue
        array = _check_input(row, inputs.get(row.key), deepest, f"{name}: {row.key}")
        arrays[row.key] = array[None, :, None] if "tokens" in row.settings and array.ndim == 1 else array[None]
    return arrays


def _network(
    plpy: Any, inputs: dict[str, Any], name: str | None, component: str, label: str | None = None
) -> tuple[Network, dict[str, np.ndarray]]:
    session.begin(plpy)
    found = parameters.get_model(plpy, name, component).network
    checked = _check_inputs(found.plan, inputs, label or component)
    _check_memory(found, {name: value.shape for name, value in checked.items()})
    return found, checked


def _check_memory(found: Network, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Refuse inputs of these shapes where they take more than there is; what they and the parameters take, in bytes."""
    parameters_size = sum(array.nbytes for array in found.arrays.values())
    working = memory.activations(network.plan_part(found.plan, shapes), shapes)
    memory.check(parameters_size, working + found.kernels)
    return working, parameters_size


def _unet_inputs(timestep: float | None, **inputs: Any) -> dict[str, Any]:
    if timestep is None or not abs(timestep) <= 3.4e38:
        fail(f"unet: timestep is {_number(timestep)}, expected a finite number of single precision")
    return {**inputs, "timestep": [timestep]}


@boundary
def unet_(
    plpy: Any, sample: Any, timestep: float, model: str | None, encoder_hidden_states: Any, class_labels: Any,
    timestep_cond: Any, text_embeds: Any, time_ids: Any,
) -> Any:  # fmt: skip
    given = _unet_inputs(
        timestep, sample=sample, encoder_hidden_states=encoder_hidden_states, class_labels=class_labels,
        timestep_cond=timestep_cond, text_embeds=text_embeds, time_ids=time_ids,
    )  # fmt: skip
    found, inputs = _network(plpy, given, model, "unet")
    output = network.run(found, inputs, lambda: session.cancel_point(plpy))["sample"][0]
    session.give_memory_back()
    return output


@boundary
def unet_steps(
    plpy: Any, sample: Any, timestep: float, model: str | None, encoder_hidden_states: Any, class_labels: Any,
    timestep_cond: Any, text_embeds: Any, time_ids: Any,
) -> Iterator[Any]:  # fmt: skip
    given = _unet_inputs(
        timestep, sample=sample, encoder_hidden_states=encoder_hidden_states, class_labels=class_labels,
        timestep_cond=timestep_cond, text_embeds=text_embeds, time_ids=time_ids,
    )  # fmt: skip
    yield from _steps(plpy, given, model, "unet")


@boundary
def text_encoder(plpy: Any, input_ids: Any, model: str | None, component: str) -> Any:
    if not input_ids:
        fail("text_encoder: input_ids is " + ("null" if input_ids is None else "empty"))
    found, inputs = _network(plpy, {"input_ids": input_ids}, model, component, "text_encoder")
    output = network.run(found, inputs, lambda: session.cancel_point(plpy))["last_hidden_state"][0]
    session.give_memory_back()
    return output


# Autoencoders


def _autoencoder(plpy: Any, function: str, name: str, value: Any, model: str | None) -> tuple[np.ndarray, int]:
    """What the autoencoder of a model makes of an input, and the channels of its latents."""
    [row] = session.query(
        plpy, "select sql_diffusion.autoencoder($1, $2) as component", ["text"] * 2, [model, function]
    )
    found, inputs = _network(plpy, {name: value}, model, row["component"], function)
    output = network.run(found, inputs, lambda: session.cancel_point(plpy))["sample"][0]
    session.give_memory_back()
    [latent] = [row for row in found.plan if row.operation == "input" and row.key == "latent"]
    return output, latent.in_channels


@boundary
def vae_decode(plpy: Any, latent: Any, model: str | None) -> Any:
    return _autoencoder(plpy, "vae_decode", "latent", latent, model)[0]


@boundary
def vae_encode(plpy: Any, image: Any, model: str | None) -> Any:
    encoded, channels = _autoencoder(plpy, "vae_encode", "image", image, model)
    return encoded[:channels]


@boundary
def vae_moments(plpy: Any, image: Any, model: str | None) -> Any:
    session.query(plpy, "select sql_diffusion.check_moments($1)", ["text"], [model])
    return _autoencoder(plpy, "vae_moments", "image", image, model)[0]


@boundary
def vae_sample(plpy: Any, moments: Any, noise: Any) -> Any:
    of_both = tensor(moments, "vae_sample: moments", "2 latent channels, height, width")
    drawn = tensor(noise, "vae_sample: noise", "latent channels, height, width")
    if of_both.shape != (2 * len(drawn), *drawn.shape[1:]):
        fail(
            f"vae_sample: moments has shape {braces(of_both.shape)}, "
            f"expected that of noise, {braces(drawn.shape)}, but for twice the channels"
        )
    check_all_values("vae_sample", moments=(of_both, moments), noise=(drawn, noise))
    return pipeline.sample_latent(of_both, drawn)


@boundary
def network_steps(plpy: Any, inputs: Any, model: str | None, component: str) -> Iterator[Any]:
    names = [item and item["name"] for item in inputs or []]
    if None in names:
        fail("network_steps: an input has no name")
    for name in names:
        if names.count(name) > 1:
            fail(f"network_steps: {name} is given {names.count(name)} times, expected once")
    given = {item["name"]: item["value"] for item in inputs or []}
    yield from _steps(plpy, given, model, component)


def _steps(plpy: Any, given: dict[str, Any], model: str | None, component: str) -> Iterator[Any]:
    found, inputs = _network(plpy, given, model, component)
    for row, value in network.run_steps(found, inputs):
        session.cancel_point(plpy)
        tensor_of_step = None if value is network.MISSING else found.engine.step_tensor(row, value)[0]
        yield row.step, row.operation, row.key or None, tensor_of_step


@boundary
def time_embedding(
    plpy: Any,
    timestep: float,
    model: str,
    key: str,
    embedding_dim: int,
    flip_sin_to_cos: bool,
    downscale_freq_shift: float,
    component: str,
) -> Any:
    check_timestep_embedding(timestep, embedding_dim, downscale_freq_shift, 10000)
    first, bias = _read_module(plpy, "time_embedding", model, component, f"{key}.linear_1")
    if first.shape[1] != embedding_dim:
        fail(
            f"time_embedding: the input of {key}.linear_1 has shape {braces([embedding_dim])}, "
            f"expected a last dimension of {first.shape[1]}"
        )
    second, second_bias = _read_module(plpy, "time_embedding", model, component, f"{key}.linear_2")
    wave = time_wave.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift)
    hidden = linear_layer.linear(wave, first, bias)
    return linear_layer.linear(activation_function.silu(hidden), second, second_bias)


# Tokenizers


@boundary
def tokenize(
    plpy: Any, text: str | None, model: str | None, component: str | None, padding: bool | None, truncation: bool | None
) -> Any:
    if text is None:
        fail("tokenize: text is null, expected a text")
    if padding is None or truncation is None:
        fail(f"tokenize: {'padding' if padding is None else 'truncation'} is null, expected true or false")
    return tokenizer.tokenize(plpy, text, tokenizer.get_tokenizer(plpy, model, component), padding, truncation)


def _detokenize(
    plpy: Any, ids: Any, model: str | None, component: str | None, skip_special_tokens: bool | None
) -> tuple[bytes, tokenizer.Tokenizer]:
    if ids is None:
        fail("detokenize: ids is null, expected an array of ids")
    dimensions = np.array(ids, dtype=object).ndim
    if dimensions > 1:
        fail(f"detokenize: ids has {dimensions} dimensions, expected 1")
    if skip_special_tokens is None:
        fail("detokenize: skip_special_tokens is null, expected true or false")
    chosen = tokenizer.get_tokenizer(plpy, model, component)
    for place, id in enumerate(ids, 1):
        if id not in chosen.vocabulary:
            fail(
                f"detokenize: ids has {_number(id)} at place {place}, "
                f'expected the id of a token of tokenizer "{component}" of model "{model}"'
            )
    return tokenizer.detokenize_bytes(chosen, ids, skip_special_tokens), chosen


@boundary
def detokenize_bytes(plpy: Any, ids: Any, model: str | None, component: str | None, skip_special: bool | None) -> Any:
    return _detokenize(plpy, ids, model, component, skip_special)[0]


@boundary
def detokenize(plpy: Any, ids: Any, model: str | None, component: str | None, skip_special: bool | None) -> Any:
    data, chosen = _detokenize(plpy, ids, model, component, skip_special)
    if b"\0" in data:
        fail(
            "detokenize: the tokens have a zero byte, which no text can hold",
            "sql_diffusion.detokenize_bytes gives them as bytea.",
        )
    text = data.decode(errors="replace")
    clip = chosen.config["tokenizer_class"] == "CLIPTokenizer"
    return text.strip(" \t\n\v\f\r\x1c\x1d\x1e\x1f") if clip else text


# Text


def _gpt(plpy: Any, prompt: str | None, model: str | None, **settings: tuple[str, Any]) -> tuple[Network, Any]:
    """The language model of a model, and gpt_settings, which says what cannot be; settings with their types."""
    [found] = session.query(plpy, "select sql_diffusion.gpt_component($1) as component", ["text"], [model])
    if prompt is None:
        fail("tokenize: text is null, expected a text")
    ids = tokenizer.tokenize(plpy, prompt, tokenizer.get_tokenizer(plpy, model, "tokenizer"), True, True)
    given = "".join(f", {name} => ${place}" for place, name in enumerate(settings, 4))
    [row] = session.query(
        plpy,
        f"select * from sql_diffusion.gpt_settings($1, $2, $3{given})",
        ["int[]", "text", "text", *(type for type, _ in settings.values())],
        [ids, model, found["component"], *(value for _, value in settings.values())],
    )
    session.begin(plpy)
    return parameters.get_model(plpy, model, found["component"]).network, row


def _text(data: bytes) -> str:
    return data.decode(errors="replace").replace("\0", "\ufffd")


@boundary
def gpt_next(plpy: Any, prompt: str | None, model: str | None, top_k: int | None) -> Iterator[Any]:
    found, settings = _gpt(plpy, prompt, model, top_k=("int", top_k))
    vocabulary = tokenizer.get_tokenizer(plpy, model, "tokenizer").vocabulary
    logits = next(gpt.passes(found, settings["input_ids"], functools.partial(session.cancel_point, plpy)))
    rows = zip(*(each[:top_k].tolist() for each in gpt.next_tokens(logits, [])), strict=True)
    for rank, (id, probability) in enumerate(rows, 1):
        yield rank, id, _text(vocabulary[id][0]) if id in vocabulary else None, probability
    session.give_memory_back()


@boundary
def gpt_generate(
    plpy: Any, prompt: str | None, max_new_tokens: int | None, model: str | None, temperature: float | None,
    top_k: int | None, top_p: float | None, seed: int | None, repetition_penalty: float | None, stop: str | None,
) -> Iterator[Any]:  # fmt: skip
    found, settings = _gpt(
        plpy, prompt, model,
        max_new_tokens=("int", max_new_tokens), temperature=("double precision", temperature), top_k=("int", top_k),
        top_p=("double precision", top_p), seed=("bigint", seed),
        repetition_penalty=("double precision", repetition_penalty), stop=("text", stop),
    )  # fmt: skip
    assert max_new_tokens is not None and temperature is not None  # gpt_settings refuses them
    assert seed is not None and repetition_penalty is not None
    tokens = tokenizer.get_tokenizer(plpy, model, "tokenizer")
    progress = session.progress_of(plpy, session.begin(plpy))
    prompt_length = len(settings["input_ids"])
    for ids in gpt.generate(
        found, settings["input_ids"], max_new_tokens, settings["stop_id"], seed, temperature, top_k, top_p,
        repetition_penalty, functools.partial(session.cancel_point, plpy),
    ):  # fmt: skip
        progress(f"step {len(ids) - prompt_length} of {max_new_tokens}")
        known = [id for id in ids if id in tokens.vocabulary]
        token = _text(tokens.vocabulary[ids[-1]][0]) if ids[-1] in tokens.vocabulary else None
        yield len(ids) - 1, ids[-1], token, _text(tokenizer.detokenize_bytes(tokens, known, True))
    session.give_memory_back()


# Random numbers


def _generator(generator: random.Generator) -> dict[str, Any]:
    return {
        "words": [int(word) for word in generator.words],
        "position": generator.position,
        "next_normal": generator.next_normal,
    }


@boundary
def manual_seed(plpy: Any, seed: int) -> Any:
    return _generator(random.manual_seed(seed))


@boundary
def randn(plpy: Any, seed: int, shape: Any) -> Any:
    return random.randn(random.manual_seed(seed), check_shape(shape, "randn: shape"))[0]


@boundary
def randn_of(plpy: Any, generator: Any, shape: Any) -> Any:
    sizes = check_shape(shape, "randn: shape")
    sample, after = random.randn(random.check_generator(generator), sizes)
    return {"sample": sample, "next": _generator(after)}


# Schedulers


def _check_model_output(output: np.ndarray, sample: np.ndarray, variance: bool) -> None:
    """Of the sample's shape, or of twice its channels, which it is where the step goes by a predicted variance."""
    doubled = (2 * len(sample), *sample.shape[1:])
    if not variance and len(output) != doubled[0]:
        check_same_shape(output, sample, "scheduler_step: model_output", "sample")
    elif output.shape != doubled:
        fail(
            f"scheduler_step: model_output has shape {braces(output.shape)}, expected {braces(doubled)}: "
            "twice the channels of sample, the output and the variance"
        )


@boundary
def scheduler_step(plpy: Any, model_output: Any, sample: Any, noise: Any, step: Any, memory: Any) -> Any:
    x, output = tensor(sample, "scheduler_step: sample"), tensor(model_output, "scheduler_step: model_output")
    _check_model_output(output, x, step is not None and step["least_log_noise"] is not None)
    row = _schedule_step(plpy, step)
    drawn = None
    if row.draws_noise:
        drawn = tensor(noise, "scheduler_step: noise")
        check_same_shape(drawn, x, "scheduler_step: noise", "sample")
    kept = None
    if memory is not None:
        kept, expected = np.asarray(memory, np.float32), (len(row.memory_coefficients), *x.shape)
        if kept.shape != expected or not kept.size:
            shapes = ["{" + ",".join(map(str, shape)) + "}" for shape in (kept.shape if kept.size else (), expected)]
            fail(f"scheduler_step: memory has shape {shapes[0]}, expected {shapes[1]}")
    check_all_values(
        "scheduler_step",
        sample=(x, sample), model_output=(output, model_output), noise=(drawn, noise), memory=(kept, memory),
    )  # fmt: skip
    previous, original, remembered = schedulers.scheduler_step(
        output[None], x[None], None if drawn is None else drawn[None], row, None if kept is None else kept[:, None]
    )
    return {
        "prev_sample": previous[0],
        "pred_original_sample": original[0],
        "next_memory": None if remembered is None else remembered[:, 0],
    }


_STEP_TYPES = [
    "int", *["double precision"] * 12, "boolean", *["double precision[]"] * 2, *["double precision"] * 5
]  # fmt: skip


def _schedule_step(plpy: Any, step: dict[str, Any] | None) -> schedulers.ScheduleStep:
    row = schedulers.ScheduleStep(**(step or dict.fromkeys(schedulers.ScheduleStep._fields)))
    sums = [
        getattr(row, field) for field in row._fields if field.startswith(("original_", "sample_", "output_", "noise_"))
    ]
    whole = row.draws_noise is not None and row.memory_coefficients is not None and row.memory_update is not None
    if whole:
        count, update = len(row.memory_coefficients), row.memory_update
        shaped = all(isinstance(line, list) and len(line) == count + 3 for line in update) and len(update) == count
        whole = shaped and count <= 5
        sums += row.memory_coefficients + [value for line in update for value in line] if whole else []
    whole = whole and all(value is not None and np.isfinite(value) for value in sums)
    bounded = row.clip_range is None or row.clip_range >= 0
    if row.threshold_ratio is not None:
        bounded = bounded and 0 <= row.threshold_ratio <= 1 and row.threshold_max is not None and row.threshold_max > 0
    log_noise = [row.least_log_noise, row.greatest_log_noise]
    if log_noise != [None, None]:
        bounded = bounded and all(value is not None and np.isfinite(value) for value in log_noise)
    if not whole or not bounded:
        fail(f"scheduler_step: step is {_written(plpy, step)}, expected a row of scheduler_timesteps")
    return row


def _written(plpy: Any, step: dict[str, Any] | None) -> str:
    """A row of a schedule as PostgreSQL writes it."""
    if step is None:
        return "null"
    places = ", ".join(f"${i + 1}" for i in range(len(_STEP_TYPES)))
    query = f"select row({places})::sql_diffusion.schedule_step::text as written"
    written: str = session.query(plpy, query, _STEP_TYPES, [step[field] for field in schedulers.ScheduleStep._fields])[
        0
    ]["written"]
    return written


@boundary
def add_noise_at(plpy: Any, original: Any, noise: Any, step: Any) -> Any:
    x, drawn = tensor(original, "add_noise_at: original"), tensor(noise, "add_noise_at: noise")
    check_same_shape(drawn, x, "add_noise_at: noise", "original")
    check_all_values("add_noise_at", original=(x, original), noise=(drawn, noise))
    row = schedulers.ScheduleStep(**(step or dict.fromkeys(schedulers.ScheduleStep._fields)))
    if any(value is None or not np.isfinite(value) for value in (row.added_original, row.added_noise)):
        fail(f"add_noise_at: step is {_written(plpy, step)}, expected a row of scheduler_timesteps")
    return schedulers.add_noise(x, drawn, row)


def _training_timestep(plpy: Any, model: str, timestep: int) -> schedulers.ScheduleStep:
    query = "select (s).* from sql_diffusion.training_timestep($1, $2) s"
    [row] = session.query(plpy, query, ["text", "int"], [model, timestep])
    return schedulers.ScheduleStep(*(row[field] for field in schedulers.ScheduleStep._fields))


@boundary
def add_noise(plpy: Any, original: Any, noise: Any, timestep: int, model: str) -> Any:
    x, drawn = tensor(original, "add_noise: original"), tensor(noise, "add_noise: noise")
    check_same_shape(drawn, x, "add_noise: noise", "original")
    check_all_values("add_noise", original=(x, original), noise=(drawn, noise))
    return schedulers.add_noise(x, drawn, _training_timestep(plpy, model, timestep))


@boundary
def predict_original_sample(plpy: Any, model_output: Any, sample: Any, timestep: int, model: str) -> Any:
    x = tensor(sample, "predict_original_sample: sample")
    step = _training_timestep(plpy, model, timestep)
    output = tensor(model_output, "scheduler_step: model_output")
    _check_model_output(output, x, step.least_log_noise is not None)
    check_all_values("scheduler_step", sample=(x, sample), model_output=(output, model_output))
    return schedulers.scheduler_step(output[None], x[None], None, step)[1][0]


@boundary
def denormalize(plpy: Any, sample: Any) -> Any:
    array = tensor(sample, "denormalize: sample")
    check_all_values("denormalize", sample=(array, sample))
    return pipeline.denormalize(array)


# Pipelines

_SCHEDULE = "select (s).* from sql_diffusion.generation_schedule($1, $2, $3, $4, $5, $6) s"
_SCHEDULER = (
    "select row(m.pipeline, m.scheduler, m.defaults)::text as settings from sql_diffusion.models m where m.name = $1"
)


def _generation_schedule(
    plpy: Any,
    model: str | None,
    steps: int | None,
    timesteps: Any,
    scheduler: str | None,
    eta: float | None,
    strength: float = 1,
) -> list[schedulers.ScheduleStep]:
    """The schedule of a generation."""
    [row] = session.query(plpy, _SCHEDULER, ["text"], [model])
    return _kept_schedule(plpy, row["settings"], model, steps, json.dumps(timesteps), scheduler, eta, strength)


@functools.lru_cache(maxsize=16)
def _kept_schedule(
    plpy: Any,
    settings: str,
    model: str | None,
    steps: int | None,
    timesteps: str,
    scheduler: str | None,
    eta: float | None,
    strength: float,
) -> list[schedulers.ScheduleStep]:
    """It is kept, since SQL takes some milliseconds for it.

    settings are the model's, so that a change of them makes another; timesteps are in JSON.
    """
    types = ["text", "int", "int[]", "text", "real", "double precision"]
    rows = session.query(plpy, _SCHEDULE, types, [model, steps, json.loads(timesteps), scheduler, eta, strength])
    return [schedulers.ScheduleStep(*(row[field] for field in schedulers.ScheduleStep._fields)) for row in rows]


def _pictures_at_once(unet: Network, shape: list[int], guided: bool) -> int:
    """Of a batch, so that its memory stays bounded: 16 of 64 x 64, fewer of a network that takes much for each."""
    channels = next(row.in_channels for row in unet.plan if row.operation == "input" and row.key == "sample")
    working, parameters_size = _check_memory(unet, {"sample": (2 if guided else 1, channels, *shape[1:])})
    by_bytes = memory.room_for(parameters_size) // working
    return max(1, min(16 * 64 * 64 // (shape[1] * shape[2]), by_bytes))


_DECODER = "select d.component, d.scaling_factor from sql_diffusion.decoder($1) d"


def _batches(
    plpy: Any,
    model: str | None,
    unet: Network,
    schedule: list[schedulers.ScheduleStep],
    seeds: list[int],
    shape: list[int],
    begin: Callable[[list[int]], pipeline.Beginning],
    condition: Callable[[slice], pipeline.Condition] = lambda batch: pipeline.NOTHING,
    guided: bool = False,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures of a latent shape, as many at once as fit, after a look whether one does: -> place of the first of a batch, the step, whether it is the
    last, samples and guesses of the finished ones."""
    progress = session.progress_of(plpy, session.begin(plpy))
    decoder = session.query(plpy, _DECODER, ["text"], [model])
    if decoder:
        autoencoder = parameters.get_model(plpy, model, decoder[0]["component"]).network
        _check_memory(autoencoder, {"latent": (1, *shape)})
    many = _pictures_at_once(unet, shape, guided)
    for first in range(0, len(seeds), many):
        batch = seeds[first : first + many]
        which = "" if len(seeds) == 1 else f", pictures {first + 1} to {first + len(batch)} of {len(seeds)}"

        def between(step: schedulers.ScheduleStep, which: str = which) -> None:
            session.cancel_point(plpy)
            progress(f"step {step.step} of {len(schedule)}{which}")

        told = condition(slice(first, first + many))
        for step, sample, original in pipeline.sample_steps(unet, schedule, begin(batch), between, told):
            yield first, step, step.step == len(schedule), sample, original
    session.give_memory_back()


def _finish_images(plpy: Any, samples: np.ndarray, model: str | None) -> np.ndarray:
    """The pictures of finished samples (batch, ...), as sql_diffusion.finished_image makes them, one after the other."""
    rows = session.query(plpy, _DECODER, ["text"], [model])
    if not rows:
        return pipeline.denormalize(samples)
    session.give_memory_back()  # the U-Net's
    between = functools.partial(session.cancel_point, plpy)
    autoencoder = parameters.get_model(plpy, model, rows[0]["component"]).network
    latents = schedulers.scaled(samples, 1 / rows[0]["scaling_factor"])
    decoded = [network.run(autoencoder, {"latent": latent[None]}, between)["sample"][0] for latent in latents]
    return pipeline.denormalize(np.array(decoded))


def _sample(
    plpy: Any,
    seeds: list[int],
    model: str | None,
    steps: int | None,
    timesteps: Any,
    scheduler: str | None,
    eta: float | None,
    class_label: int | None,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures without a prompt, as _batches gives them."""
    if not seeds:
        return
    session.begin(plpy)
    unet, shape, _ = parameters.get_model(plpy, model)
    # What SQL refuses is seen here without a query.
    taken = [row.key for row in unet.plan if row.operation == "input"]
    given = unet.plan[-1].out_channels
    if given < shape[0]:
        session.query(plpy, "select sql_diffusion.check_begins_with_noise($1)", ["text"], [model])
    if "encoder_hidden_states" in taken or given not in (shape[0], 2 * shape[0]):
        session.query(plpy, "select sql_diffusion.check_unconditional($1)", ["text"], [model])
    if "class_labels" in taken or class_label is not None:
        session.query(plpy, "select sql_diffusion.check_class_label($1, $2)", ["text", "int"], [model, class_label])
    schedule = _generation_schedule(plpy, model, steps, timesteps, scheduler, eta)

    def condition(batch: slice) -> pipeline.Condition:
        labels = np.full((len(seeds[batch]), 1), class_label or 0, np.float32)
        return pipeline.NOTHING if class_label is None else pipeline.Condition({"class_labels": labels})

    yield from _batches(
        plpy,
        model,
        unet,
        schedule,
        seeds,
        shape,
        lambda batch: pipeline.begin_with_noise(batch, shape, schedule[0]),
        condition,
    )


@boundary
def ddpm_steps(
    plpy: Any, seed: int | None, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Iterator[Any]:  # fmt: skip
    if seed is None:
        fail("seed is null, expected an integer")
    for _, step, _, sample, original in _sample(plpy, [seed], model, steps, timesteps, scheduler, eta, class_label):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def ddpm_generate(
    plpy: Any, seed: int | None, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Any:  # fmt: skip
    if seed is None:
        fail("seed is null, expected an integer")
    picture = None
    for _, _, last, sample, _ in _sample(plpy, [seed], model, steps, timesteps, scheduler, eta, class_label):
        if last:
            picture = _finish_images(plpy, sample, model)[0]
    return picture


@boundary
def ddpm_generate_many(
    plpy: Any, seeds: Any, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Iterator[Any]:  # fmt: skip
    flat = np.array([] if seeds is None else seeds, dtype=object).ravel().tolist()
    if None in flat:
        fail("seed is null, expected an integer")
    # All are made before the first row goes out; as arrays they take little.
    yield from [
        (flat[number], picture)
        for first, _, last, sample, _ in _sample(plpy, flat, model, steps, timesteps, scheduler, eta, class_label)
        if last
        for number, picture in enumerate(_finish_images(plpy, sample, model), first)
    ]


_TEXT_SETTINGS = "select (s).* from sql_diffusion.text_to_image_settings($1, $2, $3, $4, $5, $6, $7, $8) s"
_TEXT_TYPES = ["text", "text", "text", "real", "int", "int", "real", "int"]


class TextArguments(NamedTuple):
    """The arguments of text_to_image behind prompt and seed, in their order."""

    model: str | None
    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    height: int | None
    width: int | None
    scheduler: str | None
    timesteps: Any
    eta: float | None
    guidance_rescale: float | None
    clip_skip: int | None


def _encode_prompt(
    plpy: Any, prompt: str, model: str, settings: Any, skipped: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Hidden states (1, tokens, features) and pooled vector (1, features) or None, as sql_diffusion.encode_prompt."""
    hidden, pooled = [], None
    between = functools.partial(session.cancel_point, plpy)
    for component in settings["encoders"]:
        words = tokenizer.get_tokenizer(plpy, model, component.replace("text_encoder", "tokenizer"))
        ids = np.array(tokenizer.tokenize(plpy, prompt, words, True, True), np.float32)
        encoder = parameters.get_model(plpy, model, component).network
        _check_memory(encoder, {"input_ids": (1, len(ids), 1)})
        outputs = network.run(encoder, {"input_ids": ids[None, :, None]}, between)
        layers = sum(name.startswith("hidden_states.") for name in outputs) - 1
        states = outputs[f"hidden_states.{layers - skipped}"]
        if settings["final_norm"] and skipped == 0:
            states = outputs["last_hidden_state"]
        elif settings["final_norm"]:
            norm = "text_model.final_layer_norm"
            eps = next(row.settings["eps"] for row in encoder.plan if row.key == norm)
            weight, bias = encoder.arrays[f"{norm}.weight"], encoder.arrays[f"{norm}.bias"]
            states = token_normalisation.layer_norm_tokens(states, weight, bias, eps)
        hidden.append(states)
        pooled = outputs.get("text_embeds", pooled)
    return np.concatenate(hidden, axis=2), pooled


def _prompt_inputs(told: tuple[np.ndarray, np.ndarray | None], settings: Any) -> dict[str, np.ndarray]:
    hidden, pooled = told
    inputs = {"encoder_hidden_states": hidden}
    if settings["time_ids"] is not None and pooled is not None:
        inputs["text_embeds"], inputs["time_ids"] = pooled, np.array([settings["time_ids"]], np.float32)
    if settings["timestep_cond"] is not None:
        inputs["timestep_cond"] = np.array([settings["timestep_cond"]], np.float32)
    return inputs


def _text_settings(plpy: Any, prompt: str | None, arguments: TextArguments) -> Any:
    """The row of sql_diffusion.text_to_image_settings."""
    values = [
        prompt, arguments.model, arguments.negative_prompt, arguments.guidance_scale, arguments.height, arguments.width,
        arguments.guidance_rescale, arguments.clip_skip,
    ]  # fmt: skip
    return session.query(plpy, _TEXT_SETTINGS, _TEXT_TYPES, values)[0]


def _conditions(
    plpy: Any, prompts: list[str], model: str, settings: Any, guidance_rescale: float, label: int | None = None
) -> Callable[[slice], pipeline.Condition]:
    """What makes the condition of some of the prompts, as sql_diffusion.prompt_conditions: when it is asked first, it
    encodes all of them. label is the number of a class that goes with all of them."""

    def inputs(prompt: str, skipped: int) -> dict[str, np.ndarray]:
        told = _prompt_inputs(_encode_prompt(plpy, prompt, model, settings, skipped), settings)
        return told if label is None else {**told, "class_labels": np.array([[label]], np.float32)}

    @functools.cache
    def encoded() -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray] | None]:
        positive = [inputs(prompt, settings["layers_skipped"]) for prompt in prompts]
        negative = None
        if settings["guided"] and settings["negative_prompt"] is None:
            negative = {name: np.zeros_like(value) for name, value in positive[0].items()}
            negative["time_ids"] = positive[0]["time_ids"]
        elif settings["guided"]:
            # clip_skip is not for the negative prompt, in diffusers neither
            negative = inputs(settings["negative_prompt"], 0 if settings["final_norm"] else 1)
        session.give_memory_back()  # the text encoder's
        return positive, negative

    def condition(batch: slice) -> pipeline.Condition:
        positive, negative = encoded()
        chosen = positive[batch]
        told = {name: np.concatenate([each[name] for each in chosen]) for name in positive[0]}
        untold = None
        if negative is not None:
            untold = {name: np.repeat(value, len(chosen), axis=0) for name, value in negative.items()}
        return pipeline.Condition(told, untold, settings["guidance_scale"], guidance_rescale)

    return condition


def _text_samples(
    plpy: Any, prompts: list[str | None], seeds: list[int | None], arguments: TextArguments
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures of prompts, as _batches gives them."""
    given = [seed for seed in seeds if seed is not None]
    if len(given) < len(seeds):
        fail("seed is null, expected an integer")
    session.begin(plpy)
    model = arguments.model
    settings = [_text_settings(plpy, prompt, arguments) for prompt in prompts]
    assert model is not None and arguments.guidance_rescale is not None  # text_to_image_settings refuses them
    session.query(
        plpy, "select sql_diffusion.check_model($1), sql_diffusion.check_begins_with_noise($1)", ["text"], [model]
    )
    if not prompts:
        return
    schedule = _generation_schedule(
        plpy, model, arguments.num_inference_steps, arguments.timesteps, arguments.scheduler, arguments.eta
    )
    first = settings[0]  # all but the prompt is the same
    condition = _conditions(plpy, [prompt or "" for prompt in prompts], model, first, arguments.guidance_rescale)
    unet = parameters.get_model(plpy, model, "unet").network
    shape = list(first["latent_shape"])
    yield from _batches(
        plpy,
        model,
        unet,
        schedule,
        given,
        shape,
        lambda batch: pipeline.begin_with_noise(batch, shape, schedule[0]),
        condition,
        first["guided"],
    )


@boundary
def text_to_image_steps(plpy: Any, prompt: str | None, seed: int | None, *arguments: Any) -> Iterator[Any]:
    for _, step, _, sample, original in _text_samples(plpy, [prompt], [seed], TextArguments(*arguments)):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def text_to_image(plpy: Any, prompt: str | None, seed: int | None, *arguments: Any) -> Any:
    picture = None
    for _, _, last, sample, _ in _text_samples(plpy, [prompt], [seed], TextArguments(*arguments)):
        if last:
            picture = _finish_images(plpy, sample, arguments[0])[0]
    session.give_memory_back()
    return picture


@boundary
def text_to_image_many(plpy: Any, prompts: Any, seeds: Any, *arguments: Any) -> Iterator[Any]:
    session.query(plpy, "select sql_diffusion.check_prompts($1, $2)", ["text[]", "bigint[]"], [prompts, seeds])
    for begin, _, last, sample, _ in _text_samples(plpy, prompts, seeds, TextArguments(*arguments)):
        if last:
            for number, picture in enumerate(_finish_images(plpy, sample, arguments[0]), begin):
                yield prompts[number], seeds[number], picture
    session.give_memory_back()


class RedrawArguments(NamedTuple):
    """The arguments of redraw behind prompts and seeds, in their order."""

    model: str | None
    strength: float | None
    noise_level: int | None
    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    timesteps: Any
    eta: float | None
    guidance_rescale: float | None
    clip_skip: int | None


_REDRAW_SETTINGS = "select (s).* from sql_diffusion.redraw_settings($1, $2, $3, $4, $5, $6, $7) s"
_REDRAW_TYPES = ["text", "int[]", "int[]", "text", "real", "real", "int"]
_WITHOUT_PROMPT = "select sql_diffusion.check_without_prompt($1, $2, $3, $4, $5, $6)"
_WITHOUT_TYPES = ["text", "text", "text", "real", "real", "int"]


def _redraw_images(task: str, image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask, checked as sql_diffusion.check_redraw does."""
    picture, white = _image(image, f"{task}: image"), None
    if task == "inpaint":
        white = _image(mask, "inpaint: mask")
    elif mask is not None:
        fail(f"mask is given, but {task} does not use it")
    for name, array in (("image", picture), ("mask", white)):
        if array is not None and not ((array >= 0) & (array <= 1)).all():
            fail(f"{task}: {name} has a value that is not from 0 to 1")
    return picture, white


def _redraw_samples(
    plpy: Any,
    task: str,
    image: Any,
    mask: Any,
    prompts: list[str | None],
    seeds: list[int | None],
    given: RedrawArguments,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures that begin with a picture, as _batches gives them."""
    if not prompts:
        return
    numbers = [seed for seed in seeds if seed is not None]
    if len(numbers) < len(seeds):
        fail("seed is null, expected an integer")
    session.begin(plpy)
    session.query(plpy, "select sql_diffusion.check_task($1)", ["text"], [task])
    picture, white = _redraw_images(task, image, mask)
    model, between = given.model, functools.partial(session.cancel_point, plpy)
    session.query(plpy, "select sql_diffusion.check_model($1)", ["text"], [model])
    assert model is not None  # which check_model refuses
    shapes = [list(picture.shape), None if white is None else list(white.shape)]
    values = [task, *shapes, model, given.strength, given.guidance_scale, given.noise_level]
    [settings] = session.query(plpy, _REDRAW_SETTINGS, _REDRAW_TYPES, values)
    told = None
    for prompt in prompts:
        if settings["takes_prompt"]:
            text = TextArguments(
                model, given.negative_prompt, None, settings["guidance_scale"], settings["height"], settings["width"],
                None, None, None, given.guidance_rescale, given.clip_skip,
            )  # fmt: skip
            told = _text_settings(plpy, "" if prompt is None and task == "upscale" else prompt, text)
        else:
            rest = [given.negative_prompt, given.guidance_scale, given.guidance_rescale, given.clip_skip]
            session.query(plpy, _WITHOUT_PROMPT, _WITHOUT_TYPES, [model, prompt, *rest])
    schedule = _generation_schedule(
        plpy, model, given.num_inference_steps, given.timesteps, given.scheduler, given.eta, settings["strength"]
    )

    condition: Callable[[slice], pipeline.Condition] = lambda batch: pipeline.NOTHING  # noqa: E731
    if told is not None and given.guidance_rescale is not None:
        texts, label = [prompt or "" for prompt in prompts], settings["noise_level"]
        condition = _conditions(plpy, texts, model, told, given.guidance_rescale, label)

    def encode(picture: np.ndarray) -> np.ndarray:
        autoencoder = parameters.get_model(plpy, model, settings["autoencoder"]).network
        _check_memory(autoencoder, {"image": (1, *picture.shape)})
        return network.run(autoencoder, {"image": picture[None]}, between)["sample"][0]

    begin = redrawing.beginning_of(picture, white, settings, encode)
    unet = parameters.get_model(plpy, model, "unet").network
    shape = list(settings["latent_shape"])
    guided = told is not None and told["guided"]
    begin_batch = lambda batch: begin(batch, schedule[0])  # noqa: E731
    yield from _batches(plpy, model, unet, schedule, numbers, shape, begin_batch, condition, guided)


@boundary
def redraw_steps(
    plpy: Any, task: str, image: Any, mask: Any, prompt: str | None, seed: int | None, *arguments: Any
) -> Iterator[Any]:
    given = RedrawArguments(*arguments)
    for _, step, _, sample, original in _redraw_samples(plpy, task, image, mask, [prompt], [seed], given):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def redraw(plpy: Any, task: str, picture: Any, mask: Any, prompts: Any, seeds: Any, *arguments: Any) -> Iterator[Any]:
    session.query(plpy, "select sql_diffusion.check_prompts($1, $2)", ["text[]", "bigint[]"], [prompts, seeds])
    given = RedrawArguments(*arguments)
    for begin, _, last, sample, _ in _redraw_samples(plpy, task, picture, mask, prompts, seeds, given):
        if last:
            for number, made in enumerate(_finish_images(plpy, sample, given.model), begin):
                yield prompts[number], seeds[number], made
    session.give_memory_back()


@boundary
def finished_image(plpy: Any, sample: Any, model: str | None) -> Any:
    session.begin(plpy)
    array = tensor(sample, "finished_image: sample", "channels, height, width")
    check_all_values("finished_image", sample=(array, sample))
    session.query(plpy, "select sql_diffusion.component_config($1)", ["text"], [model])
    picture = _finish_images(plpy, array[None], model)[0]
    session.give_memory_back()
    return picture


@boundary
def latent_preview(plpy: Any, latent: Any) -> Any:
    array = tensor(latent, "latent_preview: latent", "channels, height, width")
    check_all_values("latent_preview", latent=(array, latent))
    return pipeline.latent_preview(array)


# Pictures


def _image(value: Any, name: str) -> np.ndarray:
    array = tensor(value, name, "channels, height, width")
    check_values(array, name, value)
    if len(array) > 4:
        fail(
            f"{name} has {len(array)} channels, expected 1 to 4",
            "An image is channels first: real[channels][height][width].",
        )
    return array


@boundary
def image_png(plpy: Any, image: Any, scale: int, compression: int) -> bytes:
    array = _image(image, "image_png: image")
    if scale < 1:
        fail(f"image_png: scale is {scale}, expected at least 1")
    if scale**2 * array.size > 50000000:
        fail(f"image_png: scale {scale} makes a picture of {scale**2 * array.size} values, expected at most 50000000")
    if not 0 <= compression <= 9:
        fail(f"image_png: compression is {compression}, expected 0 to 9")
    return png_writer.image_png(array, scale, compression)


@boundary
def image_from_png(plpy: Any, png: bytes) -> Any:
    return png_reader.image_from_png(png, lambda: session.cancel_point(plpy))


@boundary
def image_resize(plpy: Any, image: Any, height: int, width: int, method: str) -> Any:
    array = _image(image, "image_resize: image")
    if height < 1 or width < 1:
        fail(f"image_resize: height is {height} and width is {width}, expected at least 1")
    if method not in ("nearest", "bilinear", "bicubic", "lanczos"):
        fail(f'image_resize: method is "{method}", expected nearest, bilinear, bicubic or lanczos')
    check_size([len(array), height, width], "image_resize: output")
    return resizing.image_resize(array, height, width, method, lambda: session.cancel_point(plpy))


@boundary
def doctor(plpy: Any) -> Iterator[Any]:
    session.begin(plpy)
    yield from diagnosis.diagnose(plpy)


def _number(value: float | None) -> str:
    """A number as PostgreSQL writes it."""
    if value is None:
        return "null"
    if value != value:
        return "NaN"
    if value in (float("inf"), -float("inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
