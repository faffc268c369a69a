"""What pure SQL tells of its progress."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import Connection


@pytest.mark.parametrize(
    ("seconds", "steps", "told"),
    [(0.4, 4, []), (1.0, 20, [2, 4, 8, 16]), (10.0, 12, [1, 2, 4, 7])],  # seconds a step
)
def test_the_gaps_double(connection: Connection, seconds: float, steps: int, told: list[int]) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    for step in range(1, steps + 1):
        connection.execute(
            "select sql_diffusion.tell_progress(%s, %s, %s)",
            [step, steps, step * seconds],
        )
    assert notices == [f"step {step} of {steps}" for step in told]


def test_minutes_are_told_in_the_end_and_nothing_where_it_is_off(connection: Connection) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    for step in range(1, 101):
        connection.execute(
            "select sql_diffusion.tell_progress(%s, 100, %s)",
            [step, 30 * step],
        )
    assert notices[:4] == [f"step {step} of 100" for step in (1, 2, 3, 4)]
    assert notices[4:] == [f"step {step} of 100" for step in range(6, 100, 2)]
    connection.execute("set local sql_diffusion.progress = off")
    told = len(notices)
    connection.execute("select sql_diffusion.tell_progress(1, 2, 3600)")
    assert len(notices) == told


def test_a_slow_picture_tells_its_steps(connection: Connection) -> None:
    """A few steps of the bundled model take longer than two seconds on any machine there is today, and it says so as it goes."""
    notices: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    row = connection.execute("select clock_timestamp()").fetchone()
    connection.execute("select ddpm_generate(1, num_inference_steps => 5, backend => 'sql')")
    took = connection.execute("select extract(epoch from clock_timestamp() - %s::timestamptz)", row).fetchone()
    assert took is not None
    if took[0] > 5:  # every machine so far; one step alone can take the rest of a faster one's time
        assert notices and all(str(notice).endswith(" of 5") for notice in notices)


def test_a_value_that_is_no_switch_is_refused(connection: Connection) -> None:
    connection.execute("set local sql_diffusion.progress = perhaps")
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=r"sql_diffusion\.progress is 'perhaps', expected on or off"
    ):
        connection.execute("select sql_diffusion.tell_progress(1, 2, 3600)")
