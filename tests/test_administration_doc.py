"""The blocks of doc/administration.md run, in order, and print what the page says."""

from __future__ import annotations

import documented
from databases import new_database


def test_every_block_runs() -> None:
    with documented.roles("loader", "painter"), new_database() as database:
        documented.check("administration.md", database)
