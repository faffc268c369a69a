"""Parallel workers inside a pass: layers large enough for them are right, and the same with workers and without."""

from __future__ import annotations

import psycopg
import pytest
import torch
from torch.nn import functional

from reference import relative_error

# Layers of the bundled model, packed, at the size where its network has them: pixels, output channels and heads are shared out.
LAYERS = {
    "convolution": (
        "(select sql_diffusion.from_maps(output) from sql_diffusion.conv2d_module("
        "sql_diffusion.to_maps(sql_diffusion.randn(1, '{48,64,64}'), 64, 64), "
        "'butterflies', 'unet', 'up_blocks.3.resnets.0.conv1', 1, 1, 'test') output)"
    ),
    "resnet block": (
        "sql_diffusion.resnet_block(sql_diffusion.randn(1, '{48,64,64}'), sql_diffusion.randn(2, '{64}'), 'butterflies', "
        "'up_blocks.3.resnets.0', 8)"
    ),
    "attention block": (
        "sql_diffusion.attention_block(sql_diffusion.randn(1, '{64,16,16}'), 'butterflies', 'down_blocks.2.attentions.0', 2, 8)"
    ),
    # What is not packed: two workers or more, and a leader that only reads.
    "convolution of an argument": "sql_diffusion.conv2d(sql_diffusion.randn(1, '{32,32,32}'), sql_diffusion.randn(2, '{50,32,3,3}'), sql_diffusion.randn(3, '{50}'), 1, 1)",
    "tokens of an argument": "sql_diffusion.linear(sql_diffusion.randn(1, '{100,32}'), sql_diffusion.randn(2, '{300,32}'))",
    "weight of sixteen bits": (
        "(select array_send(sql_diffusion.weight_from_bytes(decode(string_agg(md5(i::text), ''), 'hex'), 'bfloat16', '{300,800}')) from generate_series(1, 30000) i)"
    ),
}


def fetch(connection: psycopg.Connection, expression: str) -> list[object]:
    row = connection.execute(f"select {expression}".encode()).fetchone()
    assert row is not None
    return list(row[0])


def test_a_large_convolution(connection: psycopg.Connection) -> None:
    input, weight, bias = (
        torch.tensor(fetch(connection, expression), dtype=torch.float64)
        for expression in (
            "sql_diffusion.randn(1, '{48,64,64}')",
            "weight from sql_diffusion.parameters where (model, key) = ('butterflies', 'up_blocks.3.resnets.0.conv1')",
            "bias from sql_diffusion.parameters where (model, key) = ('butterflies', 'up_blocks.3.resnets.0.conv1')",
        )
    )
    reference = functional.conv2d(input[None], weight, bias, padding=1)[0]
    assert relative_error(fetch(connection, LAYERS["convolution"]), reference) < 1e-5


@pytest.mark.parametrize("layer", LAYERS)
def test_workers_change_nothing(connection: psycopg.Connection, layer: str) -> None:
    connection.execute("set local max_parallel_workers_per_gather = 0")
    alone = fetch(connection, LAYERS[layer])
    connection.execute("set local max_parallel_workers_per_gather = 2")
    assert fetch(connection, LAYERS[layer]) == alone


def test_the_planner_gives_shares_to_workers(connection: psycopg.Connection) -> None:
    connection.execute("set local max_parallel_workers_per_gather = 2")
    for function in (
        "attention_heads_packed(null, null, null, 8, 8, s.share, s.share, false, 'test')",
        "conv2d_channels_share(null, s.share, s.share, 1, 1, 1, 1, null, null, 'test')",
        "conv2d_packed_share(null, s.share, s.share)",
        "conv2d_out_channels_share(null, s.share, s.share, null, 1, null, null, 1, null, 1, 1, null, null, 1)",
        "attention_heads(null, null, null, 8, 8, s.share, s.share, false, 'test')",
        "numbers_from_bytes(decode(to_char(s.share, 'FM0000'), 'hex'), 'float16')",
    ):
        query = f"explain (costs off) select sql_diffusion.{function} from sql_diffusion.shares s"
        plan = "\n".join(row[0] for row in connection.execute(query.encode()))
        assert "Gather" in plan, plan


def test_attention_that_is_not_packed(connection: psycopg.Connection) -> None:
    """Three heads of 10 and 7 features, by workers and by this process."""
    planes = "select sql_diffusion.randn(1, '{30,9}') as q, sql_diffusion.randn(2, '{30,40}') as k, sql_diffusion.randn(3, '{21,40}') as v"
    connection.execute("set local max_parallel_workers_per_gather = 2")
    row = connection.execute(
        f"select sql_diffusion.attention_heads(q, k, v, 10, 7, 1, 3, false, 'test'), (select sql_diffusion.array_cat_agg(h.planes order by h.share) "
        f"from sql_diffusion.attention_heads_of_planes(q, k, v, 3, false, 'test') h) from ({planes} offset 0) planes"
    ).fetchone()
    assert row is not None
    assert row[0] == row[1]
    assert len(row[0]) == 21


def test_a_leader_that_only_reads_has_two_workers(connection: psycopg.Connection) -> None:
    for workers in range(3):
        connection.execute(f"set local max_parallel_workers_per_gather = {workers}".encode())
        row = connection.execute(
            "select sql_diffusion.worth_two_workers(1e9), sql_diffusion.worth_two_workers(1e6)"
        ).fetchone()
        assert row == (workers > 1, False)


def test_workers_take_what_lies_in_temporary_tables(connection: psycopg.Connection) -> None:
    """A worker cannot read a temporary table, where large arguments may still lie."""
    connection.execute("set local max_parallel_workers_per_gather = 2")
    connection.execute(
        "create temp table given as select sql_diffusion.randn(1, '{600,1,1}') as x, sql_diffusion.randn(2, '{700,600,1,1}') as weight, "
        "sql_diffusion.randn(3, '{700}') as bias, (select decode(string_agg(md5(i::text), ''), 'hex') from generate_series(1, 20000) i) as bytes"
    )
    row = connection.execute(
        "select array_length(sql_diffusion.conv2d(x, weight, bias), 1), array_length(sql_diffusion.weight_from_bytes(bytes, 'float16', '{400,400}'), 1) from given"
    ).fetchone()
    assert row == (700, 400)


def test_every_share_lies_on_a_page_of_its_own(connection: psycopg.Connection) -> None:
    """Workers share a table out page by page."""
    row = connection.execute(
        "select count(*), count(distinct (ctid::text::point)[0]) from sql_diffusion.shares"
    ).fetchone()
    assert row == (64, 64)


@pytest.mark.parametrize("n", [1, 2, 16, 48, 63, 64, 65, 512])
def test_every_thing_belongs_to_one_share(connection: psycopg.Connection, n: int) -> None:
    rows = connection.execute(
        "select thing from (select * from sql_diffusion.shares_of(%s) order by share) s, generate_series(s.first, s.last) thing order by s.share, thing",
        [n],
    ).fetchall()
    assert [row[0] for row in rows] == list(range(1, n + 1))
