"""The server of the models where it is another one than that of the rows: `sql-diffusion run --ray ADDRESS --models-from DSN`.

It is a hot standby of the server of the rows, or any server that has the models. A standby is waited for until it has what the
rows' server had written when the rows were claimed, so that pictures are those of the models that were there then; of another
server nobody knows what it is to have, and it is asked as it is. What it cannot do for the moment is no fault of a row.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from . import database
from .database import Connection, explain, extension_schema
from .errors import DATABASE, MODEL, Problem, Unable
from .generate import takes_prompt

OPTION = "--models-from"
PATIENCE = 60.0  # seconds, in which it has to catch up
LOOK = 0.1  # seconds, after which it is asked again whether it has
HERE = "select s.system_identifier, case when not pg_is_in_recovery() then pg_current_wal_flush_lsn() end from pg_control_system() s"
THERE = """select s.system_identifier = %s and pg_is_in_recovery() and pg_last_wal_replay_lsn() < %s::pg_lsn
           from pg_control_system() s"""


def connect(dsn: str) -> Connection:
    """A connection to it, which it takes for reading alone."""
    connection = database.connect(dsn, OPTION)
    # A hot standby has no serializable transactions, and refuses all queries where that is the default.
    connection.execute("set default_transaction_isolation = 'read committed'")
    return connection


@contextmanager
def connected(dsn: str, rows: Connection) -> Iterator[Connection]:
    """A connection to it for as long as the context lasts; it has the extension, and what the rows' server has written."""
    state = written(rows)
    with told_apart(dsn):
        connection = connect(dsn)
    with connection:
        with told_apart(dsn):
            catch_up(connection, state)
            extension_schema(connection)
        yield connection


@contextmanager
def told_apart(dsn: str | None) -> Iterator[None]:
    """What goes wrong in here is told as what it is, that server's, where there is one."""
    try:
        yield
    except (psycopg.Error, Problem) as error:
        if dsn is None:
            raise
        raise named(error) from error


def named(error: psycopg.Error | Problem, kind: type[Problem] | None = None) -> Problem:
    """A problem of that server, which says so; of the same kind where no other is given."""
    problem = explain(error) if isinstance(error, psycopg.Error) else error
    hint = problem.hint
    if problem.exit_code == MODEL:
        hint = "See what that server has, sql-diffusion list --dsn DSN; what was loaded a moment ago may not have arrived there."
    return (kind or type(problem))(f"{OPTION}: {problem.message}", hint, problem.exit_code)


def written(rows: Connection) -> tuple[Any, ...]:
    """How far the rows' server has written: which one it is, and where in its log."""
    row = rows.execute(HERE).fetchone()
    assert row is not None
    return row


def catch_up(models: Connection, state: tuple[Any, ...]) -> None:
    """Waits until a standby of the rows' server has replayed what that had written; another server is not waited for."""

    def has_replayed() -> bool:
        row: Any = models.execute(THERE, state).fetchone()
        return not row[0]

    wait(
        has_replayed,
        "the standby is behind: it has not replayed what the server with the rows has written",
        "See pg_stat_replication there; on the standby, whether replay is paused, recovery_min_apply_delay and max_standby_streaming_delay.",
    )


def wait_for_model(rows: Connection, models: Connection, model: str) -> None:
    """Waits for a model that the rows' server has; for one that it has not, as far as the role may see, there is no waiting."""
    has_model = False
    with suppress(psycopg.Error), rows.transaction():  # it need not have the extension
        has_model = takes_prompt(rows, model) is not None
    if has_model:
        wait(
            lambda: takes_prompt(models, model) is not None,
            f'model "{model}" has not arrived, which the server with the rows has',
            "Let that server follow by replication, or load the model there: sql-diffusion load --dsn DSN",
        )


def wait(condition: Callable[[], bool], words: str, hint: str) -> None:
    """Waits for something that the server has to have; Unable where it does not come in time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Unable(f"{words}, within {PATIENCE:g} seconds", hint, DATABASE)
        time.sleep(LOOK)
