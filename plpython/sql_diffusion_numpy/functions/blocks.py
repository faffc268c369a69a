"""Blocks: one row of a plan, run on its own."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .. import network, parameters, session
from ..boundary import boundary, check_all_values, number_text, optional
from ..errors import fail
from ..layers.activation import Activation, Piece, joined
from ..layers.modules import Network, PlanRow, Value, plain
from ..operations import attention_block as attention_module
from ..operations import downsample as downsample_module
from ..operations import resnet_block as resnet_module
from ..operations import upsample as upsample_module
from ..tensors import braces, tensor


def _activation(array: np.ndarray) -> Activation:
    return [Piece(np.ascontiguousarray(array.transpose(1, 2, 0))[None], None)]


def _module(key: str | None, name: str) -> str | None:
    """The key of a module below another; without that, none."""
    return None if key is None else f"{key}.{name}"


def read_module(
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
        return read_module(plpy, name, model, component, key)

    weight = read(first)[0]
    expected = weight.shape[0] if weight.ndim == 1 else weight.shape[1]
    if len(array) != expected:
        shape = "" if weight.ndim == 1 else f" of shape {braces(weight.shape)}"
        fail(f"{name}: input has {len(array)} channels, expected {expected}, as {first}{shape} takes")
    groups = row.settings.get("num_groups", 1)
    if weight.ndim == 1 and (groups is None or groups < 1 or len(array) % groups):
        fail(f"{name}: num_groups is {number_text(groups)}, expected a divisor of the {len(array)} channels of input")
    if row.operation == "resnet_block":
        row = row._replace(in_channels=len(array), out_channels=len(read(f"{row.key}.conv1")[0]))
    entry = PlanRow(1, "input", "sample", [], len(array), len(array), 0, {})
    layout = network.lay_out([entry, row], read, array.shape[1], array.shape[2])
    return network.assemble_network(layout), _activation(array)


def _finish(value: Value) -> Any:
    return joined(plain(value))[0].transpose(2, 0, 1)


def _check_block(name: str, output_scale_factor: float | None, eps: float | None) -> None:
    if output_scale_factor is None or not 0 < abs(output_scale_factor) < float("inf"):
        fail(
            f"{name}: output_scale_factor is {number_text(output_scale_factor)}, expected a finite number other than 0"
        )
    if eps is None or not 0 <= eps < float("inf"):
        fail(f"{name}: eps is {number_text(eps)}, expected a finite number of at least 0")


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
        projection = read_module(plpy, "resnet_block", model, component, _module(key, "time_emb_proj"))[0]
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
        fail(f"attention_block: heads is {number_text(heads)}, expected a divisor of the {outs} outputs of {key}.to_q")
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
        fail(f"downsample: padding is {number_text(padding)}, expected 0 or 1")
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
