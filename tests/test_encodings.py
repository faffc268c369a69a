"""Databases and sessions that are set up oddly: other encodings, other languages, and every setting that changes what text means."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from psycopg import sql

import helper_command as command
from reference import insert_model, random_unet

pytest_plugins = ["numpy_server"]

# What Debian makes without a locale, and two whose letters are other bytes than those that clients send; a name of a model in each.
ENCODINGS = {"SQL_ASCII": "Schmetterling für 蝶", "LATIN1": "Schmetterling für", "EUC_JP": "蝶と蛾", "UTF8": "蝶 für ▀"}

# What a database or role may be set to, and what must not matter.
SETTINGS = {
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "IntervalStyle": "sql_standard",
    "DateStyle": "SQL, DMY",
    "TimeZone": "Asia/Kathmandu",
    "row_security": "off",
    "search_path": "",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "quote_all_identifiers": "on",
    "default_transaction_isolation": "serializable",
}

# Of a session: everything that is compiled costs as much as it can.
JIT = {"jit": "on", "jit_above_cost": "0", "jit_inline_above_cost": "0", "jit_optimize_above_cost": "0"}


@pytest.fixture(scope="module", params=list(ENCODINGS))
def odd_database(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A new database of an encoding, with SETTINGS and both extensions, and a name that its encoding can write."""
    name = f"odd_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        # Turkish where the server can: there the small letter of I is another
        is_turkish = request.param == "UTF8" and server.info.server_version >= 150000
        turkish = "locale_provider icu icu_locale 'tr'" if is_turkish else ""
        server.execute(
            f"create database {name} encoding '{request.param}' template template0 locale 'C' {turkish}".encode()
        )
        for setting, value in SETTINGS.items():
            server.execute(
                sql.SQL("alter database {} set {} to {}").format(
                    sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)
                )
            )
        try:
            with psycopg.connect(dbname=name, autocommit=True, client_encoding="UTF8") as own:
                own.execute("create extension sql_diffusion_numpy with schema public cascade")
            yield name, ENCODINGS[request.param]
        finally:
            server.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    seed = int(os.environ.get("SQL_DIFFUSION_TEST_SEED") or secrets.randbits(32))
    print(f"SQL_DIFFUSION_TEST_SEED={seed}")
    saved = tmp_path_factory.mktemp("odd") / "pipeline"
    DDPMPipeline(random_unet(np.random.default_rng(seed)), DDPMScheduler(num_train_timesteps=100)).save_pretrained(
        saved
    )
    return saved


# Every function that people call, and some beneath.
QUERIES = (
    "select public.ddpm_generate(7, %(model)s, 2, backend => %(backend)s)",
    "select public.ddpm_generate(7, %(model)s, 2, scheduler => 'DDIM', backend => %(backend)s)",
    "select public.ddpm_generate(7, %(model)s, 2, backend => %(backend)s, "
    """scheduler => '{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}')""",
    "select sql_diffusion.scheduler_name('DDIMScheduler')",
    "select array_agg(s.timestep order by s.step) from public.ddpm_steps(7, %(model)s, 2, backend => %(backend)s) s",
    "select seed from public.ddpm_generate(array[1, 2], %(model)s, 1, backend => %(backend)s)",
    "select public.image_png(public.ddpm_generate(7, %(model)s, 2, backend => %(backend)s), scale => 2)",
    "select array_agg(a) from public.image_ascii(public.ddpm_generate(7, %(model)s, 2, backend => 'sql')) a",
    "select sql_diffusion.randn(7, '{3}')",
    "select sql_diffusion_numpy.randn(7, '{3}')",
    "select array_agg((s.beta, s.alpha_cumprod) order by s.timestep) "
    "from sql_diffusion.models m, sql_diffusion.noise_schedule(m.scheduler) s where m.bundled",
)
# Compiling takes seconds a query: once through the layers, and what else there is that is not a layer.
COMPILED = (
    "select public.ddpm_generate(7, %(model)s, 1, backend => %(backend)s)",
    "select public.image_png(array_fill(0.5::real, '{3,4,5}'), scale => 2, backend => %(backend)s)",
    "select array_agg(a) from public.image_ascii(array_fill(0.5::real, '{3,4,5}')) a",
    "select sql_diffusion.randn(7, '{3}')",
)


def answers(connection: psycopg.Connection, model: str, backend: str, queries: tuple[str, ...] = QUERIES) -> list[Any]:
    with connection.cursor(binary=True) as cursor:
        found = []
        for query in queries:
            row = cursor.execute(query.encode(), {"model": model, "backend": backend}).fetchone()
            assert row is not None
            found.append(row[0])
        return found


def schedules(connection: psycopg.Connection) -> list[Any]:
    """The rows of every sampler, down to the last bit, with an eta of many digits where it takes one."""
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(
            """select s.name, r.*
               from sql_diffusion.schedulers() s,
                    sql_diffusion.scheduler_timesteps(pg_catalog.jsonb_build_object('_class_name', s.class_name), null, 7,
                                                      eta => case when s.uses_eta then 0.123456789::real end) r
               order by s.name, r.step"""
        ).fetchall()


def everything(connection: psycopg.Connection, model: str) -> list[Any]:
    return [*(answers(connection, model, backend) for backend in ("sql", "numpy")), schedules(connection)]


@pytest.fixture(scope="module")
def expected(numpy_database: str, folder: Path) -> list[Any]:
    """What a database like any other says."""
    command.succeed(numpy_database, "load", folder, "--name", "plain")
    try:
        with psycopg.connect(dbname=numpy_database) as plain:
            return everything(plain, "plain")
    finally:
        command.succeed(numpy_database, "remove", "plain")


def test_the_settings_of_a_database_change_nothing(
    odd_database: tuple[str, str], folder: Path, expected: list[Any]
) -> None:
    """A loaded model generates the picture that it generates in a database like any other, in transactions that write nothing."""
    name, model = odd_database
    model += "1"
    command.succeed(name, "load", folder, "--name", model)
    try:
        with psycopg.connect(dbname=name, client_encoding="UTF8") as odd:
            odd.read_only = True
            assert everything(odd, model) == expected
    finally:
        command.succeed(name, "remove", model)


def test_compiling_everything_changes_nothing(numpy_connection: psycopg.Connection, rng: np.random.Generator) -> None:
    insert_model(numpy_connection, "compiled", random_unet(rng))
    without = answers(numpy_connection, "compiled", "sql", COMPILED)
    for setting, value in JIT.items():
        numpy_connection.execute(f"set local {setting} to {value}".encode())
    assert answers(numpy_connection, "compiled", "sql", COMPILED) == without


def test_the_helper_in_a_database_of_any_encoding(odd_database: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    name, model = odd_database
    said = command.succeed(name, "load", folder, "--name", model)
    assert said.startswith(f"Loaded {model}: ")
    assert f"\n{model} " in command.succeed(name, "list")
    listed = json.loads(command.succeed(name, "list", "--json"))
    assert [each["name"] for each in listed] == sorted(["butterflies", "prompted-butterflies", model], key=str.encode)
    shown = json.loads(command.succeed(name, "show", model, "--json"))
    assert shown["name"] == model and shown["plan"][0]["operation"] == "input"
    found = json.loads(command.succeed(name, "doctor", "--json"))
    assert [each for each in found if each["state"] == "missing"] == []
    for backend in ("sql", "numpy"):
        picture = tmp_path / f"{backend}.png"
        options = ["--model", model, "--seed", 1, "--steps", 2, "--backend", backend, "-o", picture]
        command.succeed(name, "generate", *options)
        assert picture.read_bytes().startswith(b"\x89PNG")
    drawing = ["generate", "--model", model, "--seed", 1, "--steps", 2, "--backend", "sql", "--ansi"]
    if "▀" in model or ("蝶" in model and "für" in model):  # UTF8 and SQL_ASCII
        assert "▀" in command.succeed(name, *drawing)
    else:
        assert "expected UTF8" in command.fail(name, 3, *drawing)
    assert f"there is no model {model}2" in command.fail(name, 5, "show", f"{model}2")
    assert command.succeed(name, "remove", model) == f"Removed {model}\n"
    assert model not in command.succeed(name, "list")


def test_loading_where_transactions_are_read_only(odd_database: tuple[str, str], folder: Path) -> None:
    """A guard of the administrator's, which is not lifted unasked; the message says how to."""
    name, _ = odd_database
    with psycopg.connect(autocommit=True) as server:
        server.execute(f"alter database {name} set default_transaction_read_only to on".encode())
        try:
            said = command.fail(name, 3, "load", folder, "--name", "guarded")
            assert "read-only transaction" in said and "default_transaction_read_only=off" in said
            command.succeed(name, "load", folder, "--name", "guarded", PGOPTIONS="-c default_transaction_read_only=off")
        finally:
            server.execute(f"alter database {name} reset default_transaction_read_only".encode())
    command.succeed(name, "remove", "guarded")
