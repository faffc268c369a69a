"""The pure-SQL extension where no file can be put on the server: as a plain script, and through pg_tle."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import Connection, sql

from helper_command import run
from installation import ROOT, copied_installation, private_cluster, program
from reference import insert_model, random_unet
from test_update import catalogue

GENERATE = "select ddpm_generate(7, num_inference_steps => 1, backend => 'sql')"

# What tells the extension's functions apart: everything but the schema that the verbs are in.
FUNCTIONS = """
select case n.nspname when 'sql_diffusion' then n.nspname end, p.proname, pg_get_function_arguments(p.oid),
       pg_get_function_result(p.oid), p.provolatile, p.proparallel, p.proisstrict, p.prosecdef, p.proconfig, p.prokind,
       obj_description(p.oid, 'pg_proc')
from pg_proc p
     join pg_namespace n on n.oid = p.pronamespace
where n.nspname in ('sql_diffusion', %s)
order by 1, 2, 3
"""

# pg_tle's own: it keeps what it is given, and CREATE EXTENSION finds it.
STAND_IN = """
create schema pgtle;
create table pgtle.installed (name text, version text, description text, ext text, requires text[]);
create function pgtle.install_extension(name text, version text, description text, ext text, requires text[] default null)
  returns boolean language sql
begin atomic
  insert into pgtle.installed values (name, version, description, ext, requires);
  select true;
end;
"""


def built(form: str) -> Path:
    """The newest of the scripts that `make` built in that form."""
    files = sorted((ROOT / "build").glob(f"sql_diffusion--*.{form}.sql"), key=lambda file: file.stat().st_mtime)
    assert files, "run: make"
    return files[-1]


def psql(database: str, user: str, file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        program("psql"),
        "--no-psqlrc",
        "--quiet",
        f"--dbname={database}",
        f"--username={user}",
        f"--file={file}",
    ]
    return subprocess.run([*command, *options], capture_output=True, text=True)


@pytest.fixture
def owned_database(database: str) -> Iterator[str]:
    """The name of an empty database, and of the ordinary role that owns it and the schema public in it."""
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    role = sql.Identifier(name)
    with psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute(sql.SQL("create role {} login").format(role))
        server.execute(sql.SQL("create database {} owner {}").format(role, role))
        try:
            with psycopg.connect(dbname=name, autocommit=True) as own:
                own.execute(sql.SQL("alter schema public owner to {}").format(role))
            yield name
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(role))
            server.execute(sql.SQL("drop role {}").format(role))


@pytest.mark.parametrize("schema", ["public", "Pictures and more"])
def test_the_plain_script_makes_what_the_extension_is(connection: Connection, owned_database: str, schema: str) -> None:
    with psycopg.connect(dbname=owned_database, user=owned_database, autocommit=True) as own:
        options = [] if schema == "public" else [f"--set=schema={schema}"]
        if options:
            own.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        done = psql(owned_database, owned_database, built("plain"), *options)
        assert done.returncode == 0 and done.stderr == "", done.stderr

        assert own.execute(FUNCTIONS, [schema]).fetchall() == connection.execute(FUNCTIONS, ["public"]).fetchall()
        assert own.execute("select count(*) from pg_extension where extname like 'sql_diffusion%'").fetchone() == (0,)
        own.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        assert own.execute(GENERATE).fetchone() == connection.execute(GENERATE).fetchone()

        own.execute("drop schema sql_diffusion cascade")
        assert own.execute(FUNCTIONS, [schema]).fetchall() == []


def test_the_helper_finds_what_the_plain_script_made(owned_database: str, tmp_path: Path) -> None:
    with psycopg.connect(dbname=owned_database, user=owned_database, autocommit=True) as own:
        own.execute("create schema pictures")
    assert psql(owned_database, owned_database, built("plain"), "--set=schema=pictures").returncode == 0
    loaded = run(owned_database, "load", ROOT / "models" / "butterflies", "--name", "mine", PGUSER=owned_database)
    assert loaded.returncode == 0, loaded.stderr
    picture = tmp_path / "butterfly.png"
    options = ["--model", "mine", "--seed", 42, "--steps", 1, "-o", picture]
    made = run(owned_database, "generate", *options, PGUSER=owned_database)
    assert made.returncode == 0, made.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = run(owned_database, "doctor", PGUSER=owned_database)
    assert "made by its plain script" in report.stdout and "butterflies, mine" in report.stdout, report.stdout


def test_the_plain_script_prints_nothing_and_makes_its_schema(owned_database: str) -> None:
    done = psql(owned_database, owned_database, built("plain"), "--set=schema=New one")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with psycopg.connect(dbname=owned_database, user=owned_database) as own:
        assert own.execute("select count(*) from pg_namespace where nspname = 'New one'").fetchone() == (1,)


@pytest.mark.parametrize("schema", ["public", "Pictures and more"])
def test_from_plain_to_whole(connection: Connection, owned_database: str, schema: str) -> None:
    """Every entry of the catalogue is that of CREATE EXTENSION, what was loaded stays, and the extension in NumPy comes on top."""
    superuser = os.environ["PGUSER"]
    assert psql(owned_database, superuser, built("plain"), f"--set=schema={schema}").returncode == 0
    with psycopg.connect(dbname=owned_database, autocommit=True) as own:
        insert_model(own, "mine", random_unet(np.random.default_rng(0)))
        own.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        mine = "select ddpm_generate(7, 'mine', 2, backend => 'sql')"
        before = own.execute(mine).fetchone()
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as refused:
            own.execute("select ddpm_generate(7, backend => 'numpy')")
        assert "unpackaged" in (refused.value.diag.message_hint or "")
        report = json.loads(run(owned_database, "doctor", "--json").stdout)
        (advice,) = [finding["mend"] for finding in report if finding["check"] == "sql_diffusion_numpy"]
        own.execute(advice.encode())
        assert own.execute("select extname from pg_extension where extname like 'sql_diff%' order by 1").fetchall() == [
            ("sql_diffusion",),
            ("sql_diffusion_numpy",),
        ]
        assert own.execute(mine).fetchone() == before
        own.execute("drop extension sql_diffusion_numpy; drop extension plpython3u")
        if schema == "public":
            own.execute("delete from sql_diffusion.models where not bundled; set search_path to default")
            connection.execute("set search_path to default")
            assert catalogue(own) == catalogue(connection)
        own.execute("drop extension sql_diffusion")
        assert own.execute(FUNCTIONS, [schema]).fetchall() == []


def test_only_what_the_plain_script_made_becomes_whole(owned_database: str) -> None:
    with psycopg.connect(dbname=owned_database, user=owned_database, autocommit=True) as own:
        own.execute("create extension sql_diffusion version 'unpackaged'")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="lacks what the plain script"):
            own.execute("alter extension sql_diffusion update")


def test_the_plain_script_makes_all_or_nothing(owned_database: str) -> None:
    with psycopg.connect(dbname=owned_database, user=owned_database, autocommit=True) as own:
        # the last of the verbs is there already
        own.execute("create function image_ansi(image real[], scale int default 1) returns int return 1")
        done = psql(owned_database, owned_database, built("plain"))
        assert done.returncode != 0
        assert 'function "image_ansi" already exists' in done.stderr
        assert own.execute("select count(*) from pg_namespace where nspname = 'sql_diffusion'").fetchone() == (0,)


def test_dumps_hold_what_the_plain_script_made(connection: Connection, owned_database: str, tmp_path: Path) -> None:
    """All of it: it is no extension for pg_dump."""
    assert psql(owned_database, owned_database, built("plain")).returncode == 0
    dump = tmp_path / "dump.sql"
    subprocess.run([program("pg_dump"), f"--username={owned_database}", f"--file={dump}", owned_database], check=True)
    with psycopg.connect(dbname=owned_database, user=owned_database, autocommit=True) as own:
        own.execute("drop schema sql_diffusion cascade")
        done = psql(owned_database, owned_database, dump, "--set=ON_ERROR_STOP=1", "--output=/dev/null")
        assert done.returncode == 0, done.stderr
        assert own.execute(FUNCTIONS, ["public"]).fetchall() == connection.execute(FUNCTIONS, ["public"]).fetchall()
        assert own.execute(GENERATE).fetchone() == connection.execute(GENERATE).fetchone()


def test_pg_tle_is_given_the_extension(connection: Connection, owned_database: str) -> None:
    """The script that pg_tle keeps is run by PostgreSQL's own CREATE EXTENSION, under the control file that pg_tle makes of its arguments."""
    with psycopg.connect(dbname=owned_database, autocommit=True) as own:
        own.execute(STAND_IN)
        own.execute(built("pg_tle").read_text(encoding="utf-8"))
        rows = own.execute("select name, version, description, ext, requires from pgtle.installed").fetchall()
    assert len(rows) == 1
    name, version, description, script, requires = rows[0]
    assert (name, requires) == ("sql_diffusion", None)

    with copied_installation() as pg_config:
        sharedir = subprocess.run([pg_config, "--sharedir"], check=True, capture_output=True, text=True).stdout.strip()
        extension = Path(sharedir) / "extension"
        (extension / f"{name}--{version}.sql").write_text(script, encoding="utf-8")
        (extension / f"{name}.control").write_text(
            f"default_version = '{version}'\ncomment = '{description}'\nrelocatable = false\nsuperuser = false\ntrusted = false\n"
        )
        with (
            private_cluster(pg_config) as host,
            psycopg.connect(host=host, port=5432, user="postgres", dbname="postgres", autocommit=True) as own,
        ):
            own.execute("create role ordinary login")
            own.execute("grant create on database postgres to ordinary; grant create on schema public to ordinary")
            own.execute("set role ordinary")
            own.execute("create extension sql_diffusion")
            assert own.execute(FUNCTIONS, ["public"]).fetchall() == connection.execute(FUNCTIONS, ["public"]).fetchall()
            assert own.execute(GENERATE).fetchone() == connection.execute(GENERATE).fetchone()
