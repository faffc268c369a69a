"""Networks: one pass, whole or step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import memory, network, parameters, pipeline, session
from ..boundary import boundary, check_all_values, number_text
from ..errors import fail
from ..layers import linear as linear_layer
from ..layers import silu as activation_function
from ..layers import timestep_embedding as time_wave
from ..layers.modules import Network, PlanRow
from ..tensors import braces, check_values, tensor
from .blocks import read_module
from .layers import check_timestep_embedding


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
    check_memory(found, {name: value.shape for name, value in checked.items()})
    return found, checked


def check_memory(found: Network, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Refuse inputs of these shapes where they take more than there is; what they and the parameters take, in bytes."""
    parameters_size = sum(array.nbytes for array in found.arrays.values())
    working = memory.activations(network.plan_part(found.plan, shapes), shapes)
    memory.check(parameters_size, working + found.kernels)
    return working, parameters_size


def _unet_inputs(timestep: float | None, **inputs: Any) -> dict[str, Any]:
    if timestep is None or not abs(timestep) <= 3.4e38:
        fail(f"unet: timestep is {number_text(timestep)}, expected a finite number of single precision")
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
    memory.give_back()
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
    memory.give_back()
    return output


# Autoencoders


def _autoencoder(plpy: Any, function: str, name: str, value: Any, model: str | None) -> tuple[np.ndarray, int]:
    """What the autoencoder of a model makes of an input, and the channels of its latents."""
    [row] = session.query(
        plpy, "select sql_diffusion.autoencoder($1, $2) as component", ["text"] * 2, [model, function]
    )
    found, inputs = _network(plpy, {name: value}, model, row["component"], function)
    output = network.run(found, inputs, lambda: session.cancel_point(plpy))["sample"][0]
    memory.give_back()
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
    first, bias = read_module(plpy, "time_embedding", model, component, f"{key}.linear_1")
    if first.shape[1] != embedding_dim:
        fail(
            f"time_embedding: the input of {key}.linear_1 has shape {braces([embedding_dim])}, "
            f"expected a last dimension of {first.shape[1]}"
        )
    second, second_bias = read_module(plpy, "time_embedding", model, component, f"{key}.linear_2")
    wave = time_wave.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift)
    hidden = linear_layer.linear(wave, first, bias)
    return linear_layer.linear(activation_function.silu(hidden), second, second_bias)
