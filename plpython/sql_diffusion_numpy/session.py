"""What a call has to do with its session: queries, settings, threads, cancelling, progress."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from typing import Any

from . import threads
from .errors import fail

FIRST_NOTICE, NOTICE_EVERY = 2.0, 60.0  # seconds before the first, and between two at most

_plans: dict[str, Any] = {}

_SETTINGS = """
select nullif(pg_catalog.current_setting('sql_diffusion.threads', true), '') as threads,
       coalesce(nullif(pg_catalog.current_setting('sql_diffusion.progress', true), '')::boolean, true) as progress
"""


def query(plpy: Any, sql: str, types: list[str], arguments: list[Any]) -> Any:
    """The rows of a query, which is prepared once a session."""
    plan = _plans.get(sql)
    if plan is None:
        plan = _plans[sql] = plpy.prepare(sql, types)
    return plpy.execute(plan, arguments)


def begin(plpy: Any) -> bool:
    """Take the settings for this call: the number of threads; returns whether progress is to be told."""
    [settings] = query(plpy, _SETTINGS, [], [])
    wanted = settings["threads"]
    if wanted is None:
        count = threads.default_count()
    elif wanted.strip().isdigit() and 1 <= int(wanted) <= threads.MOST:
        count = int(wanted)
    else:
        fail(f"sql_diffusion.threads is '{wanted}', expected an integer from 1 to {threads.MOST}")
    threads.set_count(count)
    return bool(settings["progress"])


def give_memory_back() -> None:
    """Hand what a call has freed to the system: glibc would keep it for a process that may do nothing for hours."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def cancel_point(plpy: Any) -> None:
    """PostgreSQL cancels a query only where it looks for that; running a query is such a place."""
    query(plpy, "select 1", [], [])


def progress_of(plpy: Any, tell: bool) -> Callable[[str], None]:
    """A function that tells the client how far a call has come: soon, then each time after twice as long."""
    last, interval = time.monotonic(), FIRST_NOTICE

    def progress(message: str) -> None:
        nonlocal last, interval
        now = time.monotonic()
        if tell and now - last >= interval:
            last, interval = now, min(2 * interval, NOTICE_EVERY)
            plpy.notice(message)

    return progress
