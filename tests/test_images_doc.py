"""The blocks of doc/images.md, run in order, print what stands below them."""

from __future__ import annotations

import documented


def test_every_block_prints_what_the_page_says(database: str) -> None:
    documented.check("images.md", database)
