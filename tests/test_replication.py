"""Models on other servers: a streaming standby, and a subscriber."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import Connection

from clusters import new_cluster
from reference import insert_model, random_unet

DEADLINE = 60  # seconds


def connect(socket: str) -> Connection[Any]:
    return psycopg.connect(host=socket, user="postgres", dbname="postgres", autocommit=True)


def picture(connection: Connection[Any], backend: str, model: str = "mine") -> Any:
    row = connection.execute("select ddpm_generate(7, %s, 2, backend => %s)", [model, backend]).fetchone()
    assert row is not None
    return np.array(row[0])


def checksum(connection: Connection[Any]) -> Any:
    """Of all parameters of loaded models."""
    return connection.execute(
        "select md5(string_agg(key || array_send(weight)::text, '' order by key)) "
        "from sql_diffusion.parameters where model = 'mine'"
    ).fetchone()


def replace_a_weight(connection: Connection[Any]) -> None:
    connection.execute(
        "update sql_diffusion.parameters set weight = (select array_agg(array(select array(select array(select -d from unnest(weight[a:a][b:b][c:c]) d) "
        "from generate_subscripts(weight, 3) c) from generate_subscripts(weight, 2) b)) from generate_subscripts(weight, 1) a) "
        "where model = 'mine' and key = 'conv_in'"
    )


def wait_for(condition: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the change has not arrived"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    with new_cluster("-c wal_level=logical") as socket:
        with connect(socket) as own:
            own.execute("create extension sql_diffusion_numpy cascade")
            insert_model(own, "mine", random_unet(np.random.default_rng()))
            own.execute("select sql_diffusion.pack('mine')")
        yield socket


def test_a_standby_generates(primary: str) -> None:
    with new_cluster(standby_of=primary) as standby, connect(primary) as there, connect(standby) as here:
        assert here.execute("select pg_is_in_recovery()").fetchone() == (True,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            here.execute("delete from sql_diffusion.models")
        for backend in ("sql", "numpy"):
            assert np.array_equal(picture(here, backend), picture(there, backend))
        before = picture(here, "sql")
        replace_a_weight(there)
        wait_for(lambda: checksum(here) == checksum(there))
        for backend in ("sql", "numpy"):
            assert np.array_equal(picture(here, backend), picture(there, backend))
        assert not np.array_equal(picture(here, "sql"), before)


def test_a_subscriber_follows(primary: str) -> None:
    """Also with kernels that it packed itself: no foreign key acts on what a subscription writes."""
    with new_cluster("-c wal_level=logical") as subscriber, connect(primary) as there, connect(subscriber) as here:
        here.execute("create extension sql_diffusion_numpy cascade")
        tables = ["models where (name not in ('butterflies', 'prompted-butterflies'))"] + [
            f"{table} where (model not in ('butterflies', 'prompted-butterflies'))"
            for table in ("components", "stored_parameters")
        ]
        there.execute(
            f"create publication models for table {', '.join(f'sql_diffusion.{table}' for table in tables)}".encode()
        )
        here.execute(
            f"create subscription models connection 'host={primary} user=postgres dbname=postgres' publication models".encode()
        )
        try:
            wait_for(lambda: checksum(here) == checksum(there))
            for backend in ("sql", "numpy"):
                assert np.array_equal(picture(here, backend), picture(there, backend))
            here.execute("select sql_diffusion.pack('mine')")
            before = picture(here, "sql")
            replace_a_weight(there)
            wait_for(lambda: checksum(here) == checksum(there))
            for backend in ("sql", "numpy"):
                assert np.abs(picture(here, backend) - picture(there, backend)).max() < 1e-4
            assert not np.array_equal(picture(here, "sql"), before)

            there.execute("delete from sql_diffusion.models where name = 'mine'")
            gone = "select count(*) from sql_diffusion.{} where model = 'mine'"
            for table in ("parameters", "components", "packed_layers"):
                wait_for(lambda table=table: here.execute(gone.format(table).encode()).fetchone() == (0,))
            orphans = "select count(*) from sql_diffusion.packed_kernels k where not exists (select from sql_diffusion.packed_layers l where l.id = k.layer)"
            assert here.execute(orphans).fetchone() == (0,)
        finally:
            here.execute("drop subscription models")
            there.execute("drop publication models")
