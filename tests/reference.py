"""The outside reference: networks of diffusers with random weights, and their way into the database."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import torch
from diffusers import UNet2DModel

# A network small enough for pure SQL in a test, with every kind of block; each test varies it.
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}

# One variation of SMALL for each setting that the extension supports.
VARIATIONS: dict[str, dict[str, Any]] = {
    "small": {},
    "not square": {"sample_size": [6, 10]},
    "one channel": {"in_channels": 1, "out_channels": 1},
    "two channels": {"in_channels": 2, "out_channels": 2},
    "four channels": {"in_channels": 4, "out_channels": 4},
    "one level": {
        "block_out_channels": [8],
        "down_block_types": ["AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D"],
    },
    "three levels": {
        "block_out_channels": [8, 8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "two layers": {"layers_per_block": 2},
    "no attention in the blocks": {
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
    },
    "attention up only": {
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
    },
    "one head": {"attention_head_dim": None},
    "heads that leave channels over": {"attention_head_dim": 6},
    "no attention in the middle": {"add_attention": False},
    "groups of one channel": {"norm_num_groups": 8, "norm_eps": 1e-3},
    "one group": {"norm_num_groups": 1},
    "attention groups": {"attn_norm_num_groups": 2},
    "sin before cos": {"flip_sin_to_cos": False},
    "frequencies shifted": {"freq_shift": 1},
    "no downsample padding": {"downsample_padding": 0},
    "middle scaled": {"mid_block_scale_factor": 1.41421356},
    "input centred": {"center_input_sample": True},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift, attention groups": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "gelu": {"act_fn": "gelu"},
    "mish, scale and shift": {"act_fn": "mish", "resnet_time_scale_shift": "scale_shift"},
    "relu": {"act_fn": "ReLU"},
    "silu by its other name": {"act_fn": "Swish"},
    "gelu, resampled by resnets": {
        "act_fn": "gelu",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "down_block_types": ["AttnDownBlock2D"] * 2,
        "up_block_types": ["AttnUpBlock2D"] * 2,
    },
    "a time embedding of its own width": {"time_embedding_dim": 20},
    "an odd number of channels": {"block_out_channels": [9, 15], "norm_num_groups": 3, "attention_head_dim": 5},
}


def randomize(network: Any) -> Any:
    """Random weights everywhere; norms are not left at 1 and 0, nor biases at 0, where mistakes would not show."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
            elif name.endswith("bias"):
                parameter += 0.1 * torch.randn(parameter.shape)
    return network.eval()


def random_unet(rng: np.random.Generator, **variation: Any) -> UNet2DModel:
    """SMALL with a variation, and random weights."""
    torch.manual_seed(int(rng.integers(2**32)))
    return randomize(UNet2DModel(**{**SMALL, **variation}))


def insert_model(
    connection: psycopg.Connection,
    name: str,
    network: Any,
    scheduler: dict[str, Any] | None = None,
    pipeline: str = "DDPMPipeline",
    component: str = "unet",
    **components: Any,
) -> None:
    """Puts networks of diffusers and transformers into the tables, as `sql-diffusion load` would: one, a U-Net unless
    told otherwise, and others by the names of their components."""
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) values (%s, %s, %s) on conflict (name) do nothing",
        [name, pipeline, json.dumps(scheduler or {"_class_name": "DDPMScheduler"})],
    )
    for place, part in {component: network, **components}.items():
        if part is not None:
            insert_component(connection, name, place, part)


def config_of(network: Any) -> dict[str, Any]:
    """The configuration as its config.json has it."""
    if isinstance(network.config, dict):  # diffusers'
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        return {"_class_name": type(network).__name__, **config}
    return {**json.loads(network.config.to_json_string(use_diff=False)), "architectures": [type(network).__name__]}


def state_of(network: Any) -> dict[str, torch.Tensor]:
    """The parameters as a checkpoint has them."""
    state = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    if "CLIPText" in type(network).__name__:  # transformers 5 leaves out what checkpoints have
        state = {key if key.startswith("text_") else f"text_model.{key}": value for key, value in state.items()}
    return state


def insert_component(connection: psycopg.Connection, model: str, component: str, network: Any) -> None:
    connection.execute(
        "insert into sql_diffusion.components (model, component, config) values (%s, %s, %s)",
        [model, component, json.dumps(config_of(network))],
    )
    state = state_of(network)
    for key in dict.fromkeys(parameter.rpartition(".")[0] for parameter in state):
        weight, bias = state[f"{key}.weight"], state.get(f"{key}.bias")
        if weight.ndim > 1 and weight.dtype in (torch.float16, torch.bfloat16):
            stored: dict[str, Any] = {
                "dtype": str(weight.dtype).removeprefix("torch."),
                "weight_bytes": weight.contiguous().view(torch.int16).numpy().astype("<i2").tobytes(),
                "weight_shape": list(weight.shape),
            }
        else:
            stored = {"weight": weight.tolist()}
        connection.execute(
            f"insert into sql_diffusion.parameters (model, component, key, bias, {', '.join(stored)}) "
            f"values (%s, %s, %s, %s::real[], {', '.join('%s::real[]' if name == 'weight' else '%s' for name in stored)})".encode(),
            [model, component, key, None if bias is None else bias.tolist(), *stored.values()],
        )


def relative_error(ours: Any, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest difference, as a share of the reference's largest value: of nothing but zeros, too, none where none differs."""
    reference = np.asarray(theirs, dtype=np.float64)
    result = np.asarray(ours, dtype=np.float64)
    assert result.shape == reference.shape, f"shape {result.shape}, expected {reference.shape}"
    difference = np.abs(result - reference).max()
    return float(difference / np.abs(reference).max()) if difference != 0 else 0.0
