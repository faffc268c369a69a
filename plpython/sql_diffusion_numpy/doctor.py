"""Is this server set up to be fast? One row a check."""

# The cache's files are named by their folder's descriptor.
# ruff: noqa: PTH120, PTH123, PTH208

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import cache, parameters, session, threads

VERSION = ""  # the extension's, set by the loader
SLOW = 20.0  # GFLOP/s of one thread: the reference BLAS has 1 to 5, a tuned one 40 to 150

Row = tuple[str, str, str]


def diagnose(plpy: Any) -> Iterator[Row]:
    """-> check, status (ok, warning or error), detail"""
    yield "interpreter", "ok", f"Python {sys.version.split()[0]}, {sys.prefix}"
    yield "numpy", "ok", f"NumPy {np.__version__}, {os.path.dirname(np.__file__)}"
    yield _blas()
    yield _threads()
    yield _torch()
    yield _cache(plpy)
    yield _version(plpy)


def _libraries() -> list[str]:
    try:
        with open("/proc/self/maps") as maps:
            lines = list(maps)
    except OSError:  # not Linux
        return []
    return sorted({line.split()[-1] for line in lines if re.search(r"/lib\S*(blas|mkl_rt|blis|atlas)\S*\.so", line)})


def _blas() -> Row:
    a = np.ones((512, 512), np.float32)
    out = np.empty_like(a)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - begin)
    speed = 2 * 512**3 / best / 1e9
    detail = f"{speed:.0f} GFLOP/s a call, {', '.join(_libraries()) or 'built into NumPy'}"
    if speed < SLOW:
        return (
            "blas",
            "warning",
            f"{detail}: slow; on Debian and Ubuntu: apt-get install libopenblas0-pthread, then connect again",
        )
    return "blas", "ok", detail


def _threads() -> Row:
    detail = f"{threads.get_count()} of {threads.cores()} cores"
    try:
        import threadpoolctl

        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        blas = f"BLAS is held at {max(pools, default=1)} thread by threadpoolctl"
    except ImportError:
        blas = "BLAS is held at 1 thread by the environment"
        if threads.blas_was_loaded:
            return (
                "threads",
                "warning",
                f"{detail}; NumPy was loaded before in this session, so BLAS may use threads of its own: "
                "connect again, or install threadpoolctl",
            )
    return "threads", "ok", f"{detail}; {blas}"


def _torch() -> Row:
    if importlib.util.find_spec("torch") is None:
        return "torch", "ok", f"not installed; backend torch needs PyTorch where {sys.prefix} finds it"
    try:
        from . import torch_engine
    except (ImportError, OSError) as error:
        return "torch", "warning", f"backend torch cannot be used: {error}"
    return "torch", "ok", torch_engine.describe()


def _cache(plpy: Any) -> Row:
    try:
        path = parameters.cache_folder(plpy)
        folder = cache.open_folder(path, make=True)
    except cache.Unusable as problem:
        return "cache", "warning", f"{problem}; sessions do not share networks"
    try:
        names = [name for name in os.listdir(folder) if name.endswith(cache.SUFFIX)]
        size = sum(os.stat(name, dir_fd=folder, follow_symlinks=False).st_size for name in names)
        for name in names:
            cache.read(folder, name, verify=True)
            session.cancel_point(plpy)
    except (cache.Unusable, OSError) as problem:
        return "cache", "error", f"{problem}; remove the file"
    finally:
        os.close(folder)
    # the default is relative to the data directory, whose place is not for everybody
    return "cache", "ok", f"{path}: {len(names)} network{'s' * (len(names) != 1)}, {size / 1e6:.0f} MB"


def _version(plpy: Any) -> Row:
    rows = session.query(
        plpy,
        "select e.extname, e.extversion from pg_catalog.pg_extension e where e.extname like 'sql_diffusion%'",
        [],
        [],
    )
    versions = {row["extname"]: row["extversion"] for row in rows}
    ours, theirs = versions.get("sql_diffusion_numpy"), versions.get("sql_diffusion")
    if ours != VERSION:
        return "version", "error", f"this session runs {VERSION}, the extension is {ours}: connect again"
    if theirs != ours:
        return (
            "version",
            "warning",
            f"sql_diffusion is {theirs}, sql_diffusion_numpy {ours}: update both with ALTER EXTENSION",
        )
    return "version", "ok", f"{ours}"
