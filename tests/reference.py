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
    "a time embedding of its own width": {"time_embedding_dim": 20},
    "an odd number of channels": {"block_out_channels": [9, 15], "norm_num_groups": 3, "attention_head_dim": 5},
}


def random_unet(rng: np.random.Generator, **variation: Any) -> UNet2DModel:
    """SMALL with a variation, and random weights."""
    torch.manual_seed(int(rng.integers(2**32)))
    unet = UNet2DModel(**{**SMALL, **variation}).eval()
    randomize(unet)
    return unet


def randomize(network: torch.nn.Module) -> None:
    """Norms and biases are not left at 1 and 0, where mistakes would not show."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn(parameter.shape)
            elif name.endswith("bias"):
                parameter += 0.1 * torch.randn(parameter.shape)


def config_of(network: Any) -> dict[str, Any]:
    """What the checkpoint of a network of diffusers or transformers has in its config.json."""
    config = network.config if isinstance(network.config, dict) else network.config.to_dict()
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    return {
        **own,
        **(
            {"_class_name": type(network).__name__}
            if isinstance(network.config, dict)
            else {"architectures": [type(network).__name__]}
        ),
    }


def insert_model(
    connection: psycopg.Connection,
    name: str,
    network: torch.nn.Module,
    scheduler: dict[str, Any] | None = None,
    pipeline: str = "DDPMPipeline",
    component: str = "unet",
) -> None:
    """Puts a network into the tables, as `sql-diffusion load` would: of a new model, or one more of a model."""
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) values (%s, %s, %s) on conflict (name) do nothing",
        [name, pipeline, json.dumps(scheduler or {"_class_name": "DDPMScheduler"})],
    )
    connection.execute(
        "insert into sql_diffusion.components (model, component, config) values (%s, %s, %s)",
        [name, component, json.dumps(config_of(network))],
    )
    state = network.state_dict()
    for key in dict.fromkeys(parameter.rpartition(".")[0] for parameter in state):
        bias = state.get(f"{key}.bias")
        connection.execute(
            "insert into sql_diffusion.parameters (model, component, key, weight, bias) values (%s, %s, %s, %s::real[], %s::real[])",
            [name, component, key, state[f"{key}.weight"].tolist(), None if bias is None else bias.tolist()],
        )


def relative_error(ours: Any, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest difference, as a share of the reference's largest value."""
    reference = np.asarray(theirs, dtype=np.float64)
    result = np.asarray(ours, dtype=np.float64)
    assert result.shape == reference.shape, f"shape {result.shape}, expected {reference.shape}"
    return float(np.abs(result - reference).max() / np.abs(reference).max())
