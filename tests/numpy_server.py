"""Fixtures: a database with both extensions in it, and sessions there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import psycopg
import pytest

from databases import new_database

# 1 runs the long form of the tests that repeat something: `make stress`.
STRESS = os.environ.get("SQL_DIFFUSION_STRESS") == "1"

Connect = Callable[[], psycopg.Connection]


@pytest.fixture(scope="session")
def numpy_database() -> Iterator[str]:
    """The name of a new database with both extensions in it, dropped at the end."""
    with new_database("sql_diffusion_numpy") as name:
        yield name


@pytest.fixture
def numpy_connection(numpy_database: str) -> Iterator[psycopg.Connection]:
    """A session there; what a test does in it is rolled back."""
    with psycopg.connect(dbname=numpy_database) as own:
        yield own
        own.rollback()


@pytest.fixture
def connect(numpy_database: str) -> Iterator[Connect]:
    """Opens sessions there that commit each statement; they are closed at the end, and loaded models deleted."""
    opened: list[psycopg.Connection] = []

    def open_one() -> psycopg.Connection:
        opened.append(psycopg.connect(dbname=numpy_database, autocommit=True))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        own.execute("delete from sql_diffusion.models where not bundled")
