"""The blocks of doc/administration.md run, in order, and print what the page says."""

from __future__ import annotations

import psycopg

import documented
from databases import new_database


def test_every_block_runs() -> None:
    try:
        with new_database() as database:
            documented.check("administration.md", database)
    finally:
        with psycopg.connect(autocommit=True) as server:
            for name in ("loader", "painter"):
                if server.execute("select from pg_roles where rolname = %s", [name]).fetchone() is not None:
                    server.execute(f"drop owned by {name}")
                    server.execute(f"drop role {name}")
