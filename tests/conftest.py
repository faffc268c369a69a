"""Fixtures: a database of the tests' own, on the cluster that `scripts/private-cluster` or the PG* variables name."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

from databases import new_database

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of PyTorch: the processors are busy with as many workers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-plpython", action="store_true", help="leave out what needs PL/Python in the server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--without-plpython"):
        needing = [item for item in items if "numpy_database" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The name of a new database with the extension in it, dropped at the end."""
    if "PGHOST" not in os.environ:
        pytest.exit("these tests need a server: run `make test`, or `scripts/private-cluster pytest`", returncode=2)
    with new_database("sql_diffusion") as name:
        yield name


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A connection to that database; what a test does there is rolled back."""
    with psycopg.connect(dbname=database) as own:
        yield own
        own.rollback()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Fresh random inputs; the seed is printed when a test fails, and SQL_DIFFUSION_TEST_SEED sets it."""
    seed = int(os.environ.get("SQL_DIFFUSION_TEST_SEED") or secrets.randbits(32))
    print(f"SQL_DIFFUSION_TEST_SEED={seed}")
    return np.random.default_rng(seed)
