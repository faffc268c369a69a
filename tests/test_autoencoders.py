"""The autoencoders of latent models against diffusers: encoder and decoder, in SQL and in NumPy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from psycopg import Connection

from reference import config_of, insert_model, randomize, relative_error

pytest_plugins = ["numpy_server"]

# What an error may be, as a share of the largest value.
TOLERANCE = {"sql_diffusion": 1e-4, "sql_diffusion_numpy": 1e-5}

KL: dict[str, Any] = {
    "sample_size": 16,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
}

TINY: dict[str, Any] = {
    "encoder_block_out_channels": [6, 6],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}

VQ: dict[str, Any] = {**KL, "num_vq_embeddings": 40}

AUTOENCODERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "kl": (AutoencoderKL, KL),
    "kl, three levels": (
        AutoencoderKL,
        {
            **KL,
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [8, 4, 12],
            "layers_per_block": 2,
        },
    ),
    "kl, one level": (
        AutoencoderKL,
        {
            **KL,
            "down_block_types": ["DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D"],
            "block_out_channels": [8],
        },
    ),
    "kl, other channels": (AutoencoderKL, {**KL, "in_channels": 2, "out_channels": 5, "latent_channels": 3}),
    "kl, no quant_conv": (AutoencoderKL, {**KL, "use_quant_conv": False, "use_post_quant_conv": False}),
    "kl, no attention": (AutoencoderKL, {**KL, "mid_block_add_attention": False}),
    "kl, attention in blocks": (
        AutoencoderKL,
        {
            **KL,
            "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        },
    ),
    "tiny": (AutoencoderTiny, TINY),
    "tiny, three levels": (
        AutoencoderTiny,
        {
            "encoder_block_out_channels": [6, 6, 6],
            "decoder_block_out_channels": [8, 8, 8],
            "num_encoder_blocks": [1, 0, 2],
            "num_decoder_blocks": [2, 0, 1],
            "latent_channels": 3,
        },
    ),
    "tiny, one level": (
        AutoencoderTiny,
        {
            "encoder_block_out_channels": [6],
            "decoder_block_out_channels": [8],
            "num_encoder_blocks": [1],
            "num_decoder_blocks": [1],
            "in_channels": 1,
            "out_channels": 2,
        },
    ),
    "vq": (VQModel, VQ),
    "vq, vectors of another size": (VQModel, {**VQ, "latent_channels": 4, "vq_embed_dim": 2}),
    "vq, no attention": (VQModel, {**VQ, "mid_block_add_attention": False}),
}


def random_autoencoder(rng: np.random.Generator, kind: Any, settings: dict[str, Any]) -> Any:
    torch.manual_seed(int(rng.integers(2**32)))
    autoencoder = kind(**settings).eval()
    randomize(autoencoder)
    if kind is VQModel:  # vectors that lie apart as latents do, so that there is no doubt which is the nearest
        torch.nn.init.normal_(autoencoder.quantize.embedding.weight)
    return autoencoder


def call(connection: Connection, function: str, *arguments: Any) -> Any:
    places = ", ".join("%s::real[]" if isinstance(argument, list) else "%s" for argument in arguments)
    return connection.execute(f"select {function}({places})", arguments).fetchone()[0]  # type: ignore[index,arg-type]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def sizes(autoencoder: Any, height: int = 4, width: int = 6) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """The shapes of an image, and of its latent of this height and width."""
    config = autoencoder.config
    levels = len(config.get("block_out_channels") or config["encoder_block_out_channels"])
    factor = 2 ** (levels - 1)
    channels = config.get("vq_embed_dim") or config["latent_channels"]
    return (config["in_channels"], height * factor, width * factor), (channels, height, width)


@pytest.mark.parametrize("schema", TOLERANCE)
@pytest.mark.parametrize(("kind", "settings"), AUTOENCODERS.values(), ids=AUTOENCODERS.keys())
def test_autoencoder_is_that_of_diffusers(
    numpy_connection: Connection, rng: np.random.Generator, kind: Any, settings: dict[str, Any], schema: str
) -> None:
    autoencoder = random_autoencoder(rng, kind, settings)
    insert_model(numpy_connection, "random", autoencoder, component="vae")
    image_shape, latent_shape = sizes(autoencoder)
    image, latent = normal(rng, *image_shape), normal(rng, *latent_shape)
    with torch.no_grad():
        decoded = autoencoder.decode(torch.from_numpy(latent)[None]).sample[0]
        encoded = autoencoder.encode(torch.from_numpy(image)[None])
    assert (
        relative_error(call(numpy_connection, f"{schema}.vae_decode", latent.tolist(), "random"), decoded)
        < TOLERANCE[schema]
    )
    mode = encoded.latent_dist.mode()[0] if kind is AutoencoderKL else encoded.latents[0]
    assert (
        relative_error(call(numpy_connection, f"{schema}.vae_encode", image.tolist(), "random"), mode)
        < TOLERANCE[schema]
    )
    if kind is AutoencoderKL:
        moments = call(numpy_connection, f"{schema}.vae_moments", image.tolist(), "random")
        assert relative_error(moments, encoded.latent_dist.parameters[0]) < TOLERANCE[schema]


@pytest.mark.parametrize(("kind", "settings"), AUTOENCODERS.values(), ids=AUTOENCODERS.keys())
def test_parameters_asked_for_are_those_of_diffusers(
    connection: Connection, rng: np.random.Generator, kind: Any, settings: dict[str, Any]
) -> None:
    autoencoder = random_autoencoder(rng, kind, settings)
    state = autoencoder.state_dict()
    theirs = {}
    for key in {parameter.rpartition(".")[0] for parameter in state}:
        bias = state.get(f"{key}.bias")
        theirs[key] = (list(state[f"{key}.weight"].shape), None if bias is None else list(bias.shape))
    rows = connection.execute(
        "select key, weight_shape, bias_shape from sql_diffusion.network_parameters(%s)",
        [json.dumps(config_of(autoencoder))],
    )
    assert {key: (weight, bias) for key, weight, bias in rows} == theirs
