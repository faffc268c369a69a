"""The blocks of doc/jobs.md, run in order, print what stands below them."""

from __future__ import annotations

import documented
from databases import new_database


def test_every_block_prints_what_the_page_says() -> None:
    with documented.roles("illustrator", "press"), new_database("sql_diffusion_numpy") as name:
        documented.check("jobs.md", name)
