"""The extension's engines, NumPy's and PyTorch's, in this process: the server is asked for the model and nothing else.

Their package, sql_diffusion_numpy, is what the extension runs in a session. There it asks its questions of plpy; here a Server
stands for that, and takes them to the same functions in SQL over a connection. So what is refused, schedules and tokens are
the server's, and the networks' own passes are this machine's.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from sql_diffusion_numpy import boundary, functions, threads, torch_functions

from . import __version__
from .database import Connection
from .errors import DATABASE, USAGE, Problem
from .run import VERBS

CONFLICTS = ("40001", "40P01")  # with the recovery of a standby, which cancels what stands in its way
TRIES = 10  # of a query that it cancels
DEFAULTS = {"guidance_rescale": 0}  # of what is not null where nothing is said


class Error(Exception):
    """plpy.Error, which the engines raise to refuse something."""

    sqlstate: str | None = None
    hint: str | None = None


class SPIError(Error):
    """plpy.SPIError, what the server refused on its own."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(error.diag.message_primary)
        self.sqlstate = error.sqlstate
        self.spidata = (None, error.diag.message_detail, error.diag.message_hint)


class Server:
    """What the engines ask of plpy."""

    in_server = False
    Error = Error
    SPIError = SPIError

    def __init__(self, connection: Connection, check: Callable[[], None] = lambda: None) -> None:
        self.connection, self.check = connection, check

    def prepare(self, query: str, types: list[str]) -> tuple[str, int]:
        """A query with $1, $2, as psycopg writes it, each of its type; and how many there are."""
        text = re.sub(r"\$(\d+)", lambda found: f"%({found[1]})s::{types[int(found[1]) - 1]}", query.replace("%", "%%"))
        return text, len(types)

    def execute(self, plan: tuple[str, int], values: list[Any]) -> list[dict[str, Any]]:
        """The rows of a query, in the binary form, since the numbers of a text are rounded. Engines ask one now and then."""
        self.check()
        text, count = plan
        parameters = {str(number): value for number, value in zip(range(1, count + 1), values, strict=True)}
        try:
            return self.ask(text.encode(), parameters, prepare=True)
        except psycopg.Error as error:
            if error.sqlstate in boundary.OURS:
                raise SPIError(error) from None
            raise

    def ask(
        self, query: Any, parameters: dict[str, Any], prepare: bool | None = None, tries: int = TRIES
    ) -> list[dict[str, Any]]:
        """The rows of a query. What a standby cancels in favour of its recovery is asked again: it changes nothing."""
        try:
            with self.connection.cursor(binary=True, row_factory=dict_row) as cursor:
                return cursor.execute(query, parameters, prepare=prepare).fetchall()
        except psycopg.Error as error:
            alone = self.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            if not (error.sqlstate in CONFLICTS and alone and tries > 1):
                raise
        return self.ask(query, parameters, prepare, tries - 1)

    def notice(self, message: str) -> None:
        """Nobody is there to be told."""


def check_version(connection: Connection) -> None:
    """Another version's engine may ask what this server does not know, and paint in another way."""
    row = connection.execute(
        "select e.extversion from pg_catalog.pg_extension e where e.extname = 'sql_diffusion'"
    ).fetchone()
    if row is not None and "unknown" != __version__ != row[0]:
        raise Problem(
            f"the package sql_diffusion is {__version__} where this worker runs, and the extension is {row[0]}",
            f"pip install the package of version {row[0]} on each machine, or ALTER EXTENSION sql_diffusion UPDATE",
            DATABASE,
        )


class Engine:
    """Paints with a model of the server."""

    def __init__(self, connection: Connection, count: int, check: Callable[[], None] = lambda: None) -> None:
        """count: of threads; check: raises an error where a call is to end."""
        threads.load_numpy()
        check_version(connection)
        connection.execute("select set_config('sql_diffusion.threads', %s, false)", [str(count)])
        self.server = Server(connection, check)

    def pictures(self, verb: str, settings: dict[str, Any]) -> Iterator[bytes]:
        """The PNGs of a call of a verb, with the settings that it has; backend is numpy or torch."""
        backend = settings.pop("backend", None)
        kinds = VERBS[verb]
        unknown = sorted(settings.keys() - kinds.keys())
        if unknown:
            raise Problem(f"{verb} takes no {unknown[0]}", None, USAGE)
        # The server reads them as it would read the arguments of the verb
        columns = sql.SQL(", ").join(
            sql.SQL("{}::{} as {}").format(sql.Placeholder(key), sql.SQL(kinds[key]), sql.Identifier(key))
            for key in settings
        )
        [row] = self.server.ask(sql.SQL("select {}").format(columns), settings)
        arguments = [row.get(key, DEFAULTS.get(key)) for key in kinds]
        with problems():
            for *_, picture in self.call(backend, f"{verb}_many", *arguments):
                yield functions.image_png(self.server, picture, 1, 6)

    def check_painter(self, backend: str | None) -> None:
        """Raises a Problem where it can paint nothing, whatever the model is, as sql_diffusion.check_painter does in a session."""
        with problems():
            self.server.ask("select sql_diffusion.check_painter('sql')", {})
            self.call(backend, "check_painter")

    def call(self, backend: str | None, name: str, *arguments: Any) -> Any:
        """What a function of the engine gives."""
        if backend == "torch":
            return torch_functions.call(self.server, name, *arguments)
        return getattr(functions, name)(self.server, *arguments)


@contextmanager
def problems() -> Iterator[None]:
    """What an engine refuses, in the words that the server has for it: the function's name is the exception's."""
    try:
        yield
    except Error as error:
        raise Problem(f"{type(error).__name__}: {error}", error.hint, USAGE) from error
    except (MemoryError, RuntimeError) as error:  # the machine's, or PyTorch's: of this call, as in a server
        raise Problem(f"{type(error).__name__}: {error}", None, DATABASE) from error
    finally:
        threads.set_check(None)  # this process may run layers for others, long after the connection


def backend_here(connection: Connection, backend: str | None) -> str:
    """The engine that is asked for, else the setting sql_diffusion.backend, else NumPy's."""
    row: Any = connection.execute(
        "select coalesce(%s, nullif(current_setting('sql_diffusion.backend', true), ''), 'auto')", [backend]
    ).fetchone()
    if row[0] not in ("auto", "numpy", "torch"):
        raise Problem(
            f"backend is {row[0]}, which paints in the server alone, expected numpy or torch",
            "Name one: --backend numpy",
            USAGE,
        )
    return "numpy" if row[0] == "auto" else str(row[0])
