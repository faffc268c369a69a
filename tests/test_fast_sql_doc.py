"""The blocks of doc/fast-sql.md, run in order, print what stands below them."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

PAGE = Path(__file__).parent.parent / "doc" / "fast-sql.md"


def test_every_block_prints_what_the_page_says(connection: psycopg.Connection) -> None:
    blocks = re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for code, expected in blocks:
        cursor = connection.execute(code.encode())
        while cursor.nextset():
            pass
        lines = [" | ".join(str(value) for value in row) for row in cursor.fetchall()]
        assert lines == expected.splitlines()
