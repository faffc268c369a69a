"""Rows that are sorted carry no arrays that each of them reads one element of.

PostgreSQL 16 and later sort the rows below an ordered aggregate whole, with every column that its argument is made from; before, they
sort what the argument comes to. An array beside each of its elements takes memory by the square, which would go to files.
"""

from __future__ import annotations

import psycopg
import pytest

QUERIES = {
    "image_from_png": "sql_diffusion.image_from_png(sql_diffusion.image_png(sql_diffusion.randn(1, '{3,48,48}'), 1, 6))",
    "image_from_png, stored": "sql_diffusion.image_from_png(sql_diffusion.image_png(sql_diffusion.randn(1, '{3,48,48}'), 1, 0))",
    "image_png": "sql_diffusion.image_png(sql_diffusion.randn(1, '{1,192,16}'), 1, 6)",
    "image_resize": "sql_diffusion.image_resize(sql_diffusion.randn(1, '{4,48,48}'), 40, 40)",
    "geglu": "sql_diffusion.geglu(sql_diffusion.randn(1, '{32,128}'))",
    "transpose": "sql_diffusion.transpose(sql_diffusion.randn(1, '{64,128}'))",
}


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_no_temporary_file(connection: psycopg.Connection, query: str) -> None:
    connection.execute("set local temp_file_limit = 0")
    connection.execute("set local work_mem = '1MB'")
    assert connection.execute(f"select {query} is not null").fetchone() == (True,)


def test_limit_is_seen(connection: psycopg.Connection) -> None:
    connection.execute("set local temp_file_limit = 0")
    connection.execute("set local work_mem = '1MB'")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        connection.execute("select array_agg(i order by i) from generate_series(1, 200000) i")
