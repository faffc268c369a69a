"""sql-diffusion run: every row of a query painted once, whatever dies on the way, as the verb paints it alone."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import helper_command as command
from painting import QUERY, SLOW, UPDATE, count, different, make_wanted, new_painters, plain, until, want

pytest_plugins = ["text_pipelines"]


@pytest.fixture(scope="module")
def db(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[str]:
    with new_painters(pipelines, folders) as name:
        yield name


@pytest.fixture
def own(db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dbname=db, autocommit=True) as connection:
        make_wanted(connection)
        yield connection


def begin(db: str, own: psycopg.Connection, *arguments: object) -> subprocess.Popen[str]:
    """Starts a run with plain and waits for its first rows."""
    process = command.start(
        db, "run", "--query", QUERY, "--update", UPDATE, "--model", "plain", "--steps", SLOW, *arguments
    )
    until(lambda: count(own, "picture is not null") > 0)
    return process


def test_prompts_classes_and_models(db: str, own: psycopg.Connection) -> None:
    """Each row as it says; the other columns reach the update as they are."""
    own.execute(
        """insert into wanted (id, seed, prompt, negative_prompt, class_label, model, notes) values
           (1, 7, 'ein größerer Falter', null, null, 'words', '{"a": [1, "%"]}'), (2, 8, 'a moth', 'rain', null, 'words', null),
           (3, -9, null, null, 4, 'classes', null), (4, 10, null, null, null, null, null), (5, 7, 'a moth', null, null, 'words', null)"""
    )
    query = "select *, 'x%s' as percent from wanted where picture is null -- by key"
    query = query.replace("*", "id, seed, prompt, negative_prompt, class_label, model, notes")
    update = f"{UPDATE} and notes is not distinct from %(notes)s and %(percent)s = 'x%%s'"
    out = command.succeed(
        db, "run", "--query", query, "--update", update, "--model", "plain", "--steps", 2, "--batch", 4
    )
    assert out == "Painted 5 rows; the query gives 0 more\n"
    call = """case coalesce(model, 'plain')
                when 'words' then text_to_image(prompt, seed, 'words', negative_prompt, num_inference_steps => 2)
                when 'classes' then ddpm_generate(seed, class_label, model => 'classes', num_inference_steps => 2)
                else ddpm_generate(seed, model => 'plain', num_inference_steps => 2) end"""
    assert different(own, call) == []


def test_two_workers_and_a_limit(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    want(own, 13, rng)
    given = ["run", "--query", QUERY + ";", "--update", UPDATE, "--model", "plain", "--steps", 2, "--workers", 2]
    assert command.succeed(db, *given, "--limit", 6) == "Painted 6 rows; the query gives 7 more\n"
    assert count(own, "painted = 1") == 6
    assert command.succeed(db, *given, "--batch", 3) == "Painted 7 rows; the query gives 0 more\n"
    assert different(own, plain(2)) == []
    assert command.succeed(db, *given) == "Painted 0 rows; the query gives 0 more\n"


def test_a_killed_worker_and_a_killed_backend(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """The others go on; with none left the command says so, and the same command finishes."""
    want(own, 24, rng)
    with begin(db, own, "--workers", 3, "--batch", 2) as process:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        children = [int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line]
        assert len(children) == 3
        os.kill(children[0], signal.SIGKILL)
        before = count(own, "picture is not null")
        until(lambda: count(own, "picture is not null") > before)
        painters = "select pid from pg_stat_activity where datname = current_database() and application_name = 'sql-diffusion' and state <> 'idle'"
        until(
            lambda: (
                process.poll() is not None
                or own.execute(f"select pg_terminate_backend(pid) from ({painters}) p".encode()) is None
            )
        )
        _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert "Traceback" not in err
    assert "its process ended with exit code -9" in err
    assert "terminating connection due to administrator command" in err
    left = count(own, "picture is null")
    assert left > 0
    given = ["run", "--query", QUERY, "--update", UPDATE, "--model", "plain", "--steps", SLOW]
    assert command.succeed(db, *given) == f"Painted {left} rows; the query gives 0 more\n"
    assert different(own, plain(SLOW)) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_stop(db: str, own: psycopg.Connection, rng: np.random.Generator, sent: signal.Signals) -> None:
    """Whole batches are there, and nothing is held."""
    want(own, 100, rng)
    with begin(db, own, "--batch", 2, "--workers", 2) as process:
        process.send_signal(sent)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping after the rows at hand" in err
    painted = count(own, "picture is not null")
    assert 0 < painted < 100
    assert out == f"Painted {painted} rows; the query gives {100 - painted} more\n"
    own.execute("select from wanted for update nowait")
    own.execute("delete from wanted where picture is null and painted = 0")
    assert different(own, plain(SLOW)) == []


def test_a_server_that_ends_idle_sessions(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """The parent's has nothing to do until all is painted."""
    want(own, 20, rng)
    with begin(db, own, "--batch", 2) as process:
        first = """select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()
                     and application_name = 'sql-diffusion' order by backend_start limit 1"""
        own.execute(first)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "Painted 20 rows; the query gives 0 more\n", "")


def test_rows_that_fail(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """They are told once, by any number of workers, and stay; the others of their batch are painted."""
    want(own, 9, rng)
    own.execute("update wanted set class_label = id % 5, model = 'classes'")
    own.execute("update wanted set class_label = 5 where id = 2")
    own.execute("update wanted set seed = null where id = 5")
    own.execute("update wanted set model = 'nobody' where id = 8")
    query = QUERY.replace("seed", "seed, class_label, model")
    given = ["run", "--query", query, "--update", UPDATE, "--steps", 2, "--workers", 2]
    result = command.run(db, *given)
    assert result.returncode == 1
    assert result.stdout == "Painted 6 rows, 3 could not be; the query gives 3 more\n"
    assert sorted(result.stderr.splitlines()) == [
        "sql-diffusion: id = 2: sql_diffusion: class_label is 5, expected from 0 to 4",
        "sql-diffusion: id = 5: seed is null, expected an integer",
        'sql-diffusion: id = 8: model "nobody" does not exist',
    ]
    own.execute("update wanted set class_label = 1, seed = id, model = 'classes' where picture is null")
    command.succeed(db, *given)
    assert different(own, "ddpm_generate(seed, class_label, model => 'classes', num_inference_steps => 2)") == []


def test_rows_that_fail_alike(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """Ten of them are told of, and all are counted; each row that fails in another way is told of, too."""
    want(own, 15, rng)
    own.execute("update wanted set seed = null where id <= 12")
    own.execute("update wanted set model = 'nobody' where id > 14")
    query = QUERY.replace("seed", "seed, coalesce(model, 'plain') as model")
    result = command.run(db, "run", "--query", query, "--update", UPDATE, "--steps", 2)
    assert result.returncode == 1
    assert result.stdout == "Painted 2 rows, 13 could not be; the query gives 13 more\n"
    told = result.stderr.splitlines()
    assert sum(line.endswith(": seed is null, expected an integer") for line in told) == 10
    assert "sql-diffusion: more rows have failed with the same words, and are counted alone" in told
    assert 'sql-diffusion: id = 15: model "nobody" does not exist' in told
    assert len(told) == 12


def test_a_row_that_comes_again(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    want(own, 3, rng)
    given = ["run", "--model", "plain", "--steps", 1, "--query"]
    err = command.fail(db, 2, *given, "select id, seed from wanted order by id", "--update", UPDATE)
    assert "gives a row again that has been painted: id = 1" in err
    assert count(own, "painted > 1") == 0
    # what tells a row apart is what the update finds it by, whatever else it changes
    own.execute("update wanted set picture = null, painted = 0")
    query = "select id, seed, painted, picture is null as is_new from wanted order by id"
    err = command.fail(db, 2, *given, query, "--update", UPDATE.replace("painted + 1", "%(painted)s + 1"))
    assert "gives a row again that has been painted: id = 1, painted = 1" in err
    assert count(own, "painted > 1") == 0
    own.execute("update wanted set picture = null, painted = 0")
    err = command.fail(db, 2, *given, QUERY, "--update", UPDATE + " and false")
    assert "the update changed no row" in err
    result = command.run(db, *given, QUERY, "--update", UPDATE + " and id <> 2")
    assert (result.returncode, result.stderr) == (1, "sql-diffusion: id = 2: the update changed no row\n")
    assert count(own, "painted = 1") == 2


@pytest.mark.parametrize(
    ("query", "update", "words"),
    [
        (QUERY + " for update", UPDATE, "it locks them itself"),
        (QUERY + " limit 2", UPDATE, "it has a LIMIT"),
        ("select 1 as id, 2 as seed", UPDATE, "there is no table's row in it"),
        ("select id, max(seed) as seed from wanted group by id", UPDATE, "FOR UPDATE is not allowed with GROUP BY clause"),
        ("select distinct id, seed from wanted", UPDATE, "FOR UPDATE is not allowed with DISTINCT clause"),
        ("delete from wanted returning id, seed", UPDATE, "the query is refused: syntax error"),
        ("select id, seed from wanted; drop table wanted", UPDATE, "the query is refused: cannot insert multiple commands"),
        ("selct id, seed from wanted", UPDATE, 'the query is refused: syntax error at or near "selct"'),
        ("select id, sed as seed from wanted", UPDATE, 'column "sed" does not exist'),
        ("select id from wanted", UPDATE, "the query has no column seed"),
        ("select id, seed, picture as png from wanted", UPDATE, "expected different names other than png"),
        ("select id, seed, prompt from wanted", UPDATE, 'model "plain" takes no prompt, but the query has a column prompt'),
        (QUERY, "update wanted set painted = 1 where id = %(id)s", "the update has no %(png)s"),
        (QUERY, "update wanted set picture = %(png)s", "the update names no column of the query"),
        (QUERY, "update wanted set picture = %(png)s where id = %(id)s and prompt like '5%'", "(a percent sign of its own is %%)"),
        (QUERY, "update wanted set picture = %(png)s where id = %(id)s and seed = %(key)s", "the update is refused: query parameter missing: key"),
        (QUERY, "update wanted set image = %(png)s where id = %(id)s", 'column "image" of relation "wanted" does not exist'),
    ],
)  # fmt: skip
def test_what_is_refused(db: str, own: psycopg.Connection, query: str, update: str, words: str) -> None:
    """Before anything is painted."""
    own.execute("insert into wanted (id, seed) values (1, 1)")
    assert words in command.fail(db, 2, "run", "--query", query, "--update", update, "--model", "plain", "--steps", 1)
    assert count(own, "picture is null") == 1


def test_an_ordinary_role(db: str, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """It needs to read and update its table, and nothing else."""
    role = f"painter_{secrets.token_hex(4)}"
    want(own, 3, rng)
    given = ["run", "--query", QUERY, "--update", UPDATE, "--model", "plain", "--steps", 2, "--dsn", f"user={role}"]
    own.execute(f"create role {role} login".encode())
    try:
        own.execute(f"grant select on wanted to {role}".encode())
        assert re.search("the query is refused: permission denied for table wanted", command.fail(db, 3, *given))
        own.execute(f"grant update (picture, painted) on wanted to {role}".encode())
        assert command.succeed(db, *given) == "Painted 3 rows; the query gives 0 more\n"
        assert different(own, plain(2)) == []
    finally:
        own.execute(f"drop owned by {role}".encode())
        own.execute(f"drop role {role}".encode())
