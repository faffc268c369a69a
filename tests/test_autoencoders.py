"""The autoencoders of latent models against diffusers: encoder and decoder, in SQL and in NumPy."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from psycopg import Connection

from reference import config_of, insert_model, random_unet, randomize, relative_error

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
    "kl, gelu": (AutoencoderKL, {**KL, "act_fn": "gelu"}),
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
    return connection.execute(f"select {function}({places})", arguments).fetchone()[0]  # type: ignore[index]


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


def test_a_latent_is_drawn_as_diffusers_does(numpy_connection: Connection, rng: np.random.Generator) -> None:
    """With the stream of a seed, and with logarithms of variances beyond the bounds of diffusers."""
    moments = normal(rng, 6, 2, 5)
    moments[3:] *= 20
    seed = int(rng.integers(2**31))
    theirs = DiagonalGaussianDistribution(torch.from_numpy(moments)[None]).sample(torch.Generator().manual_seed(seed))
    for schema in TOLERANCE:
        ours = numpy_connection.execute(
            f"select {schema}.vae_sample(%s::real[], sql_diffusion.randn(%s, '{{3,2,5}}'))",
            [moments.tolist(), seed],
        ).fetchone()[0]  # type: ignore[index]
        assert relative_error(ours, theirs[0]) < 1e-6


def test_a_run_takes_the_part_that_has_its_input(numpy_connection: Connection, rng: np.random.Generator) -> None:
    autoencoder = random_autoencoder(rng, AutoencoderKL, KL)
    insert_model(numpy_connection, "random", autoencoder, component="vae")
    plan = numpy_connection.execute(
        "select step, operation, key from sql_diffusion.plan('random', 'vae') order by step"
    ).fetchall()
    latent = next(step for step, operation, key in plan if (operation, key) == ("input", "latent"))
    image_shape, latent_shape = sizes(autoencoder, 2, 2)
    image, value = normal(rng, *image_shape).tolist(), normal(rng, *latent_shape).tolist()
    for inputs, expected in (
        ({"image": image}, plan[: latent - 1]),
        ({"latent": value}, plan[latent - 1 :]),
        ({"latent": value, "image": image}, plan),
    ):
        rows = ", ".join(f"row('{name}', %s::real[])" for name in inputs)
        for schema in TOLERANCE:
            steps = numpy_connection.execute(
                f"""select step, operation, key
                    from {schema}.network_steps(array[{rows}]::sql_diffusion.network_input[], 'random', 'vae')
                    order by step""",
                list(inputs.values()),
            ).fetchall()
            assert steps == expected


def test_large_images_run_in_bands(connection: Connection, rng: np.random.Generator) -> None:
    """An image of 108 x 128 has more pixels than a number has room for, up and down."""
    small = {**KL, "block_out_channels": [4, 4], "norm_num_groups": 2, "mid_block_add_attention": False}
    autoencoder = random_autoencoder(rng, AutoencoderKL, {**small, "sample_size": [108, 128]})
    insert_model(connection, "random", autoencoder, component="vae")
    image, latent = normal(rng, 3, 108, 128), normal(rng, 4, 54, 64)
    with torch.no_grad():
        decoded = autoencoder.decode(torch.from_numpy(latent)[None]).sample[0]
        encoded = autoencoder.encode(torch.from_numpy(image)[None]).latent_dist.mode()[0]
    assert relative_error(call(connection, "sql_diffusion.vae_decode", latent.tolist(), "random"), decoded) < 1e-4
    assert relative_error(call(connection, "sql_diffusion.vae_encode", image.tolist(), "random"), encoded) < 1e-4


REFUSED_SETTINGS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "kl, block types": (AutoencoderKL, {"down_block_types": ["DownBlock2D"]}, "vae: setting down_block_types"),
    "kl, activation": (AutoencoderKL, {"act_fn": "leaky_relu"}, "vae: setting act_fn"),
    "kl, means": (AutoencoderKL, {"latents_mean": [0.0] * 4}, "vae: setting latents_mean"),
    "kl, unknown": (AutoencoderKL, {"temporal": True}, "vae: setting temporal is not known"),
    "kl, levels": (
        AutoencoderKL,
        {"block_out_channels": [8, 8]},
        "vae: down_block_types has 1 elements, expected 2, one for each of block_out_channels",
    ),
    "kl, groups": (
        AutoencoderKL,
        {"norm_num_groups": 48},
        "vae: block_out_channels has 64, expected a multiple of norm_num_groups, 48",
    ),
    "tiny, activation": (AutoencoderTiny, {"act_fn": "gelu"}, "vae: setting act_fn"),
    "tiny, factor": (AutoencoderTiny, {"upsampling_scaling_factor": 4}, "vae: setting upsampling_scaling_factor"),
    "tiny, channels that differ": (
        AutoencoderTiny,
        {"decoder_block_out_channels": [64, 64, 32, 32]},
        "vae: setting decoder_block_out_channels",
    ),
    "tiny, levels": (
        AutoencoderTiny,
        {"num_encoder_blocks": [1, 3]},
        "vae: num_encoder_blocks has 2 elements, expected 4, one for each of encoder_block_out_channels",
    ),
    "vq, spatial norm": (VQModel, {"norm_type": "spatial"}, "vqvae: setting norm_type"),
    "vq, unknown": (VQModel, {"remap": "file"}, "vqvae: setting remap is not known"),
}


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS.keys())
def test_unsupported_settings_are_refused_by_name(
    connection: Connection, kind: Any, settings: dict[str, Any], message: str
) -> None:
    config = json.dumps({"_class_name": kind.__name__, **settings})
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=message):
        connection.execute("select sql_diffusion.check_component('vae', %s)", [config])


@pytest.mark.parametrize("schema", TOLERANCE)
def test_wrong_arguments_are_refused(numpy_connection: Connection, rng: np.random.Generator, schema: str) -> None:
    insert_model(numpy_connection, "kl", random_autoencoder(rng, AutoencoderKL, KL), component="vae")
    insert_model(numpy_connection, "tiny", random_autoencoder(rng, AutoencoderTiny, TINY), component="vae")
    image, value = "array_fill(0::real, '{3,4,4}')", psycopg.errors.InvalidParameterValue
    for query, error, message in (
        ("vae_decode(null, 'kl')", value, "vae_decode: latent is null"),
        ("vae_decode('{1}', 'kl')", value, r"vae_decode: latent has shape \{1\}, expected 3 dimensions"),
        (f"vae_decode({image}, 'kl')", value, "vae_decode: latent has 3 channels, expected 4"),
        (
            "vae_encode(array_fill(0::real, '{3,4,5}'), 'kl')",
            value,
            "image is 4 high and 5 wide, expected multiples of 2",
        ),
        ("vae_encode(array_fill('NaN'::real, '{3,4,4}'), 'kl')", value, "vae_encode: image holds NaN"),
        (f"vae_encode({image}, null)", value, "model is null"),
        (f"vae_encode({image}, 'moths')", psycopg.errors.UndefinedObject, 'model "moths" does not exist'),
        (
            f"vae_decode({image}, 'butterflies')",
            psycopg.errors.ObjectNotInPrerequisiteState,
            'vae_decode: model "butterflies" has no autoencoder among its components, which are unet',
        ),
        (
            f"vae_moments({image}, 'tiny')",
            psycopg.errors.FeatureNotSupported,
            'vae_moments: component vae of model "tiny" is of class AutoencoderTiny, which has no distribution of latents',
        ),
        (
            f"vae_sample({image}, {image})",
            value,
            r"vae_sample: moments has shape \{3,4,4\}, expected that of noise, \{3,4,4\}, but for twice the channels",
        ),
    ):
        with pytest.raises(error, match=message), numpy_connection.transaction():
            numpy_connection.execute(f"select {schema}.{query}")


def test_autoencoders_are_not_packed(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_autoencoder(rng, AutoencoderTiny, TINY), component="vae")
    insert_model(connection, "random", random_unet(rng, sample_size=8))
    connection.execute("select sql_diffusion.pack('random')")
    packed = connection.execute("select distinct component from sql_diffusion.packed_layers where model = 'random'")
    assert packed.fetchall() == [("unet",)]
