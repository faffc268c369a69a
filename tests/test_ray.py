"""sql-diffusion run --ray: two nodes paint as one process in the server does, and the death of one loses nothing.

SQL_DIFFUSION_STRESS=1 kills twenty workers and twenty nodes.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import helper_command as command
import ray_nodes
from numpy_server import STRESS
from painting import QUERY, UPDATE, count, different, make_wanted, new_painters, plain, until, want
from sql_diffusion import ray_workers

pytest_plugins = ["ray_nodes", "text_pipelines"]

STEPS = 12


@pytest.fixture(scope="module")
def db(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[str]:
    with new_painters(pipelines, folders) as name, psycopg.connect(dbname=name, autocommit=True) as own:
        own.execute(f"alter database {name} set sql_diffusion.threads = 1".encode())
        yield name


@pytest.fixture
def own(db: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dbname=db, autocommit=True) as connection:
        make_wanted(connection)
        yield connection


GIVEN = ["run", "--query", QUERY, "--model", "plain", "--steps", STEPS, "--batch", 2]
UPDATE_BY = UPDATE.replace("painted =", "painter = pg_backend_pid(), painted =")


def test_pictures(db: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator) -> None:
    """The same to the byte as in the server; a row that fails is told of in its words."""
    want(own, 8, rng)
    own.execute("update wanted set prompt = 'a moth, größer', model = 'words' where id % 3 = 0")
    own.execute("update wanted set model = 'nobody' where id = 5")
    query = QUERY.replace("id, seed", "id, seed, prompt, model")
    given = ["run", "--query", query, "--update", UPDATE_BY, "--model", "plain", "--steps", 2, "--batch", 1]
    result = command.run(db, *given, "--workers", 2, "--ray", nodes.address, RAY_USAGE_STATS_ENABLED="0")
    assert result.stderr == 'sql-diffusion: id = 5: model "nobody" does not exist\n'
    assert result.stdout == "Painted 7 rows, 1 could not be; the query gives 1 more\n"
    assert result.returncode == 1
    own.execute("delete from wanted where id = 5")
    assert count(own, "painted = 1") == 7
    alone = """select count(*) from wanted where picture = image_png(case model when 'words'
                 then text_to_image(prompt, seed, 'words', num_inference_steps => 2)
                 else ddpm_generate(seed, model => 'plain', num_inference_steps => 2) end)"""
    assert own.execute(alone).fetchone() == (7,)
    [(painter,)] = own.execute("select pg_backend_pid()").fetchall()
    assert count(own, f"painter = {painter}") == 0


def test_jobs_of_the_queue(db: str, nodes: Any, own: psycopg.Connection) -> None:
    wanted = """select sql_diffusion.enqueue(n, case when n > 2 then 'a moth' end, case when n > 2 then 'words' else 'plain' end,
                                             '{"num_inference_steps": 2}') from generate_series(1, 4) n"""
    ids = [id for (id,) in own.execute(wanted).fetchall()]
    out = command.succeed(db, "run", "--jobs", "--batch", 1, "--workers", 2, "--ray", nodes.address)
    assert out == "Painted 4 jobs; the queue gives 0 more\n"
    alone = """select count(*) from sql_diffusion.jobs where id = any(%s) and state = 'succeeded' and attempt = 1
                 and png = sql_diffusion.paint_job(seed, prompt, model, settings)"""
    assert own.execute(alone, [ids]).fetchone() == (4,)


def test_a_cancelled_job(db: str, nodes: Any, own: psycopg.Connection) -> None:
    """It is not painted to its end, which a test would not wait for."""
    wanted = "select sql_diffusion.enqueue(1, %s, 'words', %s)"
    [(number,)] = own.execute(
        wanted, ["a moth", '{"num_inference_steps": 100, "height": 256, "width": 256}']
    ).fetchall()
    state = "select state from sql_diffusion.jobs where id = %s"
    given = ["run", "--jobs", "--lease", "1.5 seconds", "--workers", 1, "--ray", nodes.address]
    with command.start(db, *given) as process:
        until(lambda: own.execute(state, [number]).fetchone() == ("running",))
        own.execute("select sql_diffusion.cancel_job(%s)", [number])
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "Painted 0 jobs; the queue gives 0 more\n"), err
    assert own.execute(state, [number]).fetchone() == ("cancelled",)


def test_a_worker_that_cannot_paint_claims_nothing(db: str, nodes: Any, own: psycopg.Connection) -> None:
    [(number,)] = own.execute("select sql_diffusion.enqueue(1)").fetchall()
    given = ["run", "--jobs", "--workers", 1, "--ray", nodes.address]
    result = command.run(db, *given, PGOPTIONS="-c sql_diffusion.memory_limit=much")
    assert result.returncode == 2
    assert "sql_diffusion.memory_limit is 'much', expected a number of kB, MB, GB or TB" in result.stderr
    row = own.execute("select state, attempt from sql_diffusion.jobs where id = %s", [number]).fetchone()
    assert row == ("queued", 0)
    own.execute("select sql_diffusion.cancel_job(%s)", [number])


@pytest.mark.parametrize("whole", [True, False] if STRESS else [True])
def test_a_killed_node(db: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator, whole: bool) -> None:
    """A node, its raylet and its worker, or the worker alone: the other paints all that is left."""
    for _ in range(20 if STRESS else 1):
        own.execute("truncate wanted")
        want(own, 24, rng)
        node = nodes.list_all_nodes()[1]
        run = command.start(db, *GIVEN, "--update", UPDATE_BY, "--workers", 2, "--ray", nodes.address)
        until(lambda: own.execute("select distinct painter from wanted where painted > 0").rowcount == 2)
        [actor] = ray_nodes.actors_of(node)
        for process in [ray_nodes.raylet_of(node), actor] if whole else [actor]:
            os.kill(process, signal.SIGKILL)
        out, err = run.communicate(timeout=60)
        assert (run.returncode, len(err.splitlines())) == (0, 1), err
        assert re.match(r"sql-diffusion: worker \d is gone, its rows are free again: .*(dead|died|unavailable)", err)
        assert out.endswith("rows; the query gives 0 more\n")
        assert different(own, plain(STEPS)) == []
        assert count(own, "picture is null") == 0
        if whole:
            nodes.remove_node(node, allow_graceful=False)
            if STRESS:
                ray_nodes.add_node(nodes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ray", "127.0.0.2:9"], "no connection to Ray at 127.0.0.2:9"),
        (["--ray", "127.0.0.2:abc"], "no connection to Ray at 127.0.0.2:abc: its port is no number"),
        (["--ray", "127.0.0.2:9", "--backend", "sql"], "backend is sql, which paints in the server alone"),
    ],
)
def test_what_is_refused(db: str, own: psycopg.Connection, arguments: list[str], words: str) -> None:
    own.execute("insert into wanted (id, seed) values (1, 1)")
    result = command.run(db, *GIVEN, "--update", UPDATE, *arguments)
    assert words in result.stderr
    assert result.returncode in (2, 3)
    assert count(own, "picture is null") == 1


def test_what_is_not_ray() -> None:
    """Such as its dashboard, beside which Ray would wait, deaf to Ctrl-C."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with pytest.raises(ConnectionError, match="not Ray's first node"):
            ray_workers.reach(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_node_without_the_package() -> None:
    """What Python says there, and not that an actor died."""
    words = """The actor died because of an error raised in its creation task, ray::Actor.__init__() (pid=1, ip=127.0.0.2)
RuntimeError: The actor with name Actor failed to import on the worker. This may be because needed library dependencies are not installed:
  File "/sql_diffusion/ray_workers.py", line 17, in <module>
ModuleNotFoundError: No module named 'numpy'
"""
    assert ray_workers.reason(Exception(words)) == (
        "ModuleNotFoundError: No module named 'numpy'; the node needs the package: pip install 'sql_diffusion[ray]'"
    )


def test_a_server_that_ends_idle_sessions(
    db: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator
) -> None:
    """A worker's session waits while the node paints."""
    want(own, 2, rng)
    name = "idle_in_transaction_session_timeout"
    own.execute(f"alter database {db} set {name} = '1ms'".encode())
    try:
        out = command.succeed(db, *GIVEN, "--steps", 100, "--update", UPDATE, "--ray", nodes.address)
    finally:
        own.execute(f"alter database {db} reset {name}".encode())
    assert out == "Painted 2 rows; the query gives 0 more\n"


def test_a_service(db: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator, tmp_path: Path) -> None:
    """Its file is on the machine where the command is typed alone."""
    want(own, 2, rng)
    file = tmp_path / "pg_service.conf"
    file.write_text(f"[pictures]\nhost={own.info.host}\nport={own.info.port}\nuser={own.info.user}\ndbname={db}\n")
    given = [*GIVEN, "--update", UPDATE, "--dsn", "service=pictures", "--ray", nodes.address]
    out = command.succeed("none", *given, PGSERVICEFILE=str(file), PGHOST="/nowhere")
    assert out == "Painted 2 rows; the query gives 0 more\n"


def test_ctrl_c_while_room_is_looked_for(
    db: str, nodes: Any, own: psycopg.Connection, rng: np.random.Generator
) -> None:
    want(own, 2, rng)
    with command.start(db, *GIVEN, "--update", UPDATE, "--workers", 5, "--ray", nodes.address) as process:
        mine = "select from pg_stat_activity where datname = current_database() and application_name = 'sql-diffusion'"
        until(lambda: own.execute(mine).rowcount > 0)
        time.sleep(3)  # until it asks Ray; Ctrl-C before that ends it too
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
