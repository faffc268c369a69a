"""The NumPy functions in the server: results beside those of SQL and of diffusers, errors, cache, sessions."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import math
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from psycopg import Connection

import helper_command
from numpy_server import STRESS, Connect
from reference import VARIATIONS, insert_model, random_unet, relative_error
from sql_diffusion_numpy import cache

pytest_plugins = ["numpy_server"]


@pytest.fixture
def server(numpy_connection: Connection) -> Connection:
    return numpy_connection


def value(connection: Connection, query: str, *arguments: Any) -> Any:
    row = connection.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


# ----------------------------------------------------------------------------------------------------------------------
# Layers: the same call in both schemas
# ----------------------------------------------------------------------------------------------------------------------


def array(rng: np.random.Generator, *shape: int) -> list[Any]:
    return rng.standard_normal(shape).astype(np.float32).tolist()


# name -> arguments as SQL, arrays as shapes
CALLS: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "silu": ("{}.silu(%s::real[])", [(3, 4, 5)]),
    "add": ("{}.add(%s::real[], %s::real[])", [(3, 4), (3, 4)]),
    "add_channels": ("{}.add_channels(%s::real[], %s::real[])", [(3, 4, 5), (3,)]),
    "concatenate": ("{}.concatenate(%s::real[], %s::real[])", [(3, 4, 5), (2, 4, 5)]),
    "pad": ("{}.pad(%s::real[], 1, 2, 3, 0, 0.5)", [(3, 4, 5)]),
    "interpolate_nearest": ("{}.interpolate_nearest(%s::real[], 3)", [(3, 4, 5)]),
    "linear": ("{}.linear(%s::real[], %s::real[], %s::real[])", [(2, 3, 4), (5, 4), (5,)]),
    "linear without bias": ("{}.linear(%s::real[], %s::real[])", [(4,), (5, 4)]),
    "conv2d": ("{}.conv2d(%s::real[], %s::real[], %s::real[], 2, 1)", [(3, 7, 6), (4, 3, 3, 3), (4,)]),
    "conv2d without bias": ("{}.conv2d(%s::real[], %s::real[])", [(3, 7, 6), (4, 3, 2, 3)]),
    "group_norm": ("{}.group_norm(%s::real[], 2, %s::real[], %s::real[], 1e-3)", [(6, 4, 5), (6,), (6,)]),
    "group_norm without weight": ("{}.group_norm(%s::real[], 3)", [(6, 4)]),
    "attention": (
        "{}.scaled_dot_product_attention(%s::real[], %s::real[], %s::real[])",
        [(2, 4, 8), (2, 5, 8), (2, 5, 3)],
    ),
    "timestep_embedding": ("{}.timestep_embedding(987, 33, true, 0)", []),
    "reshape": ("{}.reshape(%s::real[], '{{4,3}}')", [(2, 6)]),
    "tensor_from_bytes": ("{}.tensor_from_bytes('\\x00c03fc0', 'bfloat16', '{{2}}')", []),
    "randn": ("{}.randn(123, '{{3,8}}')", []),
    "randn of few": ("{}.randn(-5, '{{7}}')", []),
    "randn of a generator": ("(sql_diffusion.randn(({}.randn({}.manual_seed(7), '{{5}}')).next, '{{20}}')).sample", []),
    "denormalize": ("{}.denormalize(%s::real[])", [(3, 4, 5)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_layers_are_their_twins(server: Connection, rng: np.random.Generator, name: str) -> None:
    call, shapes = CALLS[name]
    arguments = [array(rng, *shape) for shape in shapes]
    theirs, ours = (
        value(server, "select " + call.format(*[schema] * call.count("{}")), *arguments)
        for schema in ("sql_diffusion", "sql_diffusion_numpy")
    )
    assert relative_error(ours, np.array(theirs)) < 2e-5  # SQL's own tolerance is 1e-4


REFUSED = [
    "silu(null)",
    "silu('{}')",
    "silu('{1,NULL}')",
    "silu('{1,Infinity}')",
    "silu('{{1,NaN}}')",
    "add('{1,2}', '{1}')",
    "add_channels('{1,2}', '{1}')",
    "add_channels('{1,2}', '{{1,2}}')",
    "concatenate('{{{1}}}', '{{{1,2}}}')",
    "concatenate('{1}', '{{{1}}}')",
    "pad('{{{1}}}', 1, -1, 0, 0)",
    "pad('{{{1}}}', 1, 1, 0, 0, 'NaN')",
    "interpolate_nearest('{{{1}}}', 0)",
    "linear(null, '{{1}}')",
    "linear('{1,2}', '{{1}}')",
    "linear('{1}', '{{1}}', '{1,2}')",
    "linear('{1}', '{1}')",
    "conv2d(null, '{{{{1}}}}')",
    "conv2d('{{{1}}}', null)",
    "conv2d('{{1}}', '{{{{1}}}}')",
    "conv2d('{{{1}}}', '{{{{1}}}}', stride => 0)",
    "conv2d('{{{1}}}', '{{{{1}}}}', padding => null)",
    "conv2d('{{{1}}}', '{{{{1}},{{1}}}}')",
    "conv2d('{{{1}}}', '{{{{1}}}}', '{1,2}')",
    "conv2d('{{{1}}}', '{{{{1,1}}}}')",
    "conv2d('{{{NaN}}}', '{{{{1}}}}')",
    "group_norm('{1,2}', 3)",
    "group_norm('{1,2}', null)",
    "group_norm('{1,2}', 1, '{1}')",
    "group_norm('{1,2}', 1, '{1,1}', '{1}')",
    "group_norm('{1,2}', 1, eps => -1)",
    "group_norm('{1,2}', 1, eps => 'NaN')",
    "scaled_dot_product_attention('{1}', '{1}', '{1}')",
    "scaled_dot_product_attention('{{1,2}}', '{{1}}', '{{1}}')",
    "scaled_dot_product_attention('{{1}}', '{{1}}', '{{1},{2}}')",
    "timestep_embedding('NaN', 8)",
    "timestep_embedding(1, 1)",
    "timestep_embedding(1, 8, false, 4)",
    "timestep_embedding(1, 8, false, 1, 0)",
    "reshape('{1,2}', '{3}')",
    "reshape('{1,2}', '{}')",
    "reshape('{1,2}', '{0}')",
    "tensor_from_bytes('\\x00', 'float64', '{1}')",
    "tensor_from_bytes('\\x00', 'float16', '{1}')",
    "tensor_from_bytes('\\x00', 'bfloat16', '{0}')",
    "tensor_from_bytes('\\x807f', 'bfloat16', '{1}')",
    "tensor_from_bytes('\\x00fc', 'float16', '{1}')",
    "tensor_from_bytes('\\x0000803f0100c07f', 'float32', '{2}')",
    "randn(1, '{0}')",
    "randn(1, '{100000,100000}')",
    "randn(row('{1}', 1, null)::sql_diffusion.generator, '{1}')",
    "unet(null, 1, 'random')",
    "unet('{{1}}', 1, 'random')",
    "unet(array_fill(0::real, '{2,8,8}'), 1, 'random')",
    "unet(array_fill(0::real, '{3,7,8}'), 1, 'random')",
    "unet(array_fill(0::real, '{3,8,8}'), null, 'random')",
    "unet(array_fill(0::real, '{3,8,8}'), 'Infinity', 'random')",
    "unet(array_fill('NaN'::real, '{3,8,8}'), 1, 'random')",
    "unet(array_fill(0::real, '{3,8,8}'), 1, 'nobody')",
    "unet(array_fill(0::real, '{3,8,8}'), 1, null)",
    "resnet_block(null, null, 'random', 'mid_block.resnets.0', 4)",
    "resnet_block('{{{1}}}', null, 'random', 'mid_block.resnets.0', 4)",
    "resnet_block(array_fill(0::real, '{16,2,2}'), null, 'random', 'mid_block.resnets.0', 5)",
    "resnet_block(array_fill(0::real, '{16,2,2}'), '{1}', 'random', 'mid_block.resnets.0', 4)",
    "resnet_block(array_fill(0::real, '{16,2,2}'), null, 'random', 'mid_block.resnets.0', 4, time_scale_shift => 'x')",
    "resnet_block(array_fill(0::real, '{16,2,2}'), null, 'random', 'mid_block.resnets.0', 4, output_scale_factor => 0)",
    "resnet_block(array_fill(0::real, '{16,2,2}'), array_fill(0::real, '{32}'), 'random', 'mid_block.resnets.0', 4, time_scale_shift => 'scale_shift')",
    "resnet_block(array_fill(0::real, '{16,2,2}'), null, 'random', 'nothing', 4)",
    "resnet_block(array_fill(0::real, '{16,2,2}'), null, 'nobody', 'mid_block.resnets.0', 4)",
    "attention_block(array_fill(0::real, '{16,2,2}'), 'random', 'mid_block.attentions.0', 3, 4)",
    "attention_block(array_fill(0::real, '{8,2,2}'), 'random', 'mid_block.attentions.0', 2, 4)",
    "downsample(array_fill(0::real, '{8,2,2}'), 'random', 'down_blocks.0.downsamplers.0', 2)",
    "downsample(array_fill(0::real, '{8,1,4}'), 'random', 'down_blocks.0.downsamplers.0', 0)",
    "downsample(array_fill(0::real, '{9,2,2}'), 'random', 'down_blocks.0.downsamplers.0')",
    "upsample(array_fill(0::real, '{9,2,2}'), 'random', 'up_blocks.0.upsamplers.0')",
    "add_noise('{1}', '{1,2}', 5, 'random')",
    "add_noise('{1}', '{1}', 1000, 'random')",
    "predict_original_sample('{1}', '{1,2}', 5, 'random')",
    "ddpm_generate(null::bigint, 'random')",
    "ddpm_generate(1, 'nobody')",
    "ddpm_generate(1, null)",
    "ddpm_generate('{1,NULL}'::bigint[], 'random', 2)",
    "ddpm_generate(1, 'random', 5, '{5}')",
    "ddpm_generate(1, 'random', 1001)",
    "ddpm_steps(1, 'random', 5, eta => 2)",
]  # fmt: skip


@pytest.mark.parametrize(
    "shape", [(1000,), (20, 50), (5, 40, 5), (250, 2, 2, 1), (3, 130, 200), (30000, 2), (2, 40000)], ids=str
)
def test_numbers_are_handed_over_to_the_bit(
    server: Connection, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    """However many are made into texts together: rows of several dimensions, one row or a part of one."""
    count = math.prod(shape)
    bits = np.concatenate([[0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF], rng.integers(0, 0x7F800000, count - 5)])
    numbers = (bits + (rng.integers(0, 2, count) << 31)).astype("<u4")
    row = server.execute(
        "select array_send(x), array_dims(x) from sql_diffusion_numpy.tensor_from_bytes(%s, 'float32', %s) x",
        [numbers.tobytes(), list(shape)],
    ).fetchone()
    assert row is not None
    elements = np.frombuffer(row[0], [("length", ">i4"), ("bits", ">u4")], -1, 12 + 8 * len(shape))
    assert np.array_equal(elements["bits"], numbers)
    assert row[1] == "".join(f"[1:{size}]" for size in shape)


@pytest.mark.parametrize(
    "call",
    [
        "ddpm_generate(1, 'random', 2, backend => '{}')",
        "ddpm_generate(array[1, 2], 'random', 2, backend => '{}')",
        "ddpm_steps(1, 'random', 2, backend => '{}')",
        "sql_diffusion_{}.unet_steps(sql_diffusion.randn(1, '{{3,8,8}}'), 1, 'random')",
    ],
)
def test_what_is_out_of_range_is_refused(server: Connection, rng: np.random.Generator, call: str) -> None:
    """As PostgreSQL's arithmetic does, in rows as in single results."""
    insert_model(server, "random", random_unet(rng))
    server.execute(
        "update sql_diffusion.parameters set weight = sql_diffusion.with_shape(array_fill(3e38::real, array[sql_diffusion.numel(weight_shape)::int]), weight_shape) where key = 'conv_out' and model = 'random'"
    )
    for backend in ("sql", "numpy"):
        query = f"select * from {call.format(backend)}".replace("_sql.", ".")
        with pytest.raises(psycopg.errors.NumericValueOutOfRange), server.transaction():
            server.execute(query.encode())


def test_no_memory_while_numbers_are_handed_over(connect: Connect) -> None:
    """It is told as anywhere, wherever in the array it happens, and the session goes on."""
    session = connect()
    call = "select cardinality(sql_diffusion_numpy.relu(array_fill(1::real, %s)))"
    assert value(session, call, [3, 200, 200]) == 120000
    for rows_written in (0, 1, 5):
        session.execute(
            f"""
do language plpython3u $$
import itertools, sys
tensors = sys.modules["sql_diffusion_numpy.tensors"]
GD.setdefault("written", tensors.written)
calls = itertools.count()
def written(array):
    if next(calls) >= {rows_written}:
        raise MemoryError
    return GD["written"](array)
tensors.written = written
$$""".encode()
        )
        for shape in ([3, 200, 200], [300, 200], [1, 120000], [2, 2, 30000]):
            with pytest.raises(psycopg.errors.OutOfMemory) as caught:
                value(session, call, shape)
                value(session, call, shape)
            assert "out of memory" in f"{caught.value} {caught.value.diag.message_detail}"
    assert value(session, "select cardinality(sql_diffusion_numpy.relu(array_fill(1::real, array[3, 2])))") == 6


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_refused_is_refused_in_the_same_words(server: Connection, rng: np.random.Generator, call: str) -> None:
    if "random" in call:
        insert_model(server, "random", random_unet(rng))
    said: list[tuple[Any, Any, Any]] = []
    for schema in ("sql_diffusion", "sql_diffusion_numpy"):
        try:
            with server.transaction():
                said.append((None, value(server, f"select {schema}.{call}"), None))
        except psycopg.Error as error:
            message = error.diag.message_primary
            assert message is not None
            # a message that does not begin with the name of a function comes out of PL/Python with the extension's
            said.append((error.diag.sqlstate, message.removeprefix("sql_diffusion: "), error.diag.message_hint))
    assert said[0] == said[1]
    assert said[0][0] is not None or call == "silu(null)"


# ----------------------------------------------------------------------------------------------------------------------
# Blocks, networks, schedulers, pictures
# ----------------------------------------------------------------------------------------------------------------------

BLOCKS: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "resnet_block": (
        "resnet_block(%s::real[], %s::real[], 'random', 'mid_block.resnets.0', 4)",
        [(16, 6, 4), (32,)],
    ),
    "resnet_block with a shortcut, without time": (
        "resnet_block(%s::real[], null, 'random', 'down_blocks.1.resnets.0', 4, 1e-4, 'default', 1.5)",
        [(8, 6, 4)],
    ),
    "attention_block": ("attention_block(%s::real[], 'random', 'mid_block.attentions.0', 2, 4)", [(16, 3, 5)]),
    "attention_block without a norm": (
        "attention_block(%s::real[], 'random', 'mid_block.attentions.0', 4, null, 1e-5, 2)",
        [(16, 3, 5)],
    ),
    "downsample": ("downsample(%s::real[], 'random', 'down_blocks.0.downsamplers.0')", [(8, 6, 7)]),
    "downsample without padding": ("downsample(%s::real[], 'random', 'down_blocks.0.downsamplers.0', 0)", [(8, 6, 8)]),
    "upsample": ("upsample(%s::real[], 'random', 'up_blocks.0.upsamplers.0')", [(16, 3, 4)]),
    "time_embedding": ("time_embedding(345, 'random', 'time_embedding', 8, true, 0)", []),
    "add_noise": ("add_noise(%s::real[], %s::real[], 700, 'random')", [(3, 4), (3, 4)]),
    "predict_original_sample": ("predict_original_sample(%s::real[], %s::real[], 700, 'random')", [(3, 4), (3, 4)]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_their_twins(server: Connection, rng: np.random.Generator, name: str) -> None:
    insert_model(server, "random", random_unet(rng))
    call, shapes = BLOCKS[name]
    arguments = [array(rng, *shape) for shape in shapes]
    theirs, ours = (
        value(server, f"select {schema}.{call}", *arguments) for schema in ("sql_diffusion", "sql_diffusion_numpy")
    )
    assert relative_error(ours, np.array(theirs)) < 1e-4


@pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_unet_is_that_of_diffusers(server: Connection, rng: np.random.Generator, variation: dict[str, Any]) -> None:
    unet = random_unet(rng, **variation)
    insert_model(server, "random", unet)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    sample = rng.standard_normal((unet.config.in_channels, height, width)).astype(np.float32)
    timestep = int(rng.integers(1000))
    with torch.no_grad():
        theirs = unet(torch.from_numpy(sample)[None], timestep).sample[0]
    arguments = (sample.tolist(), timestep)
    assert (
        relative_error(value(server, "select sql_diffusion_numpy.unet(%s::real[], %s, 'random')", *arguments), theirs)
        < 1e-5
    )
    rows = server.execute(
        "select * from sql_diffusion_numpy.unet_steps(%s::real[], %s, 'random')", arguments
    ).fetchall()
    reference = server.execute("select * from sql_diffusion.unet_steps(%s::real[], %s, 'random')", arguments).fetchall()
    assert [row[:3] for row in rows] == [row[:3] for row in reference]
    for ours, sql in zip(rows, reference, strict=True):
        assert relative_error(ours[3], np.array(sql[3])) < 1e-4, ours[:3]


# As wide as real ones, so that each algorithm of a convolution takes part.
WIDE: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [64, 128, 256],
    "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def test_a_wide_unet_is_that_of_diffusers(server: Connection, rng: np.random.Generator) -> None:
    from sql_diffusion_numpy.layers.winograd import choose_algorithm

    assert {choose_algorithm(*s).name for s in ((64, 64, 32, 32), (256, 256, 8, 8), (16, 16, 8, 8))} >= {
        "winograd4",
        "direct",
    }
    unet = random_unet(rng, **WIDE)
    insert_wide(server, "wide", unet)
    for height, width in ((32, 32), (24, 40)):
        sample = rng.standard_normal((3, height, width)).astype(np.float32)
        with torch.no_grad():
            theirs = unet(torch.from_numpy(sample)[None], 500).sample[0]
        ours = value(server, "select sql_diffusion_numpy.unet(%s::real[], 500, 'wide')", sample.tolist())
        assert relative_error(ours, theirs) < 1e-4


def insert_wide(connection: Connection, name: str, unet: Any) -> None:
    """insert_model for many parameters, as bytes."""
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) values (%s, 'DDPMPipeline', %s)",
        [name, json.dumps({"_class_name": "DDPMScheduler"})],
    )
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    connection.execute("insert into sql_diffusion.components values (%s, 'unet', %s)", [name, json.dumps(config)])
    state = {key: tensor.numpy() for key, tensor in unet.state_dict().items()}
    for key in dict.fromkeys(parameter.rpartition(".")[0] for parameter in state):
        weight, bias = state[f"{key}.weight"], state[f"{key}.bias"]
        connection.execute(
            """insert into sql_diffusion.parameters
               select %s, 'unet', %s, sql_diffusion_numpy.tensor_from_bytes(%s, 'float32', %s),
                      sql_diffusion_numpy.tensor_from_bytes(%s, 'float32', %s)""",
            [name, key, weight.tobytes(), list(weight.shape), bias.tobytes(), list(bias.shape)],
        )


# gnokit/ddpm-butterflies-64, 63 million parameters
BUTTERFLIES: dict[str, Any] = {
    "sample_size": 64,
    "layers_per_block": 2,
    "block_out_channels": [64, 128, 256, 512],
    "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"],
}


def test_pictures_of_the_real_shape_are_those_of_diffusers(
    connect: Connect, numpy_database: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    pipeline = DDPMPipeline(random_unet(rng, **BUTTERFLIES), DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    helper_command.succeed(numpy_database, "load", tmp_path, "--name", "real")
    seeds = [int(seed) for seed in rng.integers(2**40, size=2)]
    rows = connect().execute("select seed, image from ddpm_generate(%s::bigint[], 'real', 3)", [seeds]).fetchall()
    assert [row[0] for row in rows] == seeds
    for seed, image in rows:
        generator = torch.Generator().manual_seed(seed)
        theirs = pipeline(generator=generator, num_inference_steps=3, output_type="np").images[0]
        assert theirs.std() > 0.1
        assert np.abs(np.array(image).transpose(1, 2, 0) - theirs).max() < 1 / 255


@pytest.mark.parametrize(
    "arguments",
    [
        "4",
        "3, scheduler => 'ddim', eta => 0.5",
        "timesteps => '{500,250,125,60}'",
        "3, scheduler => 'sde-dpmsolver++'",
        "2, scheduler => 'heun'",
    ],
)
def test_pictures_are_those_of_sql(server: Connection, rng: np.random.Generator, arguments: str) -> None:
    insert_model(server, "random", random_unet(rng))
    seeds = [int(seed) for seed in rng.integers(-(2**62), 2**62, 3)]
    together = server.execute(
        f"select seed, image from ddpm_generate(%s::bigint[], 'random', {arguments}, backend => 'numpy')", [seeds]
    ).fetchall()
    assert [row[0] for row in together] == seeds
    for seed, image in together:
        alone = value(server, f"select ddpm_generate(%s::bigint, 'random', {arguments})", seed)
        sql = value(server, f"select ddpm_generate(%s::bigint, 'random', {arguments}, backend => 'sql')", seed)
        # The fresh noise of a stochastic solver makes more of what rounding leaves between a batch and one.
        assert np.abs(np.array(image) - np.array(alone)).max() < (1e-3 if "sde" in arguments else 1e-5)
        assert np.abs(np.array(alone) - np.array(sql)).max() < 1 / 255
        steps = server.execute(
            f"select step, timestep, sample from ddpm_steps(%s::bigint, 'random', {arguments})", [seed]
        )
        rows = steps.fetchall()
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))
        assert np.abs(np.clip(np.array(rows[-1][2]) / 2 + 0.5, 0, 1) - np.array(alone)).max() < 1e-6


def test_more_pictures_than_fit_a_batch(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng, sample_size=[128, 64]))
    seeds = list(range(11))  # 8 at a time
    rows = session.execute("select seed, image from ddpm_generate(%s::bigint[], 'random', 1)", [seeds]).fetchall()
    assert [row[0] for row in rows] == seeds
    alone = value(session, "select ddpm_generate(10, 'random', 1)")
    assert np.abs(np.array(rows[10][1]) - np.array(alone)).max() < 1e-5
    assert rows[0][1] != rows[10][1]


def test_no_seeds_no_rows(server: Connection) -> None:
    for seeds in ("'{}'", "null"):
        assert server.execute(f"select sql_diffusion_numpy.ddpm_generate({seeds}::bigint[], 'x')").fetchall() == []


# ----------------------------------------------------------------------------------------------------------------------
# Changes of a model, and the cache
# ----------------------------------------------------------------------------------------------------------------------

PICTURE = "select sql_diffusion_numpy.ddpm_generate(1, 'random', 2)"

CHANGES = {
    "one weight": "update sql_diffusion.parameters set weight = sql_diffusion.silu(weight) where model = 'random' and key = 'conv_in'",
    "one bias": "update sql_diffusion.parameters set bias = sql_diffusion.silu(bias) where model = 'random' and key = 'conv_out'",
    "a setting": "update sql_diffusion.components set config = config || '{\"flip_sin_to_cos\": false}' where model = 'random'",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_noticed_by_every_session(connect: Connect, rng: np.random.Generator, change: str) -> None:
    one, other = connect(), connect()
    insert_model(one, "random", random_unet(rng))
    before = value(one, PICTURE)
    assert value(other, PICTURE) == before
    one.execute("begin")
    one.execute(change)
    after = value(one, PICTURE)
    assert after != before
    assert value(other, PICTURE) == before  # not committed yet
    one.execute("rollback")
    assert value(one, PICTURE) == before
    one.execute(change)
    assert value(other, PICTURE) == after
    assert value(connect(), PICTURE) == after
    assert after != before


def test_a_row_that_takes_an_older_ones_place_is_noticed(connect: Connect, rng: np.random.Generator) -> None:
    """VACUUM FULL moves rows and leaves them their transaction: here each to where the first state's lay."""
    one = connect()
    table = "sql_diffusion.stored_parameters"
    one.execute(f"vacuum full {table}".encode())
    version = "select string_agg(key || version, ' ' order by key) from sql_diffusion.parameters where model = 'random'"
    one.execute("begin")
    insert_model(one, "random", random_unet(rng))
    before, place = value(one, PICTURE), value(one, version)
    last = value(one, f"select key from {table} where model = 'random' order by ctid desc limit 1")
    one.execute(f"update {table} set weight = sql_diffusion.silu(weight) where model = 'random' and key = %s", [last])
    one.execute("commit")
    one.execute(f"vacuum full {table}".encode())
    assert value(one, version) == place
    after = value(one, PICTURE)
    assert after != before
    assert np.allclose(after, value(one, PICTURE.replace("_numpy", "")), atol=1e-4)


def test_a_dropped_model_is_gone_and_another_may_take_its_name(connect: Connect, rng: np.random.Generator) -> None:
    one, other = connect(), connect()
    insert_model(one, "random", random_unet(rng))
    before = value(other, PICTURE)
    one.execute("delete from sql_diffusion.models where name = 'random'")
    with pytest.raises(psycopg.errors.UndefinedObject, match='model "random" does not exist'):
        value(other, PICTURE)
    insert_model(one, "random", random_unet(rng))
    assert value(other, PICTURE) != before


def data_directory(connection: Connection) -> Path:
    """As this process sees it: the server may be that of another system, in a folder (scripts/private-cluster)."""
    return Path(os.environ.get("PRIVATE_CLUSTER_ROOT", "") + value(connection, "show data_directory"))


def cache_files(connection: Connection) -> list[Path]:
    folder = data_directory(connection) / "pg_stat_tmp" / "sql_diffusion"
    return sorted(folder.iterdir()) if folder.exists() else []


def own_files(connection: Connection) -> list[Path]:
    """The files of the model "random" in this database; other tests may leave those of others."""
    database = value(connection, "select oid::bigint from pg_database where datname = current_database()")
    prefix = cache.model_prefix(database, "random")
    return [path for path in cache_files(connection) if path.name.startswith(prefix)]


def test_sessions_map_one_file(connect: Connect, rng: np.random.Generator) -> None:
    one, other = connect(), connect()
    insert_model(one, "random", random_unet(rng))
    value(one, PICTURE)
    [path] = own_files(one)
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert status.st_uid == path.parent.stat().st_uid == data_directory(one).stat().st_uid
    value(other, PICTURE)
    assert path.stat().st_ino == status.st_ino
    for session in (one, other):
        pid = session.info.backend_pid
        assert str(path) in Path(f"/proc/{pid}/maps").read_text()
    assert {row[0]: row[1] for row in one.execute("select * from sql_diffusion_numpy.doctor()")}["cache"] == "ok"


def test_files_of_what_is_gone_are_removed(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    value(session, PICTURE)
    [first] = own_files(session)
    session.execute(CHANGES["one weight"])
    value(session, PICTURE)
    [second] = own_files(session)
    assert second != first
    session.execute("delete from sql_diffusion.models where name = 'random'")
    insert_model(session, "other", random_unet(rng))
    value(session, PICTURE.replace("random", "other"))
    assert second not in own_files(session)


def test_what_a_terminated_session_left_unfinished_is_removed(connect: Connect, rng: np.random.Generator) -> None:
    other = connect()
    insert_model(other, "other", random_unet(rng))

    def drafts() -> list[Path]:
        return [path for path in cache_files(other) if path.suffix == ".draft"]

    def terminate(pid: int, over: threading.Event) -> None:
        while not (drafts() or over.is_set()):
            time.sleep(0.01)
        value(other, f"select pg_terminate_backend({pid}, 60000)")

    for attempt in range(20):  # until one is struck before it has laid out all
        session, over = connect(), threading.Event()
        pid, name = session.info.backend_pid, f"random {attempt}"
        insert_model(session, name, random_unet(rng, block_out_channels=[64, 128], norm_num_groups=32))
        terminating = threading.Thread(target=terminate, args=(pid, over))
        terminating.start()
        with contextlib.suppress(psycopg.OperationalError):
            value(session, PICTURE.replace("random", name))
        over.set()
        terminating.join()
        if any(f".{pid}." in path.name for path in drafts()):
            break
    else:
        pytest.fail("no session was terminated in time")
    value(other, PICTURE.replace("random", "other"))
    assert drafts() == []


SPOILED = {
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "another's header": lambda path: path.write_bytes(b"x" * path.stat().st_size),
    "open to the group": lambda path: path.chmod(0o660),
    "a link": lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved")),
    "two names": lambda path: os.link(path, path.with_name("second")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "open folder": lambda path: path.parent.chmod(0o755),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_spoiled_file_is_not_used(connect: Connect, rng: np.random.Generator, spoil: Any) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    picture = value(session, PICTURE)
    session.close()
    session = connect()
    [path] = own_files(session)
    try:
        spoil(path)
        assert value(session, PICTURE) == picture
    finally:
        path.parent.chmod(0o700)
        for name in ("moved", "second"):
            path.with_name(name).unlink(missing_ok=True)
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            path.rmdir()
    assert value(connect(), PICTURE) == picture


def test_damage_inside_is_found_by_doctor(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    value(session, PICTURE)
    [path] = own_files(session)
    with path.open("r+b") as file:
        file.seek(5000)  # behind the first page are the arrays
        file.write(b"\x7f" * 8)
    rows = {row[0]: row[1:] for row in session.execute("select * from sql_diffusion_numpy.doctor()")}
    assert rows["cache"][0] == "error"
    assert path.name in rows["cache"][1]
    path.unlink()


def test_the_first_users_may_be_many(connect: Connect, rng: np.random.Generator) -> None:
    insert_model(connect(), "random", random_unet(rng))
    sessions = [connect() for _ in range(6)]
    start = threading.Barrier(len(sessions))

    def first(session: Connection) -> Any:
        start.wait()
        return value(session, PICTURE)

    with concurrent.futures.ThreadPoolExecutor(len(sessions)) as pool:
        pictures = list(pool.map(first, sessions))
    assert all(picture == pictures[0] for picture in pictures)
    assert len(own_files(sessions[0])) == 1


def test_the_cache_folder_is_a_superusers_to_choose(connect: Connect, rng: np.random.Generator, tmp_path: Path) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    session.execute("select set_config('sql_diffusion.cache_dir', %s, false)", [str(tmp_path)])
    value(session, PICTURE)
    assert list(tmp_path.iterdir()) == []  # anybody may SET it: it counts for nothing
    assert len(own_files(session)) == 1
    configuration = data_directory(session) / "postgresql.auto.conf"
    before = configuration.read_text()
    try:
        configuration.write_text(before + "SQL_Diffusion.Cache_Dir = ''\n")  # in any case, as all settings
        other = connect()
        for path in own_files(session):
            path.unlink()
        value(other, PICTURE)
        assert own_files(session) == []
        rows = {row[0]: row[1:] for row in other.execute("select * from sql_diffusion_numpy.doctor()")}
        assert rows["cache"][0] == "warning"
    finally:
        configuration.write_text(before)


# ----------------------------------------------------------------------------------------------------------------------
# Sessions: roles, settings, progress, cancelling
# ----------------------------------------------------------------------------------------------------------------------


def test_an_ordinary_role_can_generate_and_no_more(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    role = f"ordinary_{os.getpid()}"
    session.execute(f"create role {role}")
    try:
        session.execute(f"set role {role}")
        value(session, PICTURE)
        assert session.execute("select * from sql_diffusion_numpy.doctor()").fetchall()
        for forbidden in (
            "create function f() returns int language plpython3u as 'return 1'",
            "create or replace function sql_diffusion_numpy.start() returns void language sql as ''",
            "create function sql_diffusion_numpy.f() returns int language sql as 'select 1'",
            "delete from sql_diffusion.parameters",
            "select setting from pg_file_settings",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(forbidden)
        session.execute("reset role")
        session.execute("revoke select on sql_diffusion.parameters from public")
        session.execute(f"set role {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # though this session has the network at hand
            value(session, PICTURE)
    finally:
        session.execute("reset role")
        session.execute("grant select on sql_diffusion.parameters to public")
        session.execute(f"drop role {role}")


def test_threads_are_a_setting(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    pictures = []
    for count in (1, 2, 5):
        session.execute(f"set sql_diffusion.threads = {count}")
        pictures.append(np.array(value(session, PICTURE)))
    assert max(np.abs(picture - pictures[0]).max() for picture in pictures) < 1 / 255
    for wrong in ("0", "65", "many", "-1", "\u00b2"):
        session.execute(f"set sql_diffusion.threads = '{wrong}'")
        with pytest.raises(
            psycopg.errors.InvalidParameterValue, match=r"threads is '.*', expected an integer from 1 to 64"
        ):
            value(session, PICTURE)


def test_progress_is_told_and_can_be_turned_off(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_wide(session, "wide", random_unet(rng, **WIDE))
    told: list[str] = []
    session.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    session.execute("set statement_timeout = '7s'")
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        session.execute("select sql_diffusion_numpy.ddpm_generate(1, 'wide', 1000)")
    assert 1 <= len(told) <= 2  # after 2 seconds, then after another 4
    assert all(message.startswith("step ") and message.endswith(" of 1000") for message in told)
    told.clear()
    session.execute("set sql_diffusion.progress = off; set statement_timeout = '3s'")
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        session.execute("select sql_diffusion_numpy.ddpm_generate(1, 'wide', 1000)")
    assert told == []


def test_a_cancel_acts_and_the_server_lives(connect: Connect, rng: np.random.Generator) -> None:
    """Cancelled, timed out or terminated, in turn, beside sessions that generate."""
    other = connect()
    insert_wide(other, "wide", random_unet(rng, **WIDE))
    short = "select sql_diffusion_numpy.ddpm_generate(1, 'wide', 1)"
    long = "select count(*) from sql_diffusion_numpy.ddpm_generate(array_fill(1::bigint, '{640}'), 'wide', 50)"
    picture = value(other, short)
    beside, stop = [connect() for _ in range(4 if STRESS else 1)], threading.Event()

    def generate(session: Connection) -> None:
        while not stop.is_set():
            assert value(session, short) == picture

    with concurrent.futures.ThreadPoolExecutor(len(beside) + 1) as pool:
        generating = [pool.submit(generate, session) for session in beside]
        try:
            session = connect()
            for number in range(100 if STRESS else 6):
                assert value(session, short) == picture
                pid = session.info.backend_pid
                if number % 3 == 0:
                    session.execute("set statement_timeout = '200ms'")
                session.execute("set sql_diffusion.progress = off")  # a NOTICE is a chance to cancel too
                running = pool.submit(session.execute, long)
                time.sleep(0.05 + 0.3 * rng.random())
                if number % 3 == 1:
                    session.cancel()
                if number % 3 == 2:
                    assert value(other, "select pg_terminate_backend(%s, 20000)", pid)
                error = running.exception(60)  # which is far from the end
                if number % 3 == 2:
                    assert isinstance(error, psycopg.OperationalError)
                    session = connect()
                else:
                    assert isinstance(error, psycopg.errors.QueryCanceled)
                    session.execute("set statement_timeout = 0")
                    assert session.info.backend_pid == pid
        finally:
            stop.set()
        for future in generating:  # a crash of the server would have ended these
            future.result(60)


# ----------------------------------------------------------------------------------------------------------------------
# Many sessions, memory
# ----------------------------------------------------------------------------------------------------------------------


def test_sessions_beside_loads_and_drops(connect: Connect, rng: np.random.Generator) -> None:
    """Right pictures or a clear error, always."""
    base = connect()
    insert_model(base, "random", random_unet(rng))
    picture = value(base, PICTURE)
    unets = [random_unet(rng) for _ in range(2)]
    # A statement sees one state of the tables: a parameter tells which network its picture must be of.
    both = """select p.bias[1], sql_diffusion_numpy.ddpm_generate(1, m.name, 2)
              from (select %s as name) m
              left join sql_diffusion.parameters p on p.model = m.name and p.key = 'conv_in'"""
    drop = "delete from sql_diffusion.models where name = 'coming and going'"
    expected = {}
    for number, unet in enumerate(unets):
        insert_model(base, f"network {number}", unet)
        [(bias, other_picture)] = base.execute(both, [f"network {number}"]).fetchall()
        expected[bias] = other_picture
    assert len(expected) == 2
    stop = threading.Event()
    sessions = [connect() for _ in range(8)]
    counts = [0, 0]

    def generate(session: Connection) -> None:
        while not stop.is_set():
            assert value(session, PICTURE) == picture
            try:
                [(bias, other_picture)] = session.execute(both, ["coming and going"]).fetchall()
                assert other_picture == expected[bias]
                counts[0] += 1
            except psycopg.errors.UndefinedObject as error:
                assert 'model "coming and going" does not exist' in str(error)
                counts[1] += 1

    with concurrent.futures.ThreadPoolExecutor(len(sessions)) as pool:
        running = [pool.submit(generate, session) for session in sessions]
        end = time.monotonic() + (120 if STRESS else 6)
        number = 0
        while time.monotonic() < end or min(counts) < 3:
            with base.transaction():
                base.execute(drop)
                insert_model(base, "coming and going", unets[number % 2])
            time.sleep(0.2)
            if number % 3 == 0:
                base.execute(drop)
                time.sleep(0.1)
            number += 1
        stop.set()
        for future in running:
            future.result(60)


def test_a_parallel_query_makes_the_right_pictures(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(session, "random", random_unet(rng))
    session.execute("create table seeds as select i::bigint as seed from generate_series(1, 12) i")
    session.execute("analyze seeds")
    session.execute("alter table seeds set (parallel_workers = 2)")
    try:
        for function in ("sql_diffusion_numpy.ddpm_generate", "ddpm_generate"):
            query = f"select seed, {function}(seed, 'random', 2) from seeds order by seed"
            alone = session.execute(query).fetchall()
            other = connect()
            other.execute(
                "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0"
            )
            assert "Parallel" in str(other.execute("explain select seed from seeds").fetchall())
            assert other.execute(query).fetchall() == alone
    finally:
        session.execute("drop table seeds")


def resident(connection: Connection) -> int:
    """kB of memory of a session's process."""
    for line in Path(f"/proc/{connection.info.backend_pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_memory_is_flat_in_a_session_and_over_sessions(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    insert_model(
        session,
        "random",
        random_unet(rng, sample_size=64, down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2),
    )
    generations = 300 if STRESS else 60
    for _ in range(20):
        value(session, PICTURE)
    before = resident(session)
    for number in range(generations):
        value(session, f"select sql_diffusion_numpy.ddpm_generate({number}, 'random', 2)")
    assert resident(session) - before < 1500  # kB; a picture has 48
    sizes = []
    for _ in range(30 if STRESS else 5):
        other = connect()
        value(other, PICTURE)
        sizes.append(resident(other))
        other.close()
    assert max(sizes) - min(sizes) < 4000


def test_models_that_a_session_keeps_are_few(connect: Connect, rng: np.random.Generator) -> None:
    session = connect()
    unet = random_unet(rng)
    for number in range(12):
        insert_model(session, f"model {number}", unet)
        value(session, "select sql_diffusion_numpy.ddpm_generate(1, %s, 1)", f"model {number}")
    maps = Path(f"/proc/{session.info.backend_pid}/maps").read_text()
    assert 1 <= maps.count("pg_stat_tmp/sql_diffusion") <= 8


# ----------------------------------------------------------------------------------------------------------------------
# Without NumPy
# ----------------------------------------------------------------------------------------------------------------------


def test_without_numpy_the_first_call_tells_what_to_install(connect: Connect) -> None:
    session = connect()
    session.execute(
        """create function hide_numpy() returns void language plpython3u as
           $$import sys; sys.modules["numpy"] = None$$"""
    )
    session.execute("select hide_numpy()")
    for _ in range(2):
        with pytest.raises(psycopg.Error) as caught:
            session.execute("select sql_diffusion_numpy.silu('{1}')")
        assert caught.value.sqlstate == "58P01"
        assert "NumPy" in str(caught.value)
        assert "apt-get install python3-numpy" in str(caught.value.diag.message_hint)
    session.execute("drop function hide_numpy")


def test_doctor(server: Connection) -> None:
    rows = {row[0]: row[1:] for row in server.execute("select * from sql_diffusion_numpy.doctor()")}
    assert list(rows) == ["interpreter", "numpy", "blas", "threads", "torch", "cache", "version"]
    assert all(status in ("ok", "warning") for status, _ in rows.values())
    assert "GFLOP/s" in rows["blas"][1]
    version = value(server, "select extversion from pg_extension where extname = 'sql_diffusion_numpy'")
    assert rows["version"] == ("ok", version)


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_the_first_step_comes_while_the_rest_is_still_to_be_made(
    server: Connection, rng: np.random.Generator, backend: str
) -> None:
    insert_model(server, "random", random_unet(rng))
    server.execute("set cursor_tuple_fraction to 1")  # as psql's FETCH_COUNT has it at worst
    call = f"select step from ddpm_steps(1, 'random', 20, backend => '{backend}')"
    server.execute(call).fetchall()  # the model is read
    with server.cursor("steps") as cursor:
        began = time.monotonic()
        cursor.execute(call)
        assert cursor.fetchmany(1) == [(1,)]
        first = time.monotonic() - began
        assert len(cursor.fetchall()) == 19
        whole = time.monotonic() - began
    assert first < whole / 4
