"""Packed kernels: the same results, and gone when what they were made of goes or changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
import torch

from reference import VARIATIONS, insert_model, random_unet

PACKED = {
    "small": {},
    "not square": VARIATIONS["not square"],
    "no downsample padding": VARIATIONS["no downsample padding"],
    "three levels": VARIATIONS["three levels"],
}


def run(connection: psycopg.Connection, sample: torch.Tensor) -> Any:
    row = connection.execute("select sql_diffusion.unet(%s::real[], 500, 'test')", [sample.tolist()]).fetchone()
    assert row is not None
    return row[0]


def count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"select count(*) from sql_diffusion.{table} where true".encode()).fetchone()
    assert row is not None
    return row[0]


def pack(connection: psycopg.Connection) -> int:
    row = connection.execute("select sql_diffusion.pack('test')").fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("case", PACKED)
def test_packed_and_plain_are_the_same(connection: psycopg.Connection, rng: np.random.Generator, case: str) -> None:
    unet = random_unet(rng, **PACKED[case])
    insert_model(connection, "test", unet)
    height, width = (
        (unet.config.sample_size, unet.config.sample_size)
        if isinstance(unet.config.sample_size, int)
        else unet.config.sample_size
    )
    sample = torch.from_numpy(rng.standard_normal((3, height, width)).astype(np.float32))
    plain = run(connection, sample)
    layers = pack(connection)
    convolutions = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Conv2d)
        or name.rpartition(".")[2] in ("to_q", "to_k", "to_v")
        or name.endswith("to_out.0")
    ]
    assert layers == len(convolutions)
    assert run(connection, sample) == plain
    # a sentinel instead of the kernels shows that it is they that are used
    connection.execute(
        "update sql_diffusion.packed_kernels set kernels = array_fill(0::numeric, array[cardinality(kernels)])"
    )
    assert run(connection, sample) != plain


def test_packed_layers_serve_every_image_of_their_width(
    connection: psycopg.Connection, rng: np.random.Generator
) -> None:
    insert_model(connection, "test", random_unet(rng))
    sample = torch.from_numpy(rng.standard_normal((3, 16, 12)).astype(np.float32))
    plain = run(connection, sample)
    pack(connection)
    assert run(connection, sample) == plain


def test_a_replaced_weight_is_unpacked(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "test", random_unet(rng))
    sample = torch.from_numpy(rng.standard_normal((3, 8, 8)).astype(np.float32))
    pack(connection)
    before = count(connection, "packed_layers")
    connection.execute(
        "update sql_diffusion.parameters set weight = (select weight from sql_diffusion.parameters where model = 'test' and key = 'mid_block.resnets.1.conv1') "
        "where model = 'test' and key = 'mid_block.resnets.0.conv1'"
    )
    assert count(connection, "packed_layers") == before - 1
    replaced = run(connection, sample)
    pack(connection)
    assert run(connection, sample) == replaced


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("delete from sql_diffusion.packed_kernels where out_channel = 2 and layer = (select max(id) from sql_diffusion.packed_layers)", -1),
        ("truncate sql_diffusion.packed_kernels", None),
    ],
)  # fmt: skip
def test_kernels_deleted_by_hand_are_not_missed(
    connection: psycopg.Connection, rng: np.random.Generator, statement: str, left: int | None
) -> None:
    insert_model(connection, "test", random_unet(rng))
    sample = torch.from_numpy(rng.standard_normal((3, 8, 8)).astype(np.float32))
    pack(connection)
    packed, layers = run(connection, sample), count(connection, "packed_layers")
    connection.execute(statement.encode())
    assert count(connection, "packed_layers") == (0 if left is None else layers + left)
    assert run(connection, sample) == packed


def test_a_removed_or_renamed_model_takes_them_along(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    before = count(connection, "packed_layers"), count(connection, "packed_kernels")
    insert_model(connection, "test", random_unet(rng))
    layers = pack(connection)
    connection.execute("update sql_diffusion.models set name = 'renamed' where name = 'test'")
    row = connection.execute("select count(*) from sql_diffusion.packed_layers where model = 'renamed'").fetchone()
    assert row == (layers,)
    connection.execute("delete from sql_diffusion.models where name = 'renamed'")
    assert (count(connection, "packed_layers"), count(connection, "packed_kernels")) == before


def test_packing_again_changes_nothing(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "test", random_unet(rng))
    assert pack(connection) == pack(connection)


def test_dumps_leave_them_out(connection: psycopg.Connection) -> None:
    row = connection.execute(
        "select count(*) from pg_extension e, unnest(e.extconfig) t where e.extname = 'sql_diffusion' and t::regclass::text like '%packed%'"
    ).fetchone()
    assert row == (0,)


def test_only_the_owner_packs(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "test", random_unet(rng))
    connection.execute("create role sql_diffusion_reader")
    connection.execute("set local role sql_diffusion_reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pack(connection)


def test_an_unknown_model_is_not_packed(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error, match="nobody") as error:
        connection.execute("select sql_diffusion.pack('nobody')")
    assert error.value.sqlstate == "42704"
