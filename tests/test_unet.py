"""The U-Net against diffusers: every setting that the extension supports, and those that it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from psycopg import Connection

from reference import SMALL, VARIATIONS, insert_model, random_unet, relative_error


@pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_unet_is_that_of_diffusers(connection: Connection, rng: np.random.Generator, variation: dict[str, Any]) -> None:
    unet = random_unet(rng, **variation)
    insert_model(connection, "random", unet)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = rng.standard_normal((unet.config.in_channels, height, width)).astype(np.float32)
    timestep = int(rng.integers(1000))

    with torch.no_grad():
        theirs = unet(torch.from_numpy(sample)[None], timestep).sample[0]
    ours = connection.execute(
        "select sql_diffusion.unet(%s::real[], %s, 'random')", [sample.tolist(), timestep]
    ).fetchone()[0]

    assert relative_error(ours, theirs) < 1e-4


def test_parameters_asked_for_are_those_of_diffusers(connection: Connection, rng: np.random.Generator) -> None:
    for variation in VARIATIONS.values():
        unet = random_unet(rng, **variation)
        state = unet.state_dict()
        theirs = {
            key: (list(state[f"{key}.weight"].shape), list(state[f"{key}.bias"].shape))
            for key in {parameter.rpartition(".")[0] for parameter in state}
        }
        config = json.dumps({key: value for key, value in unet.config.items() if not key.startswith("_")})
        rows = connection.execute(
            "select key, weight_shape, bias_shape from sql_diffusion.network_parameters(%s)", [config]
        )
        assert {key: (weight, bias) for key, weight, bias in rows} == theirs


def test_every_step_can_be_read(connection: Connection, rng: np.random.Generator) -> None:
    unet = random_unet(rng)
    insert_model(connection, "random", unet)
    sample = rng.standard_normal((3, 8, 8)).astype(np.float32)
    rows = connection.execute(
        """select s.step, s.operation, s.key, s.hidden, p.out_channels
           from sql_diffusion.unet_steps(%s::real[], 500, 'random') s
                join sql_diffusion.plan('random') p using (step, operation)
           order by s.step""",
        [sample.tolist()],
    ).fetchall()
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1))

    outputs: dict[str, torch.Tensor] = {}
    modules = dict(unet.named_modules())
    for _, operation, key, _, _ in rows:
        if operation in ("conv2d", "resnet_block", "attention_block", "downsample", "upsample"):
            modules[key].register_forward_hook(lambda module, args, output, key=key: outputs.update({key: output}))
    with torch.no_grad():
        unet(torch.from_numpy(sample)[None], 500)
    assert len(outputs) > 10
    for _, _, key, hidden, _ in rows:
        if key in outputs:
            assert relative_error(hidden, outputs[key][0]) < 1e-4, key


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "block types": ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "down_block_types"),
    "up block types": ({"up_block_types": ["SkipUpBlock2D", "UpBlock2D"]}, "up_block_types"),
    "middle block": ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
    "time embedding": ({"time_embedding_type": "learned"}, "time_embedding_type"),
    "downsampling": ({"downsample_type": "fir"}, "downsample_type"),
    "upsampling": ({"upsample_type": "fir"}, "upsample_type"),
    "activation": ({"act_fn": "leaky_relu"}, "act_fn"),
    "classes": ({"class_embed_type": "projection"}, "class_embed_type"),
    "number of classes": ({"num_class_embeds": 0}, "num_class_embeds"),
    "no channels": ({"in_channels": 0, "out_channels": 0}, "in_channels"),
    "half a channel": ({"out_channels": 2.5}, "out_channels"),
    "time scale shift": ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
    "padding": ({"downsample_padding": 2}, "downsample_padding"),
    "no size": ({"sample_size": None}, "sample_size"),
    "size that does not halve": ({"sample_size": 9}, "sample_size"),
    "groups": ({"norm_num_groups": 3}, "norm_num_groups"),
    "head wider than the channels": ({"attention_head_dim": 32}, "attention_head_dim"),
    "levels that differ": ({"block_out_channels": [8, 16, 16]}, "down_block_types"),
    "an unknown setting": ({"addition_embed_type": "text"}, "addition_embed_type"),
    "another class": ({"_class_name": "UNet1DModel"}, "component unet is a UNet1DModel, expected one of"),
    "a number that is text": ({"layers_per_block": "2"}, "layers_per_block"),
}


@pytest.mark.parametrize(("variation", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_unsupported_settings_are_refused_by_name(
    connection: Connection, variation: dict[str, Any], named: str
) -> None:
    connection.execute(
        """insert into sql_diffusion.models (name, pipeline, scheduler) values ('refused', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}')"""
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=named):
        connection.execute(
            "insert into sql_diffusion.components (model, component, config) values ('refused', 'unet', %s)",
            [json.dumps({**SMALL, **variation})],
        )


def test_another_component_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="vae"):
        connection.execute("select sql_diffusion.check_component('vae', '{}')")


UNFINISHED: dict[str, tuple[str, str]] = {
    "a missing parameter": (
        "delete from sql_diffusion.parameters where model = 'random' and key = 'mid_block.resnets.0.conv1'",
        r'model "random" is unfinished: parameter mid_block.resnets.0.conv1 is missing',
    ),
    "two missing parameters": (
        "delete from sql_diffusion.parameters where model = 'random' and key like 'conv_in' or key = 'conv_out'",
        r"parameter conv_in is missing, and 1 more",
    ),
    "a surplus parameter": (
        "insert into sql_diffusion.parameters values ('random', 'unet', 'extra', '{1}', '{1}')",
        r"parameter extra is surplus",
    ),
    "a weight of the wrong shape": (
        "update sql_diffusion.parameters set weight = '{{1,2}}' where model = 'random' and key = 'conv_in'",
        r"parameter conv_in has a weight of shape \{1,2\}, expected \{8,3,3,3\}",
    ),
    "a bias that is missing": (
        "update sql_diffusion.parameters set bias = null where model = 'random' and key = 'conv_in'",
        r"parameter conv_in has a bias of shape null, expected \{8\}",
    ),
    "a missing component": (
        "delete from sql_diffusion.components where model = 'random'",
        r'model "random" is unfinished: component unet is missing',
    ),
}


@pytest.mark.parametrize(("damage", "message"), UNFINISHED.values(), ids=UNFINISHED.keys())
def test_an_unfinished_model_is_refused(
    connection: Connection, rng: np.random.Generator, damage: str, message: str
) -> None:
    insert_model(connection, "random", random_unet(rng))
    assert connection.execute("select sql_diffusion.check_model('random')").fetchone() == (True,)
    connection.execute(damage)
    for call in (
        "select sql_diffusion.unet(array_fill(0::real, '{3,8,8}'), 1, 'random')",
        "select ddpm_generate(1, 'random', 2, backend => 'sql')",
    ):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match=message), connection.transaction():
            connection.execute(call)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("null", "unet: sample is null"),
        ("'{}'", "unet: sample is empty"),
        ("'{{1,2},{3,4}}'", r"unet: sample has shape \{2,2\}, expected 3 dimensions"),
        ("array_fill(0::real, '{1,8,8}')", "unet: sample has 1 channels, expected 3"),
        ("array_fill(0::real, '{3,7,8}')", "unet: sample is 7 high and 8 wide, expected multiples of 2"),
        ("array_fill('NaN'::real, '{3,8,8}')", "NaN"),
        ("array_fill('Infinity'::real, '{3,8,8}')", "[Ii]nfinit"),
        ("array_fill(null::real, '{3,8,8}')", "null"),
        ("array_fill(0::real, '{3,8,8}', '{0,1,1}')", "subscripts that begin at 1"),
    ],
)
def test_wrong_samples_are_refused(connection: Connection, rng: np.random.Generator, sample: str, message: str) -> None:
    insert_model(connection, "random", random_unet(rng))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
        connection.execute(f"select sql_diffusion.unet({sample}, 1, 'random')")


def test_an_unknown_model_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.UndefinedObject, match='model "nobody" does not exist'):
        connection.execute("select sql_diffusion.unet(array_fill(0::real, '{3,8,8}'), 1, 'nobody')")
