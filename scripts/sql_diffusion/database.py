"""The connection: found as psql finds it, and what the server says turned into sentences."""

import getpass
import re
import sys
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from . import arrays
from .errors import CHECKPOINT, DATABASE, MODEL, USAGE, Lost, Problem

Connection = psycopg.Connection[tuple[Any, ...]]

# Text is UTF-8 on the way, whatever the database's encoding is and PGCLIENTENCODING says: in SQL_ASCII, too, names are letters.
OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "fallback_application_name": "sql-diffusion",
    "client_encoding": "UTF8",
}


def connect(dsn: str, option: str = "--dsn") -> Connection:
    """A connection in autocommit mode. What the DSN leaves out comes from PGHOST and its kin, PGSERVICE, ~/.pgpass.

    option: of the command, by which the DSN is given.
    """
    try:
        connection = psycopg.connect(dsn, **OPTIONS)
    except psycopg.OperationalError as error:
        if not (wants_password(error) and sys.stdin.isatty()):
            raise unreachable(error, option) from error
        connection = connect_with_password(dsn, option)
    except psycopg.ProgrammingError as error:
        raise Problem(
            f"the DSN cannot be read: {str(error).strip()}",
            "Write it as 'host=... dbname=...' or as postgresql://user@host/database.",
            DATABASE,
        ) from error
    arrays.register(connection)
    return connection


def whole_dsn(connection: Connection, dsn: str = "") -> str:
    """Where a connection leads, with what came from this process's environment, or a service's file, or was typed: workers have
    none of these.

    dsn: what it was made by; of several hosts in it the connection knows its own alone.
    """
    hosts = {name: value for name, value in conninfo_to_dict(dsn).items() if name in ("host", "hostaddr", "port")}
    known = {name: value for name, value in connection.info.get_parameters().items() if not name.startswith("service")}
    password = {"password": connection.info.password} if connection.info.password else {}
    return make_conninfo("", **{**known, **password, **hosts})


def wants_password(error: psycopg.OperationalError) -> bool:
    """Whether the server asked for a password and was given none, or another one."""
    if error.pgconn is None:
        return False
    # A connection that was not made has no SQLSTATE: that it was the password, and not the database's name, is in the words alone.
    is_wrong = error.pgconn.used_password and "password authentication failed" in str(error)
    return error.pgconn.needs_password or is_wrong


def connect_with_password(dsn: str, option: str) -> Connection:
    """Asks for the password where nothing supplied one, or PGPASSWORD, the DSN or ~/.pgpass a wrong one."""
    prompt = "Password: " if option == "--dsn" else f"Password for {option}: "
    try:
        return psycopg.connect(dsn, **OPTIONS, password=getpass.getpass(prompt))
    except psycopg.OperationalError as error:
        raise unreachable(error, option) from error


def unreachable(error: psycopg.OperationalError, option: str) -> Problem:
    """No connection was made."""
    reason = " ".join(str(error).removeprefix("connection failed: ").removeprefix("connection is bad: ").split())
    if wants_password(error):
        return Problem(
            f"no connection to PostgreSQL: {reason}",
            "Give the role's password in ~/.pgpass or PGPASSWORD; in a terminal, where neither fits, this command asks for it.",
            DATABASE,
        )
    return Problem(
        f"no connection to PostgreSQL: {reason}",
        f"Say where it is with {option} 'host=... dbname=... user=...', or with PGHOST, PGDATABASE and PGUSER as for psql.",
        DATABASE,
    )


def is_lost(error: Exception) -> bool:
    """Whether it is the connection that failed."""
    if isinstance(error, psycopg.Error):
        return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    return isinstance(error, Lost)


def explain(error: psycopg.Error) -> Problem:
    """What the server refused, in its own words, with the next step where it is known."""
    message = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if error.sqlstate == "42704":  # unknown model
        return Problem(message, error.diag.message_hint or "See what is loaded: sql-diffusion list", MODEL)
    if error.sqlstate == "22023":  # a setting out of its range
        return Problem(message, error.diag.message_hint, USAGE)
    if error.sqlstate == "0A000":  # a setting that is not run
        return Problem(message, error.diag.message_hint or "doc/reference.md says which settings run.", CHECKPOINT)
    if error.sqlstate == "42501":  # not allowed
        hint = "Connect as the role that ran CREATE EXTENSION sql_diffusion, which owns the models, or as one that it granted them to."
        if re.search(r"\b(claimable_|stored_)?jobs\b", message):
            hint = "Who owns the extension grants the queue: SELECT and UPDATE on sql_diffusion.jobs and sql_diffusion.claimable_jobs, SELECT on sql_diffusion.stored_jobs."
        return Problem(message, error.diag.message_hint or hint, DATABASE)
    if error.sqlstate in ("42883", "42P01", "42703"):  # a function, table or column that is not there
        hint = "The extension seems to be older than this command: ALTER EXTENSION sql_diffusion UPDATE"
        return Problem(message, hint, DATABASE)
    if error.sqlstate == "25006":  # a standby, or default_transaction_read_only
        hint = "On a standby: connect to its primary. Else: PGOPTIONS='-c default_transaction_read_only=off' and the same command."
        return Problem(message, hint, DATABASE)
    if error.sqlstate == "57014":  # statement_timeout, or cancelled from elsewhere
        return Problem(message, "Nothing was changed. Run it again, with a longer statement_timeout.", DATABASE)
    if is_lost(error):
        return Lost(f"the connection was lost: {message}", "Nothing was changed. Run the same command again.", DATABASE)
    return Problem(message, error.diag.message_hint or error.diag.message_detail, DATABASE)


def plain_schema(connection: Connection) -> str | None:
    """The schema that the plain script put the verbs into, where that made them, without CREATE EXTENSION.

    Only what belongs to the database's owner or to a role of this one's is taken for it: anybody may make such functions.
    """
    row = connection.execute(
        "select n.nspname from pg_catalog.pg_proc p "
        "join pg_catalog.pg_namespace n on n.oid = p.pronamespace "
        "join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass and d.objid = p.oid "
        "join pg_catalog.pg_database b on b.datname = pg_catalog.current_database() "
        "where p.proname = 'ddpm_generate' and n.nspname <> 'sql_diffusion' "
        "and d.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass "
        "and d.refobjid = pg_catalog.to_regprocedure('sql_diffusion.choose_backend(text)') "
        "and (p.proowner = b.datdba or pg_catalog.pg_has_role(p.proowner, 'usage')) "
        "and not exists (select from pg_catalog.pg_extension e where e.extname = 'sql_diffusion') "
        "order by n.nspname limit 1"
    ).fetchone()
    return None if row is None else str(row[0])


def extension_schema(connection: Connection) -> str:
    """The schema that the verbs are in. Raises a Problem where the extension is not in this database."""
    row = connection.execute(
        "select n.nspname from pg_catalog.pg_extension e "
        "join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'sql_diffusion'"
    ).fetchone()
    if row is None:
        plain = plain_schema(connection)
        if plain is not None:
            return plain
        raise Problem(
            f"the extension sql_diffusion is not in database {connection.info.dbname}",
            f'psql --dbname="{connection.info.dbname}" --command="CREATE EXTENSION sql_diffusion"   '
            "(sql-diffusion doctor says what else is missing)",
            DATABASE,
        )
    return str(row[0])


def backend_schema(connection: Connection, backend: str | None) -> str:
    """The schema of the layers that the extension chooses for a backend: of its own, or of the NumPy extension's two."""
    row: Any = connection.execute("select sql_diffusion.choose_backend(%s)", [backend]).fetchone()
    return {"sql": "sql_diffusion", "numpy": "sql_diffusion_numpy", "torch": "sql_diffusion_torch"}[row[0]]


def function(schema: str, name: str) -> sql.Identifier:
    """A function's name, quoted."""
    return sql.Identifier(schema, name)
