"""sql-diffusion run --ray --models-from: rows on one server, the models from its hot standby, or from another that has them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import helper_command as command
from clusters import new_cluster
from painting import QUERY, UPDATE, count, different, make_wanted, plain, until, want
from reference import insert_model, random_unet
from sql_diffusion import database, model_server
from sql_diffusion.engine import Server
from sql_diffusion.errors import Lost, Problem, Unable
from sql_diffusion.ray_workers import DistantPainter, lasting
from sql_diffusion.run import Job, Leave

pytest_plugins = ["ray_nodes"]

STEPS = 12
HELD = "sql-diffusion: waiting for 100 rows that other sessions hold"
READ = "select coalesce(seq_scan, 0) + coalesce(idx_scan, 0) from pg_stat_user_tables where relid = 'sql_diffusion.stored_parameters'::regclass"
MINE = "select from pg_stat_activity where application_name = 'sql-diffusion'"


def connect(socket: str, name: str = "postgres") -> psycopg.Connection[Any]:
    return psycopg.connect(host=socket, user="postgres", dbname=name, autocommit=True)


def dsn(socket: str, name: str = "postgres") -> str:
    return f"host={socket} user=postgres dbname={name}"


@pytest.fixture(scope="module")
def primary() -> Iterator[str]:
    """In database postgres models, the queue and wanted pictures; in rows wanted pictures, and not even the extension."""
    with new_cluster("-c sql_diffusion.threads=1") as socket:
        with connect(socket) as own:
            own.execute("create extension sql_diffusion_numpy cascade")
            insert_model(own, "plain", random_unet(np.random.default_rng(5)))
            own.execute("create database rows")
        yield socket


@pytest.fixture(scope="module")
def standby(primary: str) -> Iterator[str]:
    with new_cluster("-c sql_diffusion.threads=1 -c max_standby_streaming_delay=0", standby_of=primary) as socket:
        yield socket


@pytest.fixture
def own(primary: str) -> Iterator[psycopg.Connection]:
    with connect(primary) as connection:
        make_wanted(connection)
        yield connection


@pytest.fixture
def there(standby: str) -> Iterator[psycopg.Connection]:
    with connect(standby) as connection:
        yield connection


GIVEN = ["run", "--query", QUERY, "--update", UPDATE, "--model", "plain", "--steps", STEPS, "--batch", 2]


def value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_pictures(
    primary: str,
    standby: str,
    nodes: Any,
    own: psycopg.Connection,
    there: psycopg.Connection,
    rng: np.random.Generator,
) -> None:
    """The parameters are read on the standby and not on the primary, whose pictures they make to the byte."""
    want(own, 6, rng)
    own.execute("update wanted set model = 'nobody' where id = 5")
    read, read_there = value(own, READ), value(there, READ)
    given = ["run", "--query", QUERY.replace("seed", "seed, model"), "--update", UPDATE, "--batch", 1, "--steps", 2]
    servers = ["--dsn", dsn(primary), "--models-from", dsn(standby), "--workers", 2, "--ray", nodes.address]
    result = command.run("none", *given, "--model", "plain", *servers, RAY_USAGE_STATS_ENABLED="0")
    assert result.stderr == 'sql-diffusion: id = 5: --models-from: model "nobody" does not exist\n'
    assert result.stdout == "Painted 5 rows, 1 could not be; the query gives 1 more\n"
    until(lambda: own.execute(MINE).rowcount == there.execute(MINE).rowcount == 0)  # which counts what they did
    assert value(own, READ) == read
    until(lambda: value(there, READ) > read_there)
    assert count(own, f"picture = image_png({plain(2)})") == 5


def test_rows_of_a_server_without_the_extension(
    primary: str, standby: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator
) -> None:
    with connect(primary, "rows") as rows:
        make_wanted(rows)
        want(rows, 4, rng)
        servers = ["--dsn", dsn(primary, "rows"), "--models-from", dsn(standby), "--ray", nodes.address]
        assert command.succeed("none", *GIVEN, *servers) == "Painted 4 rows; the query gives 0 more\n"
        pictures = rows.execute("select seed, picture from wanted").fetchall()
    for seed, picture in pictures:
        alone = own.execute(f"select image_png({plain(STEPS)}) from (values (%s)) v (seed)".encode(), [seed])
        assert alone.fetchone() == (picture,)


def resume(there: psycopg.Connection) -> None:
    """The recovery that this sets going may cancel the very query."""
    with suppress(psycopg.errors.SerializationFailure):
        there.execute("select pg_wal_replay_resume()")


def test_a_model_that_changes(
    primary: str, standby: str, nodes: Any, own: psycopg.Connection, there: psycopg.Connection
) -> None:
    """A job that was claimed after that is painted with what the model is now, though the standby hears of it later."""
    insert_model(own, "changing", random_unet(np.random.default_rng(6)))
    job = """select sql_diffusion.enqueue(%s, model => 'changing', settings => '{"num_inference_steps": 1}')"""
    state = "select state from sql_diffusion.jobs where id = %s"
    servers = ["--dsn", dsn(primary), "--models-from", dsn(standby), "--ray", nodes.address]
    with command.start("none", "run", "--jobs", "--wait", *servers) as process:
        try:
            [before] = own.execute(job, [1]).fetchone() or ()
            until(lambda: own.execute(state, [before]).fetchone() == ("succeeded",))
            there.execute("select pg_wal_replay_pause()")
            own.execute("delete from sql_diffusion.models where name = 'changing'")
            insert_model(own, "changing", random_unet(np.random.default_rng(7)))
            [after] = own.execute(job, [1]).fetchone() or ()
            until(lambda: own.execute(state, [after]).fetchone() == ("running",))
            waits = "pg_last_wal_replay_lsn() <"
            until(lambda: there.execute(f"{MINE} and query like '%%{waits}%%'".encode()).rowcount > 0)
            assert own.execute(state, [after]).fetchone() == ("running",)
            resume(there)
            until(lambda: own.execute(state, [after]).fetchone() == ("succeeded",))
        finally:
            resume(there)
            process.terminate()
            process.communicate(timeout=60)
    alone = "select png = sql_diffusion.paint_job(seed, prompt, model, settings) from sql_diffusion.jobs where id = %s"
    assert own.execute(alone, [after]).fetchone() == (True,)
    assert own.execute(alone, [before]).fetchone() == (False,)


def test_a_standby_that_stays_behind(
    primary: str, standby: str, own: psycopg.Connection, there: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a run begins, nor is a row blamed where one has begun before."""
    monkeypatch.setattr(model_server, "PATIENCE", 0.2)
    painter = painter_of(dsn(primary), dsn(standby))
    there.execute("select pg_wal_replay_pause()")
    try:
        own.execute("insert into wanted (id, seed, model) values (1, 1, 'plain')")
        with pytest.raises(Unable, match=r"^--models-from: the standby is behind: "):
            painter.work(Leave(1, []))
        words = command.fail(
            "none", 3, *GIVEN, "--dsn", dsn(primary), "--models-from", dsn(standby), "--ray", "127.0.0.2:9"
        )
    finally:
        resume(there)
    assert (
        "--models-from: the standby is behind: it has not replayed what the server with the rows has written" in words
    )
    assert count(own, "picture is null") == 1
    assert painter.work(Leave(1, [])).painted == 1


@pytest.mark.parametrize("with_models", [True, False])
def test_a_standby_that_goes_away(
    primary: str,
    standby: str,
    nodes: Any,
    own: psycopg.Connection,
    there: psycopg.Connection,
    rng: np.random.Generator,
    with_models: bool,
) -> None:
    """Its end is the workers', whose rows are free: the same command goes on, also with a model from elsewhere."""
    want(own, 100, rng)
    servers = ["--dsn", dsn(primary), "--workers", 2, "--ray", nodes.address]
    with command.start("none", *GIVEN, *servers, "--models-from", dsn(standby)) as process:
        with own.transaction():
            own.execute("select from wanted for update")  # none is painted before both workers are there
            until(lambda: there.execute(f"{MINE} and query <> ''".encode()).rowcount == 3)  # and the command's own
        until(lambda: count(own, "painted > 0") > 0)
        there.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'sql-diffusion'")
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    lost = r"sql-diffusion: worker \d is gone, its rows are free again: --models-from: the connection was lost: .*"
    one, other, none, hint = (line for line in err.splitlines() if line != HELD)
    assert re.fullmatch(lost, one)
    assert re.fullmatch(lost, other)
    assert "no worker is left" in none
    assert "Run the same command again" in hint
    assert count(own, "picture is null") > 0
    more = ["--models-from", dsn(standby)] if with_models else []
    assert command.succeed("none", *GIVEN, *servers, *more).endswith("the query gives 0 more\n")
    assert different(own, plain(STEPS)) == []


def test_a_promoted_standby(
    primary: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator, standby: str
) -> None:
    """It has what it had, and goes on."""
    want(own, 100, rng)
    with new_cluster("-c sql_diffusion.threads=1", standby_of=primary) as promoted, connect(promoted) as there:
        servers = ["--dsn", dsn(primary), "--ray", nodes.address, "--models-from", dsn(promoted)]
        with command.start("none", *GIVEN, *servers) as process:
            until(lambda: count(own, "painted > 0") > 0)
            assert value(there, "select pg_promote()")
            left = count(own, "picture is null")
            out, err = process.communicate(timeout=60)
        assert left > 0
        assert (process.returncode, err) == (0, "")
    assert out == "Painted 100 rows; the query gives 0 more\n"
    assert different(own, plain(STEPS)) == []


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (3, ["--models-from", "host=/nowhere password=hush"], "--models-from: no connection to PostgreSQL: "),
        (3, ["--models-from", "host"], "--models-from: the DSN cannot be read: "),
        (3, ["--models-from", "{rows}"], "--models-from: the extension sql_diffusion is not in database rows"),
        (5, ["--models-from", "{standby}", "--model", "nobody"], '--models-from: model "nobody" does not exist'),
        (2, ["--models-from", "{standby}", "--backend", "sql"], "backend is sql, which paints in the server alone"),
    ],
)
def test_what_is_refused(
    primary: str, standby: str, own: psycopg.Connection, code: int, arguments: list[str], words: str
) -> None:
    """Before Ray is looked for, and before a row is claimed."""
    own.execute("insert into wanted (id, seed) values (1, 1)")
    given = [text.format(rows=dsn(primary, "rows"), standby=dsn(standby)) for text in arguments]
    told = command.fail("none", code, *GIVEN, "--ray", "127.0.0.2:9", "--dsn", dsn(primary), *given)
    assert words in told
    assert "hush" not in told
    assert count(own, "picture is null") == 1


def test_without_ray(primary: str, standby: str) -> None:
    words = command.fail("none", 2, *GIVEN, "--dsn", dsn(primary), "--models-from", dsn(standby))
    assert "--models-from is for --ray" in words


def painter_of(rows: str, models: str) -> DistantPainter:
    """A painter in this process."""
    job = Job(rows, QUERY.replace("seed", "seed, model"), UPDATE, ["id", "seed", "model"], None, "numpy", 1)
    job = job._replace(models_from=models)
    return DistantPainter(lasting(database.connect(rows)), job, lasting(model_server.connect(models)), 1)


def test_a_model_that_has_not_arrived(
    primary: str, own: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """No row is blamed for what the server with the rows has, and the one with the models, such as a subscriber, not yet."""
    monkeypatch.setattr(model_server, "PATIENCE", 0.2)
    own.execute("drop database if exists subscriber with (force)")
    own.execute("create database subscriber")
    with connect(primary, "subscriber") as there:
        there.execute("create extension sql_diffusion")
        want(own, 2, rng)
        own.execute("update wanted set model = case id when 1 then 'nobody' else 'plain' end")
        painter = painter_of(dsn(primary), dsn(primary, "subscriber"))
        with pytest.raises(Unable, match=r'^--models-from: model "plain" has not arrived'):
            painter.work(Leave(2, []))
        monkeypatch.setattr(model_server, "PATIENCE", 60)

        def arrive() -> None:
            with there.transaction():
                insert_model(there, "plain", random_unet(np.random.default_rng(5)))

        arrival = threading.Timer(0.5, arrive)
        arrival.start()
        report = painter.work(Leave(2, []))
        arrival.join()
    [failure] = report.failures
    assert (failure.row, failure.words) == ("id = 1", '--models-from: model "nobody" does not exist')
    assert report.painted == count(own, "picture is not null") == 1


def test_another_version(primary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sql_diffusion.engine.__version__", "0.9.0")
    with pytest.raises(Problem, match=r"^--models-from: the package sql_diffusion is 0\.9\.0 where this worker runs"):
        painter_of(dsn(primary), dsn(primary))


def test_a_lost_connection_blames_no_row(
    primary: str, standby: str, own: psycopg.Connection, there: psycopg.Connection
) -> None:
    """At whatever it was asked."""
    own.execute("insert into wanted (id, seed, model) values (1, 1, 'plain')")
    painter = painter_of(dsn(primary), dsn(standby))
    there.execute("select pg_terminate_backend(%s)", [painter.models.info.backend_pid])
    with pytest.raises(Lost, match=r"^--models-from: the connection was lost: "):
        painter.work(Leave(1, []))
    with pytest.raises(Lost, match=r"^--models-from: the connection was lost: "):  # of a worker that starts
        DistantPainter(painter.connection, painter.job, painter.models, 1)
    assert painter_of(dsn(primary), dsn(standby)).work(Leave(1, [])).painted == 1


def test_what_recovery_cancels_is_asked_again(standby: str, own: psycopg.Connection, there: psycopg.Connection) -> None:
    """max_standby_streaming_delay is 0 there: rows that the primary removes end the queries that could see them."""
    own.execute("drop table if exists moths")
    own.execute("create table moths as select n from generate_series(1, 100) n")
    until(lambda: there.execute("select to_regclass('moths') is not null").fetchone() == (True,))
    conflicts = "select confl_snapshot from pg_stat_database_conflicts where datname = current_database()"
    before, answers = value(there, conflicts), []
    with model_server.connect(dsn(standby)) as models:
        server = Server(models)
        plan = server.prepare("select count(*), pg_sleep(1) from pg_class where relname = $1", ["text"])
        active = "select state from pg_stat_activity where pid = %s"
        while value(there, conflicts) == before:
            asking = threading.Thread(target=lambda: answers.extend(server.execute(plan, ["moths"])))
            asking.start()
            until(lambda: there.execute(active, [models.info.backend_pid]).fetchone() == ("active",))
            own.execute("update moths set n = n + 1")
            own.execute("vacuum moths")
            asking.join()
            assert answers.pop()["count"] == 1


def test_several_standbys(standby: str) -> None:
    """Each worker finds its own, and not the one that the command has found."""
    given = f"host=/nowhere,{standby} user=postgres dbname=postgres load_balance_hosts=random"
    with model_server.connect(given) as models:
        sent = database.whole_dsn(models, given)
    assert conninfo_to_dict(sent)["host"] == f"/nowhere,{standby}"
    assert conninfo_to_dict(sent)["load_balance_hosts"] == "random"


def test_where_transactions_are_serializable(primary: str, standby: str, own: psycopg.Connection) -> None:
    """A hot standby has none."""
    own.execute("alter role postgres set default_transaction_isolation = 'serializable'")
    try:
        own.execute("insert into wanted (id, seed, model) values (1, 1, 'plain')")
        until(lambda: is_serializable(standby))
        assert painter_of(dsn(primary), dsn(standby)).work(Leave(1, [])).painted == 1
    finally:
        own.execute("alter role postgres reset default_transaction_isolation")


def is_serializable(socket: str) -> bool:
    with connect(socket) as connection:
        return connection.execute("show default_transaction_isolation").fetchone() == ("serializable",)
