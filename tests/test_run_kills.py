"""sql-diffusion run: whatever is killed in the middle, the same command goes on, and every row is painted once.

Killed with SIGKILL, which nothing can prepare for. SQL_DIFFUSION_STRESS=1 kills each twenty times; without it, a worker and a
backend are killed in test_run_command.py alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

import helper_command as command
from clusters import new_cluster, run_as_server
from installation import program
from numpy_server import STRESS
from painting import QUERY, UPDATE, different, make_wanted, plain, until, want
from reference import insert_model, random_unet

ROWS, STEPS = 10, 12
GIVEN = ["run", "--query", QUERY, "--update", UPDATE, "--model", "plain", "--steps", STEPS, "--batch", 2]


@pytest.fixture(scope="module")
def home() -> Iterator[str]:
    """The socket's folder of a cluster that can be killed, with a model in it."""
    with new_cluster() as folder:
        with connect(folder) as own:
            own.execute("create extension sql_diffusion_numpy cascade")
            insert_model(own, "plain", random_unet(np.random.default_rng(5)))
        yield folder


def connect(home: str) -> psycopg.Connection:
    return psycopg.connect(host=home, port=5432, user="postgres", dbname="postgres", autocommit=True)


def children_of(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def workers_of(run: subprocess.Popen[str]) -> list[int]:
    return [
        pid for pid in children_of(run.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # and not what keeps track of their semaphores


def kill(*processes: int) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def kill_worker(run: subprocess.Popen[str], home: str) -> None:
    kill(workers_of(run)[0])


def kill_backend(run: subprocess.Popen[str], home: str) -> None:
    """The server begins anew without it, and all the others lose their connections."""
    with connect(home) as own:
        painters = own.execute("select pid from pg_stat_activity where application_name = 'sql-diffusion'").fetchall()
    kill(painters[-1][0])


def kill_cluster(run: subprocess.Popen[str], home: str) -> None:
    postmaster = int((Path(home) / "data/postmaster.pid").read_text().split()[0])
    others = children_of(postmaster)
    kill(postmaster, *others)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in others))
    run_as_server(
        program("pg_ctl"), f"--pgdata={home}/data", "--silent", "--wait", f"--log={home}/server.log", "restart"
    )


def kill_run(run: subprocess.Popen[str], home: str) -> None:
    """Its workers end by themselves."""
    workers = workers_of(run)
    kill(run.pid)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


@pytest.mark.parametrize("kill_it", [kill_cluster, kill_run, *([kill_worker, kill_backend] if STRESS else [])])
def test_kills(home: str, rng: np.random.Generator, kill_it: Callable[[subprocess.Popen[str], str], None]) -> None:
    given = [*GIVEN, "--dsn", f"host={home} port=5432 user=postgres dbname=postgres"]
    for _ in range(20 if STRESS else 1):
        with connect(home) as own:
            make_wanted(own)
            want(own, ROWS, rng)
            run = command.start("postgres", *given, "--workers", 2)
            until(lambda own=own: own.execute("select from wanted where picture is not null").rowcount > 0)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.3))
        kill_it(run, home)
        _, err = run.communicate(timeout=60)
        assert "Traceback" not in err
        until(lambda: answers(home))
        out = command.succeed("postgres", *given)
        assert out.endswith("the query gives 0 more\n")
        with connect(home) as own:
            assert own.execute("select count(*) from wanted").fetchone() == (ROWS,)
            assert different(own, plain(STEPS)) == []


def answers(home: str) -> bool:
    try:
        connect(home).close()
    except psycopg.OperationalError:
        return False
    return True
