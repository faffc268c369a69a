"""Looks at a database and says what is there, what is missing, and the command that mends it."""

import importlib.util
from typing import Any, NamedTuple

import psycopg

from . import __version__
from .database import Connection, plain_schema

INSTALL_NUMPY = "apt-get install python3-numpy libopenblas0-pthread   # or its like, on the server"
OLDEST = 14  # SQL-standard function bodies came with it

# What the NumPy extension's own doctor says, in the words of this one.
STATES = {"ok": "ok", "warning": "optional", "error": "missing"}


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    state: str  # ok, optional (something could be better) or missing (something does not work)
    detail: str
    mend: str | None = None


def examine(connection: Connection) -> list[Finding]:
    """Everything that can be looked at with this role, in the order in which it would be mended."""
    version = connection.info.server_version // 10000
    extensions: dict[str, tuple[str, str | None]] = {
        name: (available, installed)
        for name, available, installed in connection.execute(
            "select a.name, a.default_version, a.installed_version from pg_catalog.pg_available_extensions a "
            "where a.name in ('sql_diffusion', 'sql_diffusion_numpy', 'plpython3u')"
        ).fetchall()
    }
    plain = plain_schema(connection)
    # What the plain script made is taken into the extension, which the one in NumPy requires.
    whole = (
        f"CREATE EXTENSION sql_diffusion SCHEMA \"{plain}\" VERSION 'unpackaged'; ALTER EXTENSION sql_diffusion UPDATE;"
        if plain is not None and "sql_diffusion" in extensions
        else None
    )
    findings = [
        Finding(
            "PostgreSQL",
            "ok",
            f"{connection.info.parameter_status('server_version')}, database {connection.info.dbname}",
        )
        if version >= OLDEST
        else Finding("PostgreSQL", "missing", f"version {version}", f"Upgrade to PostgreSQL {OLDEST} or later."),
        Finding("sql_diffusion", "ok", "made by its plain script, without CREATE EXTENSION", whole)
        if plain is not None
        else extension(extensions, "sql_diffusion", "missing", "CREATE EXTENSION sql_diffusion;", "make install"),
        *helper(extensions),
        language(extensions, version),
        extension(
            extensions,
            "sql_diffusion_numpy",
            "optional",
            ("" if whole is None else f"{whole} ")
            + "CREATE EXTENSION sql_diffusion_numpy CASCADE;   -- as a superuser; pictures a hundred times sooner",
            "make install",
        ),
        *numpy(connection, extensions),
        *(
            tables(connection)
            if plain is not None or extensions.get("sql_diffusion", ("", None))[1] is not None
            else []
        ),
        *torch(),
    ]
    return findings


def extension(
    extensions: dict[str, tuple[str, str | None]], name: str, severity: str, create: str, install: str
) -> Finding:
    """Whether an extension's files are on the server, and which version of it is in the database."""
    if name not in extensions:
        return Finding(
            name, severity, "its files are not on the server", f"{install}   # in the sources, on the server"
        )
    available, installed = extensions[name]
    if installed is None:
        return Finding(name, severity, f"{available} is on the server, not in this database", create)
    if installed != available:
        return Finding(
            name,
            "optional",
            f"{installed} in this database, {available} on the server",
            f"ALTER EXTENSION {name} UPDATE;",
        )
    return Finding(name, "ok", installed)


def helper(extensions: dict[str, tuple[str, str | None]]) -> list[Finding]:
    """Whether this command is of the extension's version."""
    installed = extensions.get("sql_diffusion", ("", None))[1]
    if __version__ == "unknown" or installed is None or installed == __version__:
        return [Finding("sql-diffusion", "ok", f"{__version__}, this command")]
    return [
        Finding(
            "sql-diffusion", "optional", f"{__version__}, the extension {installed}", "pip install .   # in its sources"
        )
    ]


def language(extensions: dict[str, tuple[str, str | None]], version: int) -> Finding:
    """Whether PL/Python is there."""
    if "plpython3u" not in extensions:
        return Finding(
            "plpython3u",
            "optional",
            "not on the server",
            f"apt-get install postgresql-plpython3-{version}   # or its like",
        )
    installed = extensions["plpython3u"][1]
    return Finding("plpython3u", "ok", installed or "on the server; comes with sql_diffusion_numpy CASCADE")


def numpy(connection: Connection, extensions: dict[str, tuple[str, str | None]]) -> list[Finding]:
    """What the NumPy extension says of its server: Python, NumPy, BLAS and how fast that is, threads, cache."""
    if extensions.get("sql_diffusion_numpy", ("", None))[1] is None:
        return []
    try:
        rows = connection.execute('select d."check", d.status, d.detail from sql_diffusion_numpy.doctor() d').fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        return [Finding("NumPy", "ok", f"not looked at: {error.diag.message_primary}")]
    except psycopg.Error as error:
        return [Finding("NumPy", "missing", str(error.diag.message_primary), error.diag.message_hint or INSTALL_NUMPY)]
    return [Finding(check, STATES[status], detail) for check, status, detail in rows]


def tables(connection: Connection) -> list[Finding]:
    """Which models are loaded, and whether this role may load more."""
    names = [
        row[0] for row in connection.execute("select m.name from sql_diffusion.models m order by m.name").fetchall()
    ]
    row: Any = connection.execute(
        "select pg_catalog.has_table_privilege('sql_diffusion.models', 'insert') "
        "and pg_catalog.has_table_privilege('sql_diffusion.models', 'delete') "
        "and pg_catalog.has_column_privilege('sql_diffusion.models', 'sha256', 'update') "
        "and pg_catalog.has_table_privilege('sql_diffusion.components', 'insert') "
        "and pg_catalog.has_table_privilege('sql_diffusion.parameters', 'insert'), "
        "pg_catalog.pg_get_userbyid(c.relowner), current_user "
        "from pg_catalog.pg_class c where c.oid = 'sql_diffusion.parameters'::pg_catalog.regclass"
    ).fetchone()
    may_load, owner, role = row
    return [
        Finding("models", "ok", ", ".join(names))
        if names
        else Finding("models", "missing", "none is loaded", "sql-diffusion load gnokit/ddpm-butterflies-64"),
        Finding("rights", "ok", f"{role} may generate and load")
        if may_load
        else Finding("rights", "ok", f"{role} may generate; {owner} may load"),
    ]


def torch() -> list[Finding]:
    """What `verify` needs on this side."""
    absent = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if absent:
        detail = f"{' and '.join(absent)} not installed here; only verify needs them"
        return [Finding("diffusers", "ok", detail)]
    return [Finding("diffusers", "ok", "installed here; verify can run")]
