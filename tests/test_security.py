"""Who can do what, and that nobody's objects are run in place of the extension's."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from psycopg import Connection, sql

from reference import insert_model, random_unet

# What anybody with a schema of his own could plant: each of these takes precedence over pg_catalog's in a search_path
# that names that schema first, or fits its arguments better.
PLANTED = """
create function {schema}.unnest(real[]) returns setof real language plpgsql as $$ begin raise 'hijacked by unnest'; end $$;
create function {schema}.array_length(anyarray, int) returns int language plpgsql as $$ begin raise 'hijacked by array_length'; end $$;
create function {schema}.array_agg(real) returns real[] language plpgsql as $$ begin raise 'hijacked by array_agg'; end $$;
create function {schema}.format(text, variadic text[]) returns text language plpgsql as $$ begin raise 'hijacked by format'; end $$;
create function {schema}.sqrt(real) returns double precision language plpgsql as $$ begin raise 'hijacked by sqrt'; end $$;
create function {schema}.generate_series(int, int) returns setof int language plpgsql as $$ begin raise 'hijacked by generate_series'; end $$;
create function {schema}.hijack_numbers(real, int) returns double precision language plpgsql as $$ begin raise 'hijacked by an operator'; end $$;
create operator {schema}.+ (leftarg = real, rightarg = int, function = {schema}.hijack_numbers);
create operator {schema}.* (leftarg = real, rightarg = int, function = {schema}.hijack_numbers);
create function {schema}.hijack_wide(numeric, int) returns numeric language plpgsql as $$ begin raise 'hijacked by an operator'; end $$;
create operator {schema}.* (leftarg = numeric, rightarg = int, function = {schema}.hijack_wide);
create operator {schema}.- (leftarg = numeric, rightarg = int, function = {schema}.hijack_wide);
"""

# Those of the other extension
OTHER_SCHEMAS = ("sql_diffusion_numpy.", "sql_diffusion_torch.")

# Every function and aggregate of the extension, and its language.
FUNCTIONS = """
from pg_depend d
     join pg_proc p on p.oid = d.objid
     join pg_language l on l.oid = p.prolang
where d.classid = 'pg_proc'::regclass
  and d.deptype = 'e'
  and d.refobjid = (select oid from pg_extension where extname = 'sql_diffusion')
"""


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """An ordinary role, without any privilege of its own."""
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute(sql.SQL("create role {} login").format(sql.Identifier(name)))
        try:
            yield name
        finally:
            server.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_every_name_is_bound_when_a_function_is_made(connection: Connection) -> None:
    """SQL-standard bodies are; a function with a text for its body must say what is searched, and pg_catalog only, or name
    nothing that is searched for."""
    rows = connection.execute(
        f"select p.oid::regprocedure::text, p.prosqlbody is not null, l.lanname, p.proconfig, p.prosrc {FUNCTIONS} and p.prokind = 'f'"
    ).fetchall()
    assert len(rows) > 40
    for function, has_bound_body, language, settings, text in rows:
        searched = settings != ["search_path=pg_catalog, pg_temp"]
        if language == "sql" and not has_bound_body:  # the way to the other extension: columns, and qualified calls
            calls = re.findall(r"([\w.]+)\(", text)
            assert [call for call in calls if not call.startswith(OTHER_SCHEMAS)] == [], function
            assert not re.search(r"[-+*/<>=~!@#%^&|`?]|::|\bcast\b", text), function
        else:
            assert has_bound_body or (language == "plpgsql" and not searched), function


def test_only_raising_and_routing_are_procedural(connection: Connection) -> None:
    rows = connection.execute(f"select p.proname {FUNCTIONS} and l.lanname not in ('sql', 'internal')")
    procedural = {row[0] for row in rows}
    routing = {
        "numpy_steps",
        "numpy_generate",
        "numpy_image_png",
        "numpy_image_from_png",
        "numpy_image_resize",
        "check_painter",
    }
    assert procedural <= {
        "fail",
        "notice",
        "warn_truncated",
        "unpack",
        "unpack_incomplete",
        "write_parameter",
        "renew_tokenizer",
        "work",
        *routing,
    }


def test_a_procedure_finds_nothing_by_a_search_path(connection: Connection) -> None:
    """One that commits cannot say what is searched: all that it names has its schema, its operators too."""
    rows = connection.execute(f"select p.proname, p.prosrc {FUNCTIONS} and p.prokind = 'p'").fetchall()
    assert [name for name, _ in rows] == ["work"]
    for name, source in rows:
        text = re.sub(r"--.*|\boperator\(pg_catalog\.\S+?\)", "", source)
        called = re.findall(r"([\w.]+)\(", text)
        assert {call for call in called if "." not in call} == {"coalesce"}, name
        types = re.findall(r"^  \w+ ([\w.]+);$", text.partition("begin")[0], re.MULTILINE)
        assert len(types) == 4 and all(type.startswith("pg_catalog.") for type in types)
        assert not re.search(
            r"[-+*/<>~!@#%^&|`?]|::|\bcast\b|(?<!:)=",
            re.sub("words = message_text, code = returned_sqlstate|message = words, errcode = code", "", text),
        ), name


def test_planted_objects_are_not_called(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_unet(rng))
    call = "select ddpm_generate(1, 'random', 2, backend => 'sql')"
    png = "select image_png(array_fill(0.5::real, '{3,4,4}'))"
    expected = connection.execute(call).fetchone(), connection.execute(png).fetchone()
    connection.execute("create schema planted")
    connection.execute(PLANTED.format(schema="planted"))
    connection.execute("set local search_path to planted, public, pg_catalog")
    with pytest.raises(psycopg.errors.RaiseException, match="hijacked"), connection.transaction():
        connection.execute("select * from unnest('{1}'::real[])")  # the trap works
    assert (connection.execute(call).fetchone(), connection.execute(png).fetchone()) == expected


def test_planted_objects_are_not_bound(database: str) -> None:
    """Not even where the schema that the extension is made in was prepared."""
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(dbname=name) as own:
                own.execute('create schema "My Planted Schema"')
                own.execute(PLANTED.format(schema='"My Planted Schema"'))
                own.execute('set search_path to "My Planted Schema", public')
                own.execute('create extension sql_diffusion with schema "My Planted Schema"')
                image = own.execute(
                    """select "My Planted Schema".ddpm_generate(1, num_inference_steps => 1)"""
                ).fetchone()[0]
                assert len(image) == 3
                used = own.execute(
                    """select d.objid::regprocedure
                       from pg_depend d join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
                       where p.pronamespace = '"My Planted Schema"'::regnamespace
                         and p.prosrc like '%hijacked%'
                         and d.classid = 'pg_proc'::regclass"""
                ).fetchall()
                assert used == []
            with psycopg.connect(dbname=name, autocommit=True) as own:
                own.execute("select sql_diffusion.enqueue(1, settings => '{\"num_inference_steps\": 1}')")
                own.execute('set search_path to "My Planted Schema", public, pg_catalog')
                own.execute("call sql_diffusion.work()")
                assert own.execute("table sql_diffusion.stored_jobs").fetchone()[7] == "succeeded"
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_an_ordinary_role_can_install_it_in_its_own_database(
    database: str, role: str, rng: np.random.Generator
) -> None:
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(role)))
        try:
            with psycopg.connect(dbname=name, user=role) as own:
                own.execute("create extension sql_diffusion")
                insert_model(own, "random", random_unet(rng))
                image = own.execute("select ddpm_generate(1, 'random', 2)").fetchone()[0]
                assert len(image) == 3
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


QUEUE = "sql_diffusion.jobs, sql_diffusion.claimable_jobs"


def test_nobody_sees_what_others_have_enqueued(database: str, role: str) -> None:
    """Neither by a function that tells what it is given, nor by an error, a claim or a change of the owner; unless it is granted."""
    other = f"{role}_2"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute(sql.SQL("create role {} login").format(sql.Identifier(other)))
        try:
            for name in (role, other):
                server.execute(f'grant select, insert, update on {QUEUE} to "{name}"'.encode())
            with psycopg.connect(dbname=database, user=other, autocommit=True) as theirs:
                (secret,) = theirs.execute("select sql_diffusion.enqueue(1, 'a secret')").fetchone()
                mine = theirs.execute("select sql_diffusion.enqueue(2, 'a moth')").fetchone()[0]
                assert theirs.execute("select sql_diffusion.claim_jobs()").rowcount == 1
                assert theirs.execute("select sql_diffusion.finish_job(%s, 1, 'a picture')", [secret]).fetchone() == (
                    True,
                )
            with psycopg.connect(dbname=database, user=role, autocommit=True) as own:
                told: list[str] = []
                own.add_notice_handler(lambda notice: told.append(str(notice.message_primary)))
                own.execute(
                    "create function pg_temp.tell(value text) returns boolean language plpgsql cost 0.0001 "
                    "as $$ begin raise notice '%', value; return true; end $$"
                )
                assert (
                    own.execute("select from sql_diffusion.jobs where pg_temp.tell(prompt || png::text)").rowcount == 0
                )
                assert own.execute("select from sql_diffusion.jobs where prompt::int > 0").rowcount == 0
                assert own.execute("select from sql_diffusion.claimable_jobs").rowcount == 0
                assert own.execute("update sql_diffusion.jobs set owner = current_user").rowcount == 0
                assert own.execute("select sql_diffusion.claim_jobs(9)").rowcount == 0
                for call in (
                    f"cancel_job({mine})",
                    f"retry_job({mine})",
                    f"finish_job({mine}, 0, '')",
                    f"fail_job({mine}, 0, '')",
                ):
                    assert own.execute(f"select sql_diffusion.{call}".encode()).fetchone() == (False,)
                assert told == []
                with pytest.raises(psycopg.errors.WithCheckOptionViolation):
                    own.execute("insert into sql_diffusion.jobs (seed, owner) values (1, %s)", [other])
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    own.execute("select prompt from sql_diffusion.stored_jobs")
                server.execute(sql.SQL("grant select on sql_diffusion.stored_jobs to {}").format(sql.Identifier(role)))
                assert own.execute("select prompt from sql_diffusion.jobs order by id").fetchall() == [
                    ("a secret",),
                    ("a moth",),
                ]
                assert own.execute("select id from sql_diffusion.claim_jobs(9)").fetchall() == [(mine,)]
        finally:
            server.execute("delete from sql_diffusion.stored_jobs")
            server.execute(sql.SQL("drop owned by {}").format(sql.Identifier(other)))
            server.execute(sql.SQL("drop role {}").format(sql.Identifier(other)))


@pytest.mark.parametrize(
    "statement",
    [
        "select sql_diffusion.enqueue(1)",
        "select prompt, png from sql_diffusion.jobs",
        "select id from sql_diffusion.claimable_jobs",
        "select prompt, png from sql_diffusion.stored_jobs",
        "select sql_diffusion.claim_jobs()",
        "select sql_diffusion.finish_job(1, 1, '')",
        "select sql_diffusion.fail_job(1, 1, '')",
        "select sql_diffusion.cancel_job(1)",
        "select sql_diffusion.retry_job(1)",
        "call sql_diffusion.work()",
        "insert into sql_diffusion.models (name, pipeline, scheduler) values ('mine', 'DDPMPipeline', '{}')",
        "update sql_diffusion.parameters set bias = null",
        "delete from sql_diffusion.models",
        "truncate sql_diffusion.stored_parameters",
        "create or replace function sql_diffusion.silu(input real[]) returns real[] language sql return input",
        "create table sql_diffusion.mine ()",
        "drop extension sql_diffusion",
    ],
)
def test_an_ordinary_role_changes_nothing(database: str, role: str, statement: str) -> None:
    with psycopg.connect(dbname=database, user=role) as own:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            own.execute(statement)
        own.rollback()


def test_an_ordinary_role_generates(database: str, role: str) -> None:
    with psycopg.connect(dbname=database, user=role) as own:
        assert own.execute("select count(*) from sql_diffusion.parameters").fetchone()[0] > 0
        image = own.execute("select ddpm_generate(1, num_inference_steps => 1, backend => 'sql')").fetchone()[0]
        assert len(image) == 3
        own.rollback()
