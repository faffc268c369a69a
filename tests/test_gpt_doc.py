"""The blocks of doc/gpt.md, run in order, print what stands below them."""

from __future__ import annotations

import documented
from databases import new_database


def test_every_block_prints_what_the_page_says() -> None:
    with new_database("sql_diffusion") as name:
        documented.check("gpt.md", name)
