"""Runs a loaded model beside diffusers, layer by layer, on the same input."""

from typing import Any, NamedTuple

import numpy as np
from psycopg import sql

from .database import Connection, backend_schema, function
from .errors import USAGE, Problem
from .models import COMPONENT, settings
from .tensors import Float32Array

TOLERANCE = 1e-4  # of the largest value of the layer's output


class Comparison(NamedTuple):
    """One layer: how far the database's output is from diffusers', and how large that output is."""

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
    """Every layer of one pass of the network, in order."""
    config = settings(connection, name)["config"]  # first, since what is no model needs no torch
    try:
        import torch
        from diffusers import UNet2DModel
    except ImportError as error:
        raise Problem(
            f"verify compares with diffusers, and {error.name} is not installed",
            "pip install torch diffusers",
            USAGE,
        ) from error

    network: Any = UNet2DModel.from_config(config).eval()
    network.load_state_dict(read_weights(connection, name, torch), strict=True)

    height, width = config["sample_size"] if isinstance(config["sample_size"], list) else [config["sample_size"]] * 2
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(1, network.config.in_channels, height, width, generator=generator)

    schema = backend_schema(connection, backend)
    # The step time_embedding hands the sample on as it is; what it makes shows in every resnet_block.
    plan = connection.execute(
        "select p.key, p.operation from sql_diffusion.unet_plan(%s) p "
        "where p.key is not null and p.operation <> 'time_embedding'",
        [name],
    ).fetchall()
    expected = run_diffusers(network, sample, timestep, dict(plan), torch)
    query: Any = sql.SQL("select s.step, s.operation, s.key, s.hidden from {}(%b, %s, %s) s order by s.step").format(
        function(schema, "unet_steps")
    )
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(query, [sample[0].numpy(), timestep, name]).fetchall()
    return [
        compare(step, operation, key, hidden, expected[key]) for step, operation, key, hidden in rows if key in expected
    ]


def read_weights(connection: Connection, name: str, torch: Any) -> dict[str, Any]:
    """The parameters as a state dict, read from the tables."""
    state: dict[str, Any] = {}
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(
            "select p.key, p.weight, p.bias from sql_diffusion.parameters p where p.model = %s and p.component = %s",
            [name, COMPONENT],
        )
        for key, weight, bias in rows:
            state[f"{key}.weight"] = torch.from_numpy(weight)
            if bias is not None:
                state[f"{key}.bias"] = torch.from_numpy(bias)
    return state


def run_diffusers(
    network: Any, sample: Any, timestep: int, operations: dict[str, str], torch: Any
) -> dict[str, Float32Array]:
    """The output of every module that the plan names, caught by forward hooks."""
    outputs: dict[str, Float32Array] = {}

    def catch(key: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            if operations[key] == "group_norm_silu":  # one step of the plan, two modules of diffusers
                value = torch.nn.functional.silu(value)
            outputs[key] = value[0].detach().numpy()

        return hook

    hooks = [network.get_submodule(key).register_forward_hook(catch(key)) for key in operations]
    with torch.no_grad():
        network(sample, timestep)
    for hook in hooks:
        hook.remove()
    return outputs


def compare(step: int, operation: str, key: str, hidden: Float32Array, expected: Float32Array) -> Comparison:
    """One layer's output beside diffusers'."""
    if hidden.shape != expected.shape:
        return Comparison(step, operation, key, float(np.abs(expected).max()), float("nan"))
    return Comparison(step, operation, key, float(np.abs(expected).max()), float(np.abs(hidden - expected).max()))
