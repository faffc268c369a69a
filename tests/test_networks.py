"""Every network against diffusers and transformers, over a matrix of settings, in both backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import UNet2DConditionModel
from psycopg import Connection
from psycopg.types.json import Jsonb
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from reference import config_of, insert_model, random_unet, randomize, relative_error

pytest_plugins = ["numpy_server"]

BACKENDS = {"sql_diffusion": 1e-4, "sql_diffusion_numpy": 1e-5}  # schema -> largest error, of the largest value

CONDITION: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 12,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
TOKENS = 11
# A variation, and what the network takes beside sample, timestep and text: argument -> shape.
CONDITIONS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "small": ({}, {}),
    "not square": ({"sample_size": [6, 10]}, {}),
    "odd sizes": ({"sample_size": [5, 7]}, {}),
    "odd and even sizes, three levels": (
        {
            "sample_size": [9, 14],
            "block_out_channels": [8, 8, 16],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        },
        {},
    ),
    # two values of a group of one pixel may be nearly equal, and their norm then makes much of what was rounded
    "one pixel": ({"sample_size": 1, "norm_num_groups": 2}, {}),
    "two layers": ({"layers_per_block": 2}, {}),
    "heads by level": ({"attention_head_dim": [1, 4], "down_block_types": ["CrossAttnDownBlock2D"] * 2}, {}),
    "linear projection": ({"use_linear_projection": True}, {}),
    "two transformer layers": ({"transformer_layers_per_block": 2}, {}),
    "transformer layers by level": (
        {"transformer_layers_per_block": [1, 2], "up_block_types": ["CrossAttnUpBlock2D"] * 2},
        {},
    ),
    "only cross attention": ({"only_cross_attention": True}, {}),
    "only cross attention by level": (
        {
            "only_cross_attention": [True, False],
            "down_block_types": ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        },
        {},
    ),
    "attention in single precision": ({"upcast_attention": True}, {}),
    "no middle": ({"mid_block_type": None}, {}),
    "inpainting": ({"in_channels": 9}, {}),
    "middle scaled": ({"mid_block_scale_factor": 1.4}, {}),
    "scale and shift": ({"resnet_time_scale_shift": "scale_shift"}, {}),
    "no downsample padding": ({"downsample_padding": 0}, {}),
    "input centred": ({"center_input_sample": True}, {}),
    "gelu": ({"act_fn": "gelu"}, {}),
    "mish, class by its wave": ({"act_fn": "mish", "class_embed_type": "timestep"}, {"class_labels": ()}),
    "relu, class projected": (
        {"act_fn": "relu", "class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
        {"class_labels": (6,)},
    ),
    "sin before cos": ({"flip_sin_to_cos": False, "freq_shift": 1}, {}),
    "a time embedding of its own width": ({"time_embedding_dim": 20}, {}),
    "consistency": ({"time_cond_proj_dim": 14}, {"timestep_cond": (14,)}),
    "upscaling": ({"in_channels": 7, "num_class_embeds": 5}, {"class_labels": ()}),
    "class by its wave": ({"class_embed_type": "timestep"}, {"class_labels": ()}),
    "class as it is": ({"class_embed_type": "identity"}, {"class_labels": (32,)}),
    "class projected": (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 6},
        {"class_labels": (6,)},
    ),
    "text and sizes": (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 9 + 24,
        },
        {"text_embeds": (9,), "time_ids": (6,)},
    ),
}


@pytest.fixture
def server(numpy_connection: Connection) -> Connection:
    return numpy_connection


def run(server: Connection, schema: str, **arguments: Any) -> np.ndarray:
    """unet of the model random, with these arguments by name."""
    named = ", ".join(f"{name} => %s" + ("" if name == "timestep" else "::real[]") for name in arguments)
    values = [value if isinstance(value, int) else value.tolist() for value in arguments.values()]
    row = server.execute(f"select {schema}.unet({named}, model => 'random')", values).fetchone()
    assert row is not None
    return np.array(row[0])


@pytest.mark.parametrize(("variation", "extra"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_condition_unet_is_that_of_diffusers(
    server: Connection,
    rng: np.random.Generator,
    variation: dict[str, Any],
    extra: dict[str, tuple[int, ...]],
) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    unet = randomize(UNet2DConditionModel(**{**CONDITION, **variation}))
    insert_model(server, "random", unet)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = torch.randn(unet.config.in_channels, height, width)
    timestep = int(rng.integers(1000))
    text = torch.randn(TOKENS, CONDITION["cross_attention_dim"])
    given = {name: torch.randn(shape) if shape else torch.tensor(3) for name, shape in extra.items()}
    if "time_ids" in given:
        given["time_ids"] = torch.tensor([64.0, 48.0, 0.0, 8.0, 64.0, 64.0])

    theirs_given = {name: value[None] for name, value in given.items() if name not in ("text_embeds", "time_ids")}
    added = {name: value[None] for name, value in given.items() if name in ("text_embeds", "time_ids")}
    with torch.no_grad():
        theirs = unet(sample[None], timestep, text[None], added_cond_kwargs=added or None, **theirs_given).sample[0]
    ours = {name: value.reshape(-1) for name, value in given.items()}
    for schema, tolerance in BACKENDS.items():
        result = run(server, schema, sample=sample, timestep=timestep, encoder_hidden_states=text, **ours)
        assert relative_error(result, theirs) < tolerance, schema


def parameters_of(network: Any) -> dict[str, tuple[list[int], list[int] | None]]:
    state = network.state_dict()
    prefix = "text_model." if "CLIPText" in type(network).__name__ else ""
    return {
        key if not prefix or key.startswith("text_") else prefix + key: (
            list(state[f"{key}.weight"].shape),
            list(state[f"{key}.bias"].shape) if f"{key}.bias" in state else None,
        )
        for key in {parameter.rpartition(".")[0] for parameter in state if state[parameter].is_floating_point()}
    }


def parameters_asked_for(connection: Connection, network: Any) -> dict[str, tuple[list[int], list[int] | None]]:
    rows = connection.execute(
        "select key, weight_shape, bias_shape from sql_diffusion.network_parameters(%s)", [Jsonb(config_of(network))]
    )
    return {key: (weight, bias) for key, weight, bias in rows}


def test_parameters_asked_for_are_those_of_diffusers(connection: Connection) -> None:
    for variation, _ in CONDITIONS.values():
        unet = UNet2DConditionModel(**{**CONDITION, **variation})
        assert parameters_asked_for(connection, unet) == parameters_of(unet)


REAL: dict[str, dict[str, Any]] = {  # those of Stable Diffusion 1.4, 2.1 and XL, as their config.json have them
    "1.4": {
        "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "sample_size": 64,
    },
    "2.1": {
        "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 64, "use_linear_projection": True,
        "dual_cross_attention": False, "only_cross_attention": False, "num_class_embeds": None, "upcast_attention": False,
    },
    "XL": {
        "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "sample_size": 128,
    },
}  # fmt: skip


@pytest.mark.parametrize("config", REAL.values(), ids=REAL.keys())
def test_the_real_configurations_are_known(connection: Connection, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    assert connection.execute(
        "select sql_diffusion.check_component('unet', %s)", [Jsonb(config_of(unet))]
    ).fetchone() == (True,)
    assert parameters_asked_for(connection, unet) == parameters_of(unet)


REFUSED: dict[str, dict[str, Any]] = {
    "down_block_types": {"down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]},
    "mid_block_type": {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    "act_fn": {"act_fn": "leaky_relu"},
    "encoder_hid_dim": {"encoder_hid_dim": 8},
    "attention_type": {"attention_type": "gated"},
    "num_attention_heads": {"num_attention_heads": 2},
    "attention_head_dim": {"attention_head_dim": 3},
    "cross_attention_dim": {"cross_attention_dim": [12, 16]},
    "addition_embed_type": {"addition_embed_type": "image"},
    "addition_time_embed_dim": {"addition_embed_type": "text_time"},
    "projection_class_embeddings_input_dim": {"class_embed_type": "projection"},
    "conv_in_kernel": {"conv_in_kernel": 1},
    "a_later_setting": {"a_later_setting": 1},
}


@pytest.mark.parametrize(("named", "variation"), REFUSED.items(), ids=REFUSED.keys())
def test_unsupported_settings_are_refused_by_name(
    connection: Connection, named: str, variation: dict[str, Any]
) -> None:
    config = {"_class_name": "UNet2DConditionModel", **CONDITION, **variation}
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=named):
        connection.execute("select sql_diffusion.check_component('unet', %s)", [Jsonb(config)])


def test_an_unknown_setting_that_is_null_is_not_used(connection: Connection) -> None:
    config = {"_class_name": "UNet2DConditionModel", **CONDITION, "a_later_setting": None}
    connection.execute("select sql_diffusion.check_component('unet', %s)", [Jsonb(config)])


# UNet2DModel with what only some public checkpoints have, and the class label that it takes.
PIXELS: dict[str, tuple[dict[str, Any], tuple[int, ...] | None]] = {
    "classes": ({"num_class_embeds": 5}, ()),
    "class by its wave": ({"class_embed_type": "timestep"}, ()),
    "class as it is": ({"class_embed_type": "identity"}, (32,)),
    "five channels": ({"in_channels": 5, "out_channels": 5}, None),
    "learned variance": ({"out_channels": 6}, None),
    "six channels to three": ({"in_channels": 6}, None),
    "no middle": ({"mid_block_type": None}, None),
    "fourier": ({"time_embedding_type": "fourier"}, None),
    "fourier and class": ({"time_embedding_type": "fourier", "class_embed_type": "timestep"}, ()),
    "resnets that resample": ({"downsample_type": "resnet", "upsample_type": "resnet"}, None),
    "blocks of resnets that resample": (
        {
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        },
        None,
    ),
    "resnets that resample, scale and shift": (
        {
            "block_out_channels": [8, 16, 16],
            "down_block_types": ["ResnetDownsampleBlock2D"] * 3,
            "up_block_types": ["ResnetUpsampleBlock2D"] * 3,
            "resnet_time_scale_shift": "scale_shift",
        },
        None,
    ),
}


@pytest.mark.parametrize(("variation", "label"), PIXELS.values(), ids=PIXELS.keys())
def test_pixel_unet_is_that_of_diffusers(
    server: Connection, rng: np.random.Generator, variation: dict[str, Any], label: tuple[int, ...] | None
) -> None:
    unet = random_unet(rng, **variation)
    insert_model(server, "random", unet)
    sample = torch.randn(unet.config.in_channels, 8, 8)
    fourier = unet.config.time_embedding_type == "fourier"
    timestep = 1 + int(rng.integers(40 if fourier else 999))
    given = {}
    if label is not None:
        given["class_labels"] = torch.randn(label) if label else torch.tensor(3)
    with torch.no_grad():
        theirs = unet(
            sample[None],
            torch.tensor(float(timestep)) if fourier else timestep,
            **{name: value[None] for name, value in given.items()},
        ).sample[0]
    assert parameters_asked_for(server, unet) == parameters_of(unet)
    for schema, tolerance in BACKENDS.items():
        ours = {name: value.reshape(-1) for name, value in given.items()}
        result = run(server, schema, sample=sample, timestep=timestep, **ours)
        assert relative_error(result, theirs) < tolerance, schema


TEXT_SETTINGS: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "projection_dim": 12, "num_hidden_layers": 3,
    "num_attention_heads": 2, "max_position_embeddings": 20, "bos_token_id": 48, "eos_token_id": 49, "pad_token_id": 49,
}  # fmt: skip
TEXT: dict[str, dict[str, Any]] = {
    "small": {},
    "gelu": {"hidden_act": "gelu"},
    "a wider eps": {"layer_norm_eps": 1e-3},
    "the greatest id ends the text": {"eos_token_id": 2},
    "one head": {"num_attention_heads": 1},
}


@pytest.mark.parametrize("projected", [False, True], ids=["model", "with projection"])
@pytest.mark.parametrize("variation", TEXT.values(), ids=TEXT.keys())
def test_text_encoder_is_that_of_transformers(
    server: Connection, rng: np.random.Generator, variation: dict[str, Any], projected: bool
) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    config = CLIPTextConfig(**{**TEXT_SETTINGS, **variation})
    encoder = randomize((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))
    insert_model(server, "random", None, text_encoder=encoder)
    assert parameters_asked_for(server, encoder) == parameters_of(encoder)
    ids = torch.cat([torch.tensor([48]), torch.randint(0, 48, (9,)), torch.full((5,), 49)])
    with torch.no_grad():
        theirs = encoder(ids[None], output_hidden_states=True)
    expected = {f"hidden_states.{number}": hidden[0] for number, hidden in enumerate(theirs.hidden_states)}
    expected["last_hidden_state"] = theirs.last_hidden_state[0]
    if projected:
        expected["text_embeds"] = theirs.text_embeds[0]
    else:
        expected["pooler_output"] = theirs.pooler_output[0]
    for schema, tolerance in BACKENDS.items():
        rows = server.execute(
            f"""select s.key, s.hidden
                from {schema}.network_steps(array[row('input_ids', %s::real[])]::sql_diffusion.network_input[], 'random', 'text_encoder') s
                where s.operation = 'output'""",
            [ids.tolist()],
        ).fetchall()
        ours: dict[str, Any] = dict(rows)
        assert set(expected) <= set(ours)
        for name, value in expected.items():
            assert relative_error(ours[name], value) < tolerance, f"{schema}: {name}"
        row = server.execute(f"select {schema}.text_encoder(%s, 'random')", [ids.tolist()]).fetchone()
        assert row is not None
        assert relative_error(row[0], expected["last_hidden_state"]) < tolerance


WRONG: dict[str, tuple[str, str]] = {
    "no text": ("unet(array_fill(0::real, '{4,8,8}'), 1, 'text')", "unet: encoder_hidden_states is null"),
    "text of another width": (
        "unet(array_fill(0::real, '{4,8,8}'), 1, 'text', array_fill(0::real, '{3,5}'))",
        "unet: encoder_hidden_states has 5 features, expected 12",
    ),
    "text for a network without": (
        "unet(array_fill(0::real, '{3,8,8}'), 1, 'pixels', array_fill(0::real, '{3,5}'))",
        "unet: encoder_hidden_states is not an input of this network, expected sample, timestep",
    ),
    "a class that there is not": (
        "unet(array_fill(0::real, '{3,8,8}'), 1, 'classes', class_labels => '{5}')",
        "unet: class_labels has a value that is not a whole number from 0 to 4",
    ),
    "an unknown input": (
        "network_steps(array[row('samples', '{1}')]::sql_diffusion.network_input[], 'pixels')",
        "unet: samples is not an input of this network, expected sample, timestep",
    ),
    "an input without a name": (
        "network_steps(array[row(null, '{1}')]::sql_diffusion.network_input[], 'pixels')",
        "network_steps: an input has no name",
    ),
    "no row among the inputs": (
        "network_steps(array[null::sql_diffusion.network_input], 'pixels')",
        "network_steps: an input has no name",
    ),
    "an input twice": (
        "network_steps(array[row('timestep', '{1}'), row('timestep', '{2}')]::sql_diffusion.network_input[], 'pixels')",
        "network_steps: timestep is given 2 times, expected once",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_inputs_are_refused_in_the_same_words(
    server: Connection, rng: np.random.Generator, call: str, message: str
) -> None:
    insert_model(server, "text", UNet2DConditionModel(**CONDITION))
    insert_model(server, "pixels", random_unet(rng))
    insert_model(server, "classes", random_unet(rng, num_class_embeds=5))
    for schema in BACKENDS:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error, server.transaction():
            server.execute(f"select {schema}.{call}").fetchall()
        assert error.value.diag.message_primary == message, schema


def test_an_operation_that_nothing_implements_is_an_error(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_unet(rng))
    unknown = """select sql_diffusion.pass(array_agg((p.step, case p.key when 'conv_out' then 'conv3d' else p.operation end, p.key, p.inputs,
                                                      p.in_channels, p.out_channels, p.level, p.settings)::sql_diffusion.plan_step order by p.step)) as pass
                 from sql_diffusion.plan('random') p"""
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="has the operation conv3d, which nothing implements"):
        connection.execute(
            f"""select count(*) from ({unknown}) steps,
                     sql_diffusion.run_pass(steps.pass, '{{sample,timestep}}',
                                            array[sql_diffusion.to_maps(array_fill(0::real, '{{3,8,8}}')), sql_diffusion.vector_to_maps('{{1}}')], 'random', 'unet')"""
        )


def test_checking_a_model_reads_no_weights(connection: Connection, rng: np.random.Generator) -> None:
    """Of the largest parameter's pages none is read."""
    insert_model(connection, "random", random_unet(rng, block_out_channels=[64, 128], norm_num_groups=8))
    [plan] = connection.execute(
        "explain (analyze, buffers, format json) select sql_diffusion.check_model('random')"
    ).fetchone() or [[]]
    connection.execute("select sql_diffusion.check_model('random')")
    [plan] = connection.execute(
        "explain (analyze, buffers, format json) select sql_diffusion.check_model('random')"
    ).fetchone() or [[]]
    [(pages,)] = connection.execute(
        "select pg_relation_size(c.reltoastrelid) / 8192 from pg_class c where c.oid = 'sql_diffusion.stored_parameters'::regclass"
    ).fetchall()
    read = plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
    assert read < pages / 2
