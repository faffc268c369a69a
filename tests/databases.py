"""Databases of the tests' own, on the cluster that the PG* variables name."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

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
