"""randn draws what torch draws on the CPU: fresh seeds and shapes each time, torch itself as the judge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

SEEDS = st.integers(-(2**63), 2**63 - 1)
SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=6).filter(lambda shape: math.prod(shape) <= 20_000)
TOLERANCE = 1e-6

many = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_row(connection: psycopg.Connection, query: str, arguments: Any = None) -> tuple[Any, ...]:
    (row,) = connection.execute(query, arguments).fetchall()
    return row


def generator(seed: int) -> torch.Generator:
    # torch takes seeds of 64 bits with or without a sign
    return torch.Generator().manual_seed(seed)


@many
@given(seed=SEEDS, shape=SHAPES)
@example(seed=0, shape=[1])
@example(seed=-1, shape=[15])
@example(seed=2**32, shape=[16])
@example(seed=2**32 + 42, shape=[17])
@example(seed=-(2**63), shape=[31])
@example(seed=42, shape=[3, 64, 64])
def test_one_draw(connection: psycopg.Connection, seed: int, shape: list[int]) -> None:
    (values,) = one_row(connection, "select sql_diffusion.randn(%s::bigint, %s::int[])", (seed, shape))
    values = np.array(values, dtype=np.float32)
    expected = torch.randn(shape, generator=generator(seed)).numpy()
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=TOLERANCE)


@many
@given(seed=SEEDS, sizes=st.lists(st.one_of(st.integers(1, 20), st.integers(21, 1500)), min_size=2, max_size=12))
@example(seed=7, sizes=[1, 16, 1, 3, 624, 2, 15, 1, 1, 17])
@example(seed=7, sizes=[624, 624, 16])
def test_draws_after_each_other(connection: psycopg.Connection, seed: int, sizes: list[int]) -> None:
    """One stream: what a draw of fewer than 16 values left over waits for the next such draw, as it does in torch."""
    rows = connection.execute(
        """
        with recursive draw (number, sample, generator) as (
          select 0, null::real[], sql_diffusion.manual_seed(%(seed)s::bigint)
          union all
          select d.number + 1, r.sample, r.next
          from draw d, sql_diffusion.randn(d.generator, array[(%(sizes)s::int[])[d.number + 1]]) r
          where d.number < cardinality(%(sizes)s::int[])
        )
        select d.sample from draw d where d.number > 0 order by d.number
        """,
        {"seed": seed, "sizes": sizes},
    ).fetchall()
    stream = generator(seed)
    assert [len(sample) for (sample,) in rows] == sizes
    for size, (sample,) in zip(sizes, rows, strict=True):
        expected = torch.randn(size, generator=stream).numpy()
        np.testing.assert_allclose(np.array(sample, dtype=np.float32), expected, rtol=0, atol=TOLERANCE)


@many
@given(seed=st.integers(0, 2**32 - 1), counts=st.lists(st.integers(0, 1300), min_size=1, max_size=4))
def test_words_are_mt19937(connection: psycopg.Connection, seed: int, counts: list[int]) -> None:
    state = one_row(connection, "select sql_diffusion.manual_seed(%s)::text", (seed,))[0]
    numpy_generator = np.random.RandomState(seed)  # the same MT19937, seeded the same way
    for count in counts:
        words, state = one_row(
            connection,
            "select w.words, w.next::text from sql_diffusion.random_words(%s::sql_diffusion.generator, %s) w",
            (state, count),
        )
        assert (words or []) == numpy_generator.randint(0, 2**32, size=count, dtype=np.uint32).tolist()


def test_seeds_differ(connection: psycopg.Connection) -> None:
    same, other = one_row(
        connection,
        """select sql_diffusion.randn(1, '{20}') = sql_diffusion.randn(4294967297, '{20}'),
                  sql_diffusion.randn(1, '{20}') = sql_diffusion.randn(2, '{20}')""",
    )
    assert same
    assert not other


@pytest.mark.parametrize(
    "shape", ["{}", "{0}", "{3,0,4}", "{-1}", "{NULL}", "{2,NULL}", "{{1,2}}", "[0:1]={1,2}", "{1,1,1,1,1,1,1}"]
)
def test_wrong_shapes(connection: psycopg.Connection, shape: str) -> None:
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=r"randn: shape is .*, expected 1 to 6 positive sizes"
    ):
        connection.execute("select sql_diffusion.randn(1, %s::int[])", (shape,))


@pytest.mark.parametrize(
    "state",
    [
        "row(null, null, null)",
        "row('{1,2,3}', 1, null)",
        "row(s.words, 0, null)",
        "row(s.words, 626, null)",
        "row(s.words, 1, 'NaN')",
        "row(s.words[1:623] || -1::bigint, 1, null)",
        "row(s.words[1:623] || 4294967296, 1, null)",
        "row(s.words[1:623] || null::bigint, 1, null)",
    ],
)
def test_wrong_generators(connection: psycopg.Connection, state: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="randn: generator is not the state of a generator"):
        connection.execute(
            f"select sql_diffusion.randn(({state})::sql_diffusion.generator, '{{2}}') "
            "from sql_diffusion.manual_seed(1) s"
        )
