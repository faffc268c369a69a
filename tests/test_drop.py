"""The extensions leave nothing behind, and take nothing along that is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql

from databases import new_database

# Everything in the database that is not PostgreSQL's own.
OBJECTS = """
select 'schema', nspname from pg_namespace where oid >= 16384 and nspname !~ '^pg_t'
union all
select 'function', oid::regprocedure::text from pg_proc where oid >= 16384
union all
select 'relation', oid::regclass::text from pg_class where oid >= 16384 and relnamespace <> 'pg_toast'::regnamespace
union all
select 'type', oid::regtype::text from pg_type where oid >= 16384
union all
select 'extension', extname from pg_extension where oid >= 16384
order by 1, 2
"""

SCHEMAS = ["public", "My Pictures", "Größe; 1"]  # PostgreSQL itself refuses quotes and comments


@pytest.fixture(scope="module")
def own() -> Iterator[Connection[Any]]:
    with new_database() as name, psycopg.connect(dbname=name, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("schema", SCHEMAS)
def test_any_schema(own: Connection[Any], schema: str) -> None:
    """The verbs go where CREATE EXTENSION says, both extensions work from there, and DROP EXTENSION leaves nothing."""
    place = sql.Identifier(schema)
    if schema != "public":
        own.execute(sql.SQL("create schema {}").format(place))
    before = own.execute(OBJECTS).fetchall()
    own.execute(sql.SQL("create extension sql_diffusion with schema {}").format(place))
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        own.execute("alter extension sql_diffusion set schema pg_temp")
    own.execute("create extension plpython3u")
    own.execute("create extension sql_diffusion_numpy")
    query = sql.SQL("select {}.ddpm_generate(3, num_inference_steps => 1, backend => {})")
    pictures = [own.execute(query.format(place, backend)).fetchone() for backend in ("sql", "numpy")]
    assert all(picture is not None and len(picture[0]) == 3 for picture in pictures)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        own.execute("drop extension sql_diffusion")
    own.execute("drop extension sql_diffusion_numpy")
    own.execute("drop extension plpython3u")
    own.execute("drop extension sql_diffusion")
    assert own.execute(OBJECTS).fetchall() == before
    if schema != "public":
        own.execute(sql.SQL("drop schema {}").format(place))


def test_what_depends_on_it_goes_only_with_cascade(own: Connection[Any]) -> None:
    own.execute("create extension sql_diffusion")
    own.execute("create view latest as select m.name from sql_diffusion.models m")
    own.execute("create table mine as select 1 as kept")
    try:
        with pytest.raises(psycopg.errors.DependentObjectsStillExist, match=r"other objects depend"):
            own.execute("drop extension sql_diffusion")
        assert own.execute("select * from latest where name = 'butterflies'").fetchall() == [("butterflies",)]
        own.execute("drop extension sql_diffusion cascade")
        assert own.execute("select to_regclass('latest'), to_regnamespace('sql_diffusion')").fetchone() == (None, None)
        assert own.execute("select kept from mine").fetchone() == (1,)
    finally:
        own.execute("drop table mine")
