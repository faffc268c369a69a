"""Runs the networks of a loaded model beside diffusers and transformers, layer by layer, on the same inputs."""

from typing import Any, NamedTuple

import numpy as np
from psycopg import sql

from .checkpoint import NETWORK
from .database import Connection, backend_schema, function
from .errors import USAGE, Problem
from .models import plan, settings
from .names import network_class
from .tensors import Float32Array, from_bytes

TOLERANCE = 1e-4  # of the largest value of the layer's output
TOKENS = 8  # of a text that a network is told
READ = 77  # tokens of a text that a network reads, at most
AUTOENCODED = 32  # pixels of an image for an autoencoder, which takes any size: a small one tells as much

# Steps of a plan that add one of their inputs to what the module makes, which of them: a residual is added where it arises.
ADDED = {"linear": 1, "attention": 1, "position_embedding": 0}


class Comparison(NamedTuple):
    """One layer: how far the database's output is from diffusers', and how large that output is."""

    component: str
    step: int
    operation: str
    key: str
    largest: float  # of diffusers' output
    error: float  # largest difference

    @property
    def relative(self) -> float:
        """The error as a share of the largest value."""
        return self.error / max(self.largest, 1e-30)

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance. NaN is not."""
        return self.relative <= TOLERANCE


def verify(connection: Connection, name: str, seed: int, timestep: int, backend: str | None) -> list[Comparison]:
    """Every layer of one pass of each network, in order."""
    components = settings(connection, name)["components"]  # first, since what is no model needs no torch
    try:
        import torch
    except ImportError as error:
        raise not_installed(error) from error
    schema = backend_schema(connection, backend)
    layers = []
    for component, config in sorted(components.items()):
        layers += verify_network(connection, schema, name, component, config, seed, timestep, torch)
    return layers


def not_installed(error: ImportError) -> Problem:
    """What is compared with is not here."""
    return Problem(
        f"verify compares with diffusers, and {error.name} is not installed",
        "pip install torch diffusers transformers",
        USAGE,
    )


def verify_network(
    connection: Connection,
    schema: str,
    name: str,
    component: str,
    config: dict[str, Any],
    seed: int,
    timestep: int,
    torch: Any,
) -> list[Comparison]:
    """Every layer of one pass of a network."""
    steps = plan(connection, name, component)
    network = build_network(config).eval()
    load_weights(network, read_weights(connection, name, component, torch))

    generator = torch.Generator().manual_seed(seed)
    inputs = {
        step["key"]: make_input(step, config, timestep, generator, torch)
        for step in steps
        if step["operation"] == "input" and "optional" not in step["settings"]
    }
    expected = run_reference(network, inputs, steps, torch)
    query: Any = sql.SQL("select s.step, s.operation, s.key, s.hidden from {}({}, %s, %s) s order by s.step").format(
        function(schema, "network_steps"),
        sql.SQL("array[{}]::sql_diffusion.network_input[]").format(
            sql.SQL(", ").join(sql.SQL("row({}, %b)").format(sql.Literal(key)) for key in inputs)
        ),
    )
    values = [np.asarray(value, np.float32) for value in inputs.values()]
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(query, [*values, name, component]).fetchall()
    results = {step: hidden for step, _, _, hidden in rows}
    sources = {step["step"]: step["inputs"] for step in steps}
    layers = []
    for step, operation, key, hidden in rows:
        if step not in expected or hidden is None:
            continue
        place = ADDED.get(operation, len(sources[step]))
        if place < len(sources[step]) and sources[step][place] is not None:
            hidden = hidden - results[sources[step][place]]
        layers.append(compare(component, step, operation, key, hidden, expected[step]))
    return layers


def build_network(config: dict[str, Any]) -> Any:
    """The module of diffusers or transformers that a config is of."""
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise not_installed(error) from error
    kind = network_class(config) or NETWORK
    if hasattr(diffusers, kind):
        return getattr(diffusers, kind).from_config(config)
    network: Any = getattr(transformers, kind)
    return network(network.config_class.from_dict(config))


def make_input(step: dict[str, Any], config: dict[str, Any], timestep: int, generator: Any, torch: Any) -> Any:
    """A random value for an input of a plan: an image, tokens, ids or a vector."""
    channels, given = step["in_channels"], step["settings"] or {}
    if step["key"] == "timestep":
        return torch.tensor([float(timestep)])
    if "num_embeddings" in given:  # ids of a vocabulary, or one class
        length = min(given.get("most_tokens", 1), READ)
        return torch.randint(given["num_embeddings"], (length,), generator=generator)
    if step["level"] is not None:
        size = AUTOENCODED >> step["level"] if step["key"] in ("image", "latent") else config["sample_size"]
        height, width = size if isinstance(size, list) else (size, size)
        return torch.randn(channels, height, width, generator=generator)
    shape = (TOKENS, channels) if given.get("tokens") else (channels,)
    return torch.randn(*shape, generator=generator)


def module_name(network: Any, modules: dict[str, Any], step: dict[str, Any]) -> str | None:
    """The module that a step of the plan is, None where it is none: whole models have a prefix that plans have not.

    transformers 5 has no text_model before the modules of a text encoder, checkpoints have.
    """
    key = step["key"]
    if not key or step["operation"] in ("input", "output"):
        return None
    names = [name for name in (key, key.removeprefix("text_model."), f"transformer.{key}") if name in modules]
    if names and step["operation"] == "linear" and hasattr(modules[names[0]], "num_embeddings"):  # a tied head
        names = [name for name, module in modules.items() if module is network.get_output_embeddings()]
    return names[0] if names else None


def read_weights(connection: Connection, name: str, component: str, torch: Any) -> dict[str, Any]:
    """The parameters as a state dict, read from the tables."""
    state: dict[str, Any] = {}
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "select p.key, case when p.dtype is null then p.weight end, p.dtype, p.weight_bytes, p.weight_shape, p.bias "
            "from sql_diffusion.parameters p where p.model = %s and p.component = %s",
            [name, component],
        )
        for key, weight, dtype, data, shape, bias in rows:
            if dtype is not None:
                weight = from_bytes(data, dtype).reshape(shape)
            state[f"{key}.weight"] = torch.from_numpy(weight)
            if bias is not None:
                state[f"{key}.bias"] = torch.from_numpy(bias)
    return state


def load_weights(network: Any, state: dict[str, Any]) -> None:
    """Puts a state dict of the tables into a module, by its own names and turned as it has them."""
    modules = dict(network.named_modules())
    own: dict[str, Any] = {}
    for name, value in state.items():
        key, _, kind = name.rpartition(".")
        place = module_name(network, modules, {"key": key, "operation": None}) or key
        turned = kind == "weight" and place in modules and type(modules[place]).__name__ == "Conv1D"
        own[f"{place}.{kind}"] = value.T if turned else value
    parameters = network.state_dict(keep_vars=True)
    for tied, parameter in parameters.items():  # which checkpoints have once
        others = [other for other, shared in parameters.items() if shared is parameter and other in own]
        if others:
            own[tied] = own[others[0]]
    network.load_state_dict(own, strict=True)


def run_reference(
    network: Any, inputs: dict[str, Any], steps: list[dict[str, Any]], torch: Any
) -> dict[int, Float32Array]:
    """The output of the module of every step that is one, caught by forward hooks."""
    outputs: dict[int, Float32Array] = {}

    def catch(step: dict[str, Any]) -> Any:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if (step["settings"] or {}).get("silu"):  # one step of the plan, two modules of diffusers
                value = torch.nn.functional.silu(value)
            batched = step["operation"] != "quantize"  # which diffusers does to the pixels of all pictures in one list
            outputs[step["step"]] = (value[0] if batched else value).detach().numpy()

        return hook

    modules = dict(network.named_modules())
    places = [(module_name(network, modules, step), step) for step in steps]
    hooks = [network.get_submodule(place).register_forward_hook(catch(step)) for place, step in places if place]
    batch = {key: value[None] if key != "timestep" else value for key, value in inputs.items()}
    with torch.no_grad():
        if "latent" in batch:
            network.encode(batch["image"])
            network.decode(batch["latent"])
        elif "sample" in batch:
            added = {key: batch.pop(key) for key in ("text_embeds", "time_ids") if key in batch}
            if "class_labels" in batch and inputs["class_labels"].dtype == torch.int64:
                batch["class_labels"] = inputs["class_labels"]
            network(**batch, **({"added_cond_kwargs": added} if added else {}))
        else:
            network(**batch)
    for hook in hooks:
        hook.remove()
    return outputs


def compare(
    component: str, step: int, operation: str, key: str, hidden: Float32Array, expected: Float32Array
) -> Comparison:
    """One layer's output beside diffusers'."""
    if hidden.ndim == 3 and expected.ndim == 2:  # an image (channels, height, width), which diffusers has as tokens
        hidden = hidden.reshape(len(hidden), -1).T
    if hidden.ndim == 1 and expected.ndim == 2:  # the last token, of which transformers has all
        expected = expected[-1]
    error = float(np.abs(hidden - expected).max()) if hidden.shape == expected.shape else float("nan")
    return Comparison(component, step, operation, key, float(np.abs(expected).max()), error)
