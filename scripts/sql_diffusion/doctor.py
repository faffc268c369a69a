"""Looks at a database and says what is there, what is missing, and the command that mends it."""

import importlib.util
from typing import Any, NamedTuple

import psycopg

from . import __version__
from .database import Connection

OLDEST = 14  # SQL-standard function bodies came with it

# Run in the server: NumPy's version, and which BLAS it multiplies matrices with.
LOOK_AT_NUMPY = """
do language plpython3u $$
try:
    import numpy
    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    with open("/proc/self/maps") as maps:
        libraries = sorted({line.split("/")[-1].strip() for line in maps if "blas" in line.lower() and ".so" in line})
    plpy.notice("%s|%s" % (numpy.__version__, " ".join(libraries)))
except ImportError:
    plpy.notice("|")
$$
"""


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
    findings = [
        Finding(
            "PostgreSQL",
            "ok",
            f"{connection.info.parameter_status('server_version')}, database {connection.info.dbname}",
        )
        if version >= OLDEST
        else Finding("PostgreSQL", "missing", f"version {version}", f"Upgrade to PostgreSQL {OLDEST} or later."),
        extension(extensions, "sql_diffusion", "missing", "CREATE EXTENSION sql_diffusion;", "make install"),
        *helper(extensions),
        language(extensions, version),
        extension(
            extensions,
            "sql_diffusion_numpy",
            "optional",
            "CREATE EXTENSION sql_diffusion_numpy CASCADE;   -- as a superuser; pictures hundreds of times sooner",
            "make install",
        ),
        *numpy(connection, extensions),
        *tables(connection, extensions),
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
    """Which NumPy the server's Python has. Only a superuser may ask, and only where PL/Python is in the database."""
    if extensions.get("plpython3u", ("", None))[1] is None:
        return []
    said: list[str] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        said.append(notice.message_primary or "")

    connection.add_notice_handler(listen)
    try:
        connection.execute(LOOK_AT_NUMPY)
    except psycopg.errors.InsufficientPrivilege:
        return [Finding("NumPy", "ok", "not looked at: only a superuser may")]
    except psycopg.Error as error:
        return [Finding("NumPy", "optional", str(error.diag.message_primary), "apt-get install python3-numpy")]
    finally:
        connection.remove_notice_handler(listen)
    version, _, libraries = (said[-1] if said else "|").partition("|")
    if not version:
        return [
            Finding(
                "NumPy",
                "optional",
                "the server's Python has none",
                "apt-get install python3-numpy libopenblas0-pthread",
            )
        ]
    if libraries and all(library.startswith(("libblas", "libcblas")) for library in libraries.split()):
        return [
            Finding(
                "NumPy",
                "optional",
                f"{version} with the slow reference BLAS",
                "apt-get install libopenblas0-pthread   # then reconnect; tens of times faster",
            )
        ]
    return [Finding("NumPy", "ok", f"{version}" + (f" with {libraries}" if libraries else ""))]


def tables(connection: Connection, extensions: dict[str, tuple[str, str | None]]) -> list[Finding]:
    """Which models are loaded, and whether this role may load more."""
    if extensions.get("sql_diffusion", ("", None))[1] is None:
        return []
    names = [
        row[0] for row in connection.execute("select m.name from sql_diffusion.models m order by m.name").fetchall()
    ]
    row: Any = connection.execute(
        "select pg_catalog.has_table_privilege('sql_diffusion.parameters', 'insert, delete'), "
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
