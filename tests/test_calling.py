"""The verbs as programs call them: with parameters of a type, of none, and as text, through drivers and by PREPARE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
import sqlalchemy
from psycopg import Connection, pq

from reference import insert_model, random_unet

PICTURE = "select image_png(ddpm_generate(%s, model => 'called', num_inference_steps => 1, backend => 'sql'))"
PICTURES = "select g.seed, image_png(g.image) from ddpm_generate(%s, model => 'called', num_inference_steps => 1, backend => 'sql') g"


@pytest.fixture
def called(connection: Connection, rng: np.random.Generator) -> Iterator[Connection]:
    insert_model(connection, "called", random_unet(rng))
    yield connection


def one(connection: Connection, query: str, *arguments: Any) -> Any:
    row = connection.execute(query.encode(), arguments).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("seed", [7, 2**31, -(2**63), 2**63 - 1])
def test_a_seed_of_any_type_is_the_same_seed(called: Connection, seed: int) -> None:
    expected = one(called, PICTURE % f"'{seed}'::bigint")
    assert one(called, PICTURE % f"({seed})") == expected
    assert one(called, PICTURE % f"'{seed}'") == expected
    assert one(called, PICTURE % f"'{seed}'::varchar") == expected
    assert one(called, PICTURE % f"seed => '{seed}'") == expected
    assert one(called, PICTURE, seed) == expected  # psycopg: smallint, int or bigint, as it fits
    assert one(called, PICTURE, str(seed)) == expected  # psycopg: without a type
    client = psycopg.ClientCursor(called)
    row = client.execute(PICTURE, [seed]).fetchone()
    assert row is not None and row[0] == expected


def test_prepare_finds_one_function(called: Connection) -> None:
    expected = one(called, PICTURE % "7")
    called.execute(f"prepare untyped as {PICTURE % '$1'}".encode())
    assert one(called, "execute untyped(7)") == expected
    assert one(called, "execute untyped('7')") == expected
    called.execute(f"prepare typed (bigint) as {PICTURE % '$1'}".encode())
    assert one(called, "execute typed(7)") == expected
    called.execute(f"prepare several (bigint[]) as {PICTURES % '$1'}".encode())
    assert called.execute("execute several('{7,8}')").fetchall()[0] == (7, expected)


@pytest.mark.parametrize(
    "oid", [0, 20, 23, 25, 1043]
)  # none (node-postgres, JDBC unspecified), bigint, int, text, varchar (JDBC setString)
def test_parameters_as_drivers_send_them(called: Connection, oid: int) -> None:
    expected = one(called, PICTURE % "7")
    query = (PICTURE % "$1").encode()
    result = called.pgconn.exec_params(query, [b"7"], [oid], result_format=pq.Format.BINARY)
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    assert result.get_value(0, 0) == expected
    prepared = called.pgconn.prepare(b"", query, [oid])
    assert prepared.status == pq.ExecStatus.COMMAND_OK, prepared.error_message
    assert called.pgconn.exec_prepared(b"", [b"7"], result_format=pq.Format.BINARY).get_value(0, 0) == expected


def test_the_array_form_is_still_there(called: Connection) -> None:
    expected = [(seed, one(called, PICTURE % seed)) for seed in (7, 8)]
    assert called.execute((PICTURES % "array[7, 8]").encode()).fetchall() == expected
    assert called.execute((PICTURES % "seeds => '{7,8}'").encode()).fetchall() == expected
    assert called.execute(PICTURES.encode(), [[7, 8]]).fetchall() == expected


def test_sqlalchemy(database: str, rng: np.random.Generator) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as own:
        insert_model(own, "alchemy", random_unet(rng))
        try:
            expected = one(own, "select image_png(ddpm_generate(7::bigint, 'alchemy', 1))")
            with sqlalchemy.create_engine(f"postgresql+psycopg:///{database}").connect() as session:
                for seed in (7, "7"):
                    query = sqlalchemy.text("select image_png(ddpm_generate(:seed, 'alchemy', 1))")
                    assert session.execute(query, {"seed": seed}).scalar_one() == expected
                    call = sqlalchemy.func.image_png(sqlalchemy.func.ddpm_generate(seed, "alchemy", 1))
                    assert session.execute(sqlalchemy.select(call)).scalar_one() == expected
        finally:
            own.execute("delete from sql_diffusion.models where name = 'alchemy'")


@pytest.mark.parametrize(
    ("seed", "sqlstate"), [("butterfly", "22P02"), ("1.5", "22P02"), (str(2**63), "22003"), (None, "22023")]
)
def test_what_is_no_seed_is_refused(called: Connection, seed: str | None, sqlstate: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        one(called, PICTURE, seed)
    assert refused.value.sqlstate == sqlstate


def test_every_verb_is_found_by_untyped_arguments(called: Connection) -> None:
    """However many forms one has: with as few arguments as it takes, and with all of them."""
    verbs = called.execute(
        """select p.proname, min(p.pronargs - p.pronargdefaults), max(p.pronargs)
           from pg_proc p
           where p.pronamespace = 'public'::regnamespace
             and p.prokind = 'f'
           group by 1"""
    ).fetchall()
    assert {"ddpm_generate", "ddpm_steps", "text_to_image", "text_to_image_steps", "image_png", "image_from_png"} <= {
        verb for verb, _, _ in verbs
    }
    for verb, fewest, arguments in verbs:
        for count in (fewest, arguments):
            places = ", ".join(f"${place}" for place in range(1, count + 1))
            called.execute(f"prepare found_{verb}_{count} as select {verb}({places})".encode())


def test_no_verb_is_compiled(connection: Connection) -> None:
    """A plan that seems dear is compiled before it runs (jit), which takes longer than many a call."""
    verbs = connection.execute(
        """select proname, oid::regprocedure::text, proargtypes::regtype[]::text[] from pg_proc
           where pronamespace in ('sql_diffusion'::regnamespace, 'public'::regnamespace) and prokind = 'f' and 'backend' = any(proargnames)"""
    ).fetchall()
    assert {"ddpm_generate", "text_to_image_steps", "inpaint", "gpt_generate", "image_png"} <= {row[0] for row in verbs}
    costs = {}
    for _, signature, types in verbs:
        arguments = ", ".join(f"null::{each} as a{place}" for place, each in enumerate(types))
        columns = ", ".join(f"a.a{place}" for place in range(len(types)))
        name = signature.partition("(")[0]
        query = f"explain (format json) select v from (select {arguments} offset 0) a, lateral {name}({columns}) v"
        costs[signature] = one(connection, query)[0]["Plan"]["Total Cost"]
    most = connection.execute("select boot_val::float8 / 2 from pg_settings where name = 'jit_above_cost'").fetchone()
    assert most is not None
    assert {signature: cost for signature, cost in costs.items() if cost > most[0]} == {}
