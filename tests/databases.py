"""Databases of the tests' own, on the cluster that the PG* variables name."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql


@contextmanager
def new_database(extension: str | None = None) -> Iterator[str]:
    """The name of a new database with an extension, and what it requires, in it, or with none; dropped at the end."""
    name = f"{extension or 'empty'}_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            if extension is not None:
                with psycopg.connect(dbname=name, autocommit=True) as own:
                    own.execute(sql.SQL("create extension {} cascade").format(sql.Identifier(extension)))
            yield name
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def program(name: str) -> str:
    """psql, pg_dump and their like, of the installation that the server is from."""
    bindir = subprocess.run(
        [os.environ.get("PG_CONFIG", "pg_config"), "--bindir"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return str(Path(bindir) / name)
