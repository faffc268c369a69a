"""What a call has to do with its session: queries, settings, threads, cancelling, progress."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any

from . import memory, threads
from .errors import fail

ASK_EVERY = 0.1  # seconds
FIRST_NOTICE, NOTICE_EVERY = 2.0, 60.0  # seconds before the first, and between two at most

_plans: dict[str, Any] = {}
_asked = 0.0  # when cancel_point did

# Anybody may SET a setting; what an administrator has set is the most that it counts for.
_SETTINGS = """
select nullif(pg_catalog.current_setting('sql_diffusion.threads', true), '') as threads,
       nullif(sql_diffusion_numpy.setting_limit('sql_diffusion.threads'), '') as most_threads,
       nullif(pg_catalog.current_setting('sql_diffusion.memory_limit', true), '') as memory,
       nullif(sql_diffusion_numpy.setting_limit('sql_diffusion.memory_limit'), '') as most_memory,
       sql_diffusion.tells_progress() as progress
"""

# In a process that is not the server's, its owner says what it may take.
_SETTINGS_ELSEWHERE = re.sub(r"sql_diffusion_numpy\.setting_limit\(.*?\)", "null", _SETTINGS)


def in_server(plpy: Any) -> bool:
    """Whether this is a session's own process; elsewhere sql_diffusion.engine stands for plpy, over a connection."""
    return getattr(plpy, "in_server", True)


def query(plpy: Any, sql: str, types: list[str], arguments: list[Any]) -> Any:
    """The rows of a query, which is prepared once a session."""
    plan = _plans.get(sql)
    if plan is None:
        plan = _plans[sql] = plpy.prepare(sql, types)
    return plpy.execute(plan, arguments)


def begin(plpy: Any) -> bool:
    """Take the settings for this call: the number of threads, the memory; returns whether progress is to be told."""
    [settings] = query(plpy, _SETTINGS if in_server(plpy) else _SETTINGS_ELSEWHERE, [], [])
    counts = [thread_count(settings[name]) for name in ("threads", "most_threads") if settings[name] is not None]
    threads.set_count(min(counts) if counts and settings["threads"] else min([threads.default_count(), *counts]))
    sizes = [_bytes(settings[name]) for name in ("memory", "most_memory") if settings[name] is not None]
    memory.set_limit(min(sizes, default=None))
    memory.keep()
    threads.set_check(functools.partial(cancel_point, plpy))
    return bool(settings["progress"])


def thread_count(written: str) -> int:
    """The setting sql_diffusion.threads as a number."""
    if not (re.fullmatch(r"\s*\d{1,9}\s*", written, re.ASCII) and 1 <= int(written) <= threads.MOST):
        fail(f"sql_diffusion.threads is '{written}', expected an integer from 1 to {threads.MOST}")
    return int(written)


def _bytes(written: str) -> int:
    size = re.fullmatch(r"\s*(\d{1,9}(?:\.\d*)?)\s*(kB|MB|GB|TB)\s*", written, re.ASCII)
    if size is None:
        fail(f"sql_diffusion.memory_limit is '{written}', expected a number of kB, MB, GB or TB, as 2GB")
    return int(float(size[1]) * 2 ** {"kB": 10, "MB": 20, "GB": 30, "TB": 40}[size[2]])


def cancel_point(plpy: Any) -> None:
    """PostgreSQL cancels a query only where it looks for that; running a query is such a place. Now and then is enough."""
    global _asked
    if time.monotonic() - _asked > ASK_EVERY:
        query(plpy, "select 1", [], [])
        _asked = time.monotonic()


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
