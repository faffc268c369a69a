"""Loads, replaces, removals and generations at once: every picture is right, or refused.

SQL_DIFFUSION_STRESS=1 goes on for five minutes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import psycopg

from numpy_server import STRESS
from reference import insert_model, random_unet

pytest_plugins = ["numpy_server"]

SECONDS = 300 if STRESS else 10
CALL = "select ddpm_generate(7, %s, 2, backend => %s)"


def picture(session: psycopg.Connection[Any], model: str, backend: str) -> np.ndarray:
    row = session.execute(CALL, [model, backend]).fetchone()
    assert row is not None
    return np.array(row[0])


# Made before there are threads: they would share torch's random numbers.
NETWORKS = [random_unet(np.random.default_rng(kind)) for kind in (0, 1)]


def write(session: psycopg.Connection[Any], name: str, kind: int) -> None:
    """Puts one of two networks into the place of whatever has the name, in one transaction, packed or not."""
    with session.transaction():
        session.execute("delete from sql_diffusion.models where name = %s", [name])
        insert_model(session, name, NETWORKS[kind])
        if kind:
            session.execute("select sql_diffusion.pack(%s)", [name])


def test_everything_at_once(numpy_database: str) -> None:
    failures: list[str] = []
    counts: Counter[str] = Counter()

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(dbname=numpy_database, autocommit=True)

    with connect() as session:
        expected = {}
        for kind in (0, 1):
            write(session, "replaced", kind)
            for backend in ("sql", "numpy"):
                expected[backend, kind] = picture(session, "replaced", backend)
        write(session, "removed", 0)
    difference = np.abs(expected["sql", 0] - expected["sql", 1]).max()
    assert difference > 0.05
    end = time.monotonic() + SECONDS

    def worker(work: Any) -> None:
        try:
            with connect() as session:
                while time.monotonic() < end and not failures:
                    work(session)
        except Exception as error:  # of a thread nobody would hear it otherwise
            failures.append(repr(error))

    def replace(session: psycopg.Connection[Any]) -> None:
        write(session, "replaced", counts["replaced"] % 2)
        counts["replaced"] += 1

    def remove(session: psycopg.Connection[Any]) -> None:
        session.execute("delete from sql_diffusion.models where name = 'removed'")
        counts["removed"] += 1
        write(session, "removed", 0)

    def generate(backend: str) -> Any:
        def work(session: psycopg.Connection[Any]) -> None:
            for model, kinds in (("replaced", (0, 1)), ("removed", (0,))):
                try:
                    ours = picture(session, model, backend)
                except psycopg.errors.UndefinedObject:  # the model is not there just now
                    counts[f"{backend} refused"] += 1
                    assert model == "removed", "a replaced model is always there"
                    continue
                counts[f"{backend} right"] += 1
                nearest = min(np.abs(ours - expected[backend, kind]).max() for kind in kinds)
                assert nearest < 1e-4, f"a wrong picture of model {model}, backend {backend}"

        return work

    works = [replace, remove, generate("sql"), generate("sql"), generate("numpy"), generate("numpy")]
    threads = [threading.Thread(target=worker, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connect() as session:
        session.execute("delete from sql_diffusion.models where not bundled")
    print(dict(counts))
    assert not failures, failures
    assert all(counts[kind] > 0 for kind in ("replaced", "removed", "sql right", "numpy right")), counts
