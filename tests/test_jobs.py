"""The queue: every job painted once, by whoever has it, whatever dies on the way.

SQL_DIFFUSION_STRESS=1 takes 100,000 jobs and kills twenty times; pytest -s shows the figures.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import Connection

import helper_command as command
from numpy_server import STRESS
from painting import SLOW, grey_levels, new_painters, until

pytest_plugins = ["text_pipelines"]

TIMES = 20 if STRESS else 1  # something is killed
STEPS = '{"num_inference_steps": 2}'


@pytest.fixture(scope="module")
def db(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[str]:
    with new_painters(pipelines, folders) as name:
        yield name


@pytest.fixture
def own(db: str) -> Iterator[Connection]:
    """With an empty queue."""
    with psycopg.connect(dbname=db, autocommit=True) as connection:
        connection.execute("delete from sql_diffusion.stored_jobs")
        yield connection


def one(own: Connection, query: str, *values: object) -> Any:
    """The only value of a query."""
    ((value,),) = own.execute(query.encode(), values).fetchall()
    return value


def enqueue(own: Connection, seed: int, steps: int = 2, attempts: int = 3) -> int:
    """A job of the plain model."""
    settings = f'{{"num_inference_steps": {steps}}}'
    return int(
        one(
            own,
            "select sql_diffusion.enqueue(%s, model => 'plain', settings => %s, max_attempts => %s)",
            seed,
            settings,
            attempts,
        )
    )


def states(own: Connection) -> list[tuple[Any, ...]]:
    return own.execute("select id, state, attempt, error from sql_diffusion.jobs order by id").fetchall()


def check_pictures(own: Connection, steps: int) -> None:
    """Every job of the plain model has the picture that the verb paints."""
    rows = own.execute(
        """select j.state, j.png, image_png(ddpm_generate(j.seed, 'plain', %s)) from sql_diffusion.jobs j""", [steps]
    ).fetchall()
    assert {state for state, _, _ in rows} == {"succeeded"}
    assert max(grey_levels(ours, alone) for _, ours, alone in rows) <= 1


# One that is painting, ended.
PAINTERS = """select pg_terminate_backend(a.pid)
              from (select a.pid
                    from pg_stat_activity a
                    where a.datname = current_database() and a.application_name = 'sql-diffusion' and a.state = 'active'
                    limit 1) a"""

# Jobs, and what paints the same.
KINDS = [
    (f"7, 'ein größerer Falter', 'words', '{STEPS}'", "text_to_image('ein größerer Falter', 7, 'words', num_inference_steps => 2)"),
    ("7, 'a moth', 'words', '{\"num_inference_steps\": 2, \"negative_prompt\": \"rain\", \"guidance_scale\": 3.5, \"scheduler\": {\"_class_name\": \"EulerDiscreteScheduler\"}}'",
     "text_to_image('a moth', 7, 'words', 'rain', 2, 3.5, scheduler => '{\"_class_name\": \"EulerDiscreteScheduler\"}')"),
    ("-9, null, 'classes', '{\"class_label\": 4, \"timesteps\": [700, 100], \"eta\": 0.5, \"scheduler\": \"ddim\"}'",
     "ddpm_generate(-9, 4, 'classes', timesteps => '{700,100}', scheduler => 'ddim', eta => 0.5)"),
    (f"10, null, 'plain', '{STEPS}'", "ddpm_generate(10, 'plain', 2)"),
]  # fmt: skip
# Jobs that cannot be painted, and the words.
BAD = [
    (f"1, null, 'nobody', '{STEPS}'", 'sql_diffusion: model "nobody" does not exist'),
    ("1, null, 'classes', '{\"num_inference_steps\": 2, \"class_label\": 5}'", "sql_diffusion: class_label is 5, expected from 0 to 4"),
    (f"1, 'a moth', 'plain', '{STEPS}'", 'sql_diffusion: model "plain" takes no prompt'),
]  # fmt: skip


@pytest.mark.parametrize("by", ["SQL", "run"])
def test_jobs_of_all_kinds(db: str, own: Connection, by: str) -> None:
    """Each as its verb paints it; a bad one says why, and the others are painted all the same."""
    own.execute("listen sql_diffusion_jobs; listen sql_diffusion_finished")
    calls = [f"sql_diffusion.enqueue({job})" for pair in zip(BAD, KINDS, strict=False) for job, _ in pair]
    calls.append(f"sql_diffusion.enqueue({KINDS[-1][0]})")
    (numbers,) = own.execute(f"select {', '.join(calls)}".encode()).fetchall()
    assert states(own) == [(number, "queued", 0, None) for number in numbers]
    if by == "SQL":
        own.execute("call sql_diffusion.work()")
    else:
        done = command.run(db, "run", "--jobs", "--workers", 2, "--batch", 4)
        assert (done.returncode, done.stdout) == (1, "Painted 4 jobs, 3 could not be; the queue gives 0 more\n")
        told = [line.partition(": ")[2].partition(": ")[0] for line in done.stderr.splitlines()]
        assert set(told) == {f"job {number}" for number in numbers[:6:2]}
    rows = {row[0]: row[1:] for row in own.execute("select id, state, attempt, error, png from sql_diffusion.jobs")}
    for number, (_, words) in zip(numbers[::2], BAD, strict=False):
        assert rows[number][:2] == ("failed", 1)
        assert rows[number][2].removeprefix("sql_diffusion: ") == words.removeprefix("sql_diffusion: ")
    for number, (_, call) in zip([*numbers[1::2], numbers[-1]], KINDS, strict=True):
        assert rows[number][:3] == ("succeeded", 1, None)
        assert grey_levels(rows[number][3], one(own, f"select image_png({call})")) <= 1
    notices = [(notice.channel, notice.payload) for notice in own.notifies(timeout=0.5)]
    assert notices[0] == ("sql_diffusion_jobs", "")
    assert set(notices[1:]) == {("sql_diffusion_finished", str(number)) for number in numbers}


@pytest.mark.parametrize(
    ("job", "sqlstate", "words"),
    [
        ("1, settings => '{\"steps\": 2}'", "0A000", "jobs: setting steps is not known"),
        ('1, settings => \'{"negative_prompt": "rain"}\'', "0A000", "jobs: setting negative_prompt is not known"),
        ("1, 'a moth', settings => '{\"class_label\": 2}'", "0A000", "jobs: setting class_label is not known"),
        ('1, settings => \'{"num_inference_steps": "two"}\'', "22P02", "invalid input syntax for type integer"),
        ("1, settings => '[]'", "22023", "jobs: settings is array, expected an object"),
        ("1, settings => 'null'", "22023", "jobs: settings is null, expected an object"),
        ("null", "22023", "jobs: seed is null, expected an integer"),
        ("1, max_attempts => 0", "22023", "jobs: max_attempts is 0, expected 1 or more"),
    ],
)
def test_what_is_no_job(own: Connection, job: str, sqlstate: str, words: str) -> None:
    with pytest.raises(psycopg.Error, match=words) as refused:
        own.execute(f"select sql_diffusion.enqueue({job})".encode())
    assert refused.value.sqlstate == sqlstate
    assert states(own) == []


def claim(own: Connection, count: int = 1, lease: str = "1 minute") -> list[tuple[int, int]]:
    return own.execute("select id, attempt from sql_diffusion.claim_jobs(%s, %s)", [count, lease]).fetchall()


def test_claims_do_not_wait_for_each_other(db: str, own: Connection) -> None:
    """Of open transactions either: the highest priority first, then the first."""
    low, urgent, last = (
        one(own, "select sql_diffusion.enqueue(1, priority => %s)", priority) for priority in (0, 9, 0)
    )
    with psycopg.connect(dbname=db) as other, psycopg.connect(dbname=db) as third:
        third.execute("set lock_timeout = '1s'")
        assert claim(own) == [(urgent, 1)]
        assert claim(other) == [(low, 1)]
        assert claim(third, 5) == [(last, 1)]
        assert claim(own) == []
        other.rollback()
        assert claim(own) == [(low, 1)]


def test_a_lease_that_ends(own: Connection) -> None:
    """The next one has the job; who had it writes nothing any more. After so many attempts it has failed, and says so."""
    own.execute("listen sql_diffusion_finished")
    number = enqueue(own, 1)
    finish = "select sql_diffusion.finish_job(%s, %s, %s)"
    assert claim(own, lease="1 microsecond") == [(number, 1)]
    assert claim(own, lease="1 microsecond") == [(number, 2)]
    assert one(own, finish, number, 1, b"late") is False
    assert one(own, "select sql_diffusion.fail_job(%s, 1, 'late')", number) is False
    assert states(own) == [(number, "running", 2, None)]
    assert claim(own, lease="1 microsecond") == [(number, 3)]
    assert claim(own) == []
    words = "claimed 3 times, and neither a picture nor an error came before the lease ended"
    assert states(own) == [(number, "failed", 3, words)]
    assert one(own, finish, number, 3, b"late") is False
    assert [notice.payload for notice in own.notifies(timeout=0.5)] == [str(number)]
    other = enqueue(own, 1)
    assert claim(own) == [(other, 1)]
    assert one(own, finish, other, 1, b"in time") is True
    assert one(own, finish, other, 1, b"again") is False
    assert one(own, "select png from sql_diffusion.jobs where id = %s", other) == b"in time"


def test_a_run_tells_of_jobs_that_it_gives_up(db: str, own: Connection) -> None:
    """Their painters all died: they have failed, as those have that the run itself could not paint."""
    given_up = [enqueue(own, seed) for seed in (1, 2, 3)]
    for attempt in (1, 2, 3):
        assert claim(own, 3, lease="1 microsecond") == [(number, attempt) for number in given_up]
    enqueue(own, 4)
    done = command.run(db, "run", "--jobs", "--workers", 2, "--batch", 2)
    words = "claimed 3 times, and neither a picture nor an error came before the lease ended"
    assert sorted(done.stderr.splitlines()) == [f"sql-diffusion: job {number}: {words}" for number in given_up]
    assert done.stdout == "Painted 1 job, 3 could not be; the queue gives 0 more\n"
    assert done.returncode == 1


def test_errors_and_another_try(own: Connection) -> None:
    """What may be otherwise next time is tried again, as often as max_attempts says; what will be the same is not."""
    number = one(own, "select sql_diffusion.enqueue(1, max_attempts => 2)")
    fail = "select sql_diffusion.fail_job(%s, %s, %s, %s)"
    assert claim(own) == [(number, 1)]
    assert one(own, fail, number, 1, "out of memory", "53200") is True
    assert states(own) == [(number, "queued", 1, "out of memory")]
    assert claim(own) == [(number, 2)]
    assert one(own, fail, number, 2, "out of memory again", None) is True
    assert states(own) == [(number, "failed", 2, "out of memory again")]
    other = enqueue(own, 1)
    assert claim(own) == [(other, 1)]
    assert one(own, fail, other, 1, "no such model", "42704") is True
    assert states(own)[1] == (other, "failed", 1, "no such model")


def test_cancel(own: Connection) -> None:
    """Before it is claimed, and while it is painted: that picture is thrown away."""
    waiting, running = enqueue(own, 1), enqueue(own, 2)
    cancel = "select sql_diffusion.cancel_job(%s)"
    assert one(own, cancel, waiting) is True
    assert claim(own, 5) == [(running, 1)]
    assert one(own, cancel, running) is True
    assert one(own, "select sql_diffusion.finish_job(%s, 1, 'late')", running) is False
    assert one(own, cancel, running) is False
    assert one(own, cancel, 0) is False
    assert claim(own, 5) == []
    assert states(own) == [(waiting, "cancelled", 0, None), (running, "cancelled", 1, None)]
    own.execute("call sql_diffusion.work()")
    assert one(own, "select count(png) from sql_diffusion.jobs") == 0


def test_a_job_is_tried_again(own: Connection) -> None:
    """After what was wrong has been mended: with one more attempt where all have been used, and never one that has its picture."""
    spent, unknown, cancelled, painted = enqueue(own, 1), enqueue(own, 2), enqueue(own, 3), enqueue(own, 4)
    for _ in range(3):
        assert one(own, "select count(*) from sql_diffusion.claim_jobs(1) c where c.id = %s", spent) == 1
        own.execute(
            "select sql_diffusion.fail_job(id, attempt, 'no room', '53200') from sql_diffusion.jobs where id = %s",
            [spent],
        )
    own.execute("select sql_diffusion.claim_jobs(9)")
    own.execute("select sql_diffusion.fail_job(%s, 1, 'no such model', '42704')", [unknown])
    own.execute("select sql_diffusion.cancel_job(%s)", [cancelled])
    own.execute("select sql_diffusion.finish_job(%s, 1, 'a picture')", [painted])
    again = "select sql_diffusion.retry_job(%s)"
    assert [one(own, again, number) for number in (spent, unknown, cancelled, painted, 0)] == [True] * 3 + [False] * 2
    assert one(own, again, spent) is False
    assert states(own) == [
        *((number, "queued", attempt, None) for number, attempt in ((spent, 3), (unknown, 1), (cancelled, 1))),
        (painted, "succeeded", 1, None),
    ]
    assert claim(own, 9) == [(spent, 4), (unknown, 2), (cancelled, 2)]


def test_an_ended_painter_spends_no_attempt(own: Connection) -> None:
    number = enqueue(own, 1)
    own.execute("update sql_diffusion.jobs set max_attempts = 1")
    for attempt in range(1, 4):
        assert claim(own) == [(number, attempt)]
        assert one(own, "select sql_diffusion.fail_job(%s, %s, 'ended', '57P01')", number, attempt) is True
        assert states(own) == [(number, "queued", attempt, "ended")]


@pytest.mark.parametrize(
    ("before", "call", "words"),
    [
        ("", "call sql_diffusion.work(backend => 'nosuch')", "backend is 'nosuch', expected auto, sql, numpy or torch"),
        ("set sql_diffusion.threads = 'lots'", "call sql_diffusion.work()", "threads is 'lots', expected an integer"),
        ("", "call sql_diffusion.work(lease => '0')", "work: lease is '00:00:00', expected more than 0"),
        ("", "call sql_diffusion.work(-1)", "work: jobs is -1, expected 0 or more"),
        ("", "select sql_diffusion.claim_jobs(1, '-1 min')", "claim_jobs: lease is '-00:01:00', expected more than 0"),
        ("", "select sql_diffusion.extend_lease(1, 1, '0')", "extend_lease: lease is '00:00:00', expected more than 0"),
        ("", "select sql_diffusion.finish_job(1, 1, null)", "finish_job: png is null"),
    ],
)
def test_a_painter_that_cannot_paint_claims_nothing(own: Connection, before: str, call: str, words: str) -> None:
    """What is wrong with who paints, whatever the job, is not the jobs' fault."""
    number = enqueue(own, 1)
    own.execute(before.encode())
    with pytest.raises(psycopg.Error, match=re.escape(words)):
        own.execute(call.encode())
    assert states(own) == [(number, "queued", 0, None)]


def test_so_many_and_no_transaction(own: Connection) -> None:
    for seed in range(3):
        enqueue(own, seed, 1)
    own.execute("call sql_diffusion.work(2)")
    assert [state for _, state, *_ in states(own)] == ["succeeded", "succeeded", "queued"]
    with pytest.raises(psycopg.errors.InvalidTransactionTermination), own.transaction():
        own.execute("call sql_diffusion.work()")
    assert states(own)[2][1:] == ("queued", 0, None)


def test_workers_that_wait(db: str, own: Connection) -> None:
    """They hear of jobs, and stop when they are told to."""
    with command.start(db, "run", "--jobs", "--wait", "--workers", 2) as process:
        for _ in range(2):
            for seed in range(3):
                enqueue(own, seed)
            until(lambda: one(own, "select count(*) from sql_diffusion.jobs where finished_at is null") == 0)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "Painted 6 jobs; the queue gives 0 more\n"), err
    check_pictures(own, 2)


def test_a_second_interruption_gives_jobs_back(db: str, own: Connection) -> None:
    """At once, and not when their leases have ended; no attempt is spent."""
    numbers = [enqueue(own, seed, 900) for seed in range(8)]
    own.execute("update sql_diffusion.jobs set max_attempts = 1")
    with command.start(db, "run", "--jobs", "--workers", 2, "--backend", "sql") as process:
        until(lambda: one(own, "select count(*) from sql_diffusion.jobs where state = 'running'") == len(numbers))
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert states(own) == [(number, "queued", 1, "the worker was ended") for number in numbers]
    assert len(claim(own, 9)) == len(numbers)


def test_what_is_cancelled_is_not_painted_to_its_end(db: str, own: Connection) -> None:
    """Which would take longer than a test waits; the worker goes on with the next job."""
    own.execute(
        "insert into sql_diffusion.jobs (seed, settings) select n, '{\"num_inference_steps\": 1000}' from generate_series(1, 2) n"
    )
    numbers = [number for number, *_ in states(own)]
    with command.start(
        db, "run", "--jobs", "--wait", "--batch", 2, "--backend", "sql", "--lease", "1.5 seconds"
    ) as process:
        until(lambda: states_of(own) == {"running"})
        own.execute("select sql_diffusion.cancel_job(id) from sql_diffusion.jobs")
        number = enqueue(own, 1, 1)
        until(lambda: states(own)[2] == (number, "succeeded", 1, None))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "Painted 1 job; the queue gives 0 more\n"), err
    assert states(own)[:2] == [(number, "cancelled", 1, None) for number in numbers]


def test_workers_that_cannot_paint_claim_nothing(db: str, own: Connection) -> None:
    number = enqueue(own, 1)
    result = command.run(db, "run", "--jobs", "--workers", 2, PGOPTIONS="-c sql_diffusion.threads=lots")
    assert result.returncode == 2
    assert "sql_diffusion.threads is 'lots', expected an integer from 1 to 64" in result.stderr
    assert states(own) == [(number, "queued", 0, None)]


def test_a_lease_is_extended_while_its_worker_lives(db: str, own: Connection) -> None:
    """Where a picture takes longer than the lease, nobody else paints it."""
    number = enqueue(own, 1, steps=400)
    out = command.succeed(db, "run", "--jobs", "--workers", 2, "--lease", "1.5 seconds")
    assert out == "Painted 1 job; the queue gives 0 more\n"
    assert states(own) == [(number, "succeeded", 1, None)]
    assert one(own, "select finished_at - started_at > '1.5 seconds' from sql_diffusion.jobs")
    assert one(own, "select sql_diffusion.extend_lease(%s, 1)", number) is False


@pytest.mark.parametrize("options", [["--jobs", "--query", "select 1"], ["--query", "select 1"], [], ["--wait"]])
def test_what_to_paint_is_clear(db: str, options: list[str]) -> None:
    assert "--jobs" in command.fail(db, 2, "run", *options)


def test_a_role_without_a_grant_is_told_which(db: str, own: Connection) -> None:
    role = f"stranger_{secrets.token_hex(4)}"
    own.execute(f"create role {role} login".encode())
    try:
        said = command.fail(db, 3, "run", "--jobs", "--dsn", f"user={role}")
        assert "permission denied for view" in said
        assert "SELECT and UPDATE on sql_diffusion.jobs and sql_diffusion.claimable_jobs" in said
    finally:
        own.execute(f"drop role {role}".encode())


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        ("soon", 'lease is no interval: invalid input syntax for type interval: "soon"'),
        ("50 ms", "lease is 50 ms, expected from 1 second to 1 year"),
        ("-1 minute", "lease is -1 minute, expected from 1 second to 1 year"),
        ("1000000 years", "lease is 1000000 years, expected from 1 second to 1 year"),
    ],
)
def test_a_lease_that_cannot_be_kept(db: str, own: Connection, lease: str, words: str) -> None:
    number = enqueue(own, 1)
    assert words in command.fail(db, 2, "run", "--jobs", "--lease", lease)
    assert states(own) == [(number, "queued", 0, None)]


@pytest.mark.parametrize("killed", ["worker", "backend"])
def test_what_is_killed_loses_nothing(db: str, own: Connection, killed: str, rng: np.random.Generator) -> None:
    """kill -9 of a worker, pg_terminate_backend of what it works with: its jobs are painted when their lease has ended."""
    for _ in range(TIMES):
        own.execute("delete from sql_diffusion.stored_jobs")
        first = int(rng.integers(2**40))
        for seed in range(first, first + 6):
            enqueue(own, seed, SLOW, attempts=99)
        with command.start(db, "run", "--jobs", "--workers", 2, "--batch", 2, "--lease", "3 seconds") as process:
            until(lambda: one(own, "select count(*) from sql_diffusion.jobs where state = 'succeeded'") > 0)
            if killed == "worker":
                listed = subprocess.run(
                    ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
                )
                os.kill(int(next(line for line in listed.stdout.splitlines() if "spawn_main" in line).split()[0]), 9)
            else:
                until(lambda: own.execute(PAINTERS).rowcount == 1)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert "Traceback" not in err
        check_pictures(own, SLOW)


def test_a_killed_session_of_work(db: str, own: Connection) -> None:
    """In SQL alone."""
    for _ in range(TIMES):
        own.execute("delete from sql_diffusion.stored_jobs")
        for seed in range(4):
            enqueue(own, seed, SLOW, attempts=99)
        with psycopg.connect(dbname=db, autocommit=True) as worker, ThreadPoolExecutor() as pool:
            call = pool.submit(worker.execute, "call sql_diffusion.work(lease => '3 seconds')")
            until(lambda: one(own, "select count(*) from sql_diffusion.jobs where state = 'succeeded'") > 0)
            until(lambda: one(own, "select count(*) from sql_diffusion.jobs where state = 'running'") > 0)
            own.execute("select pg_terminate_backend(%s)", [worker.info.backend_pid])
            with pytest.raises(psycopg.errors.AdminShutdown):
                call.result()
        own.execute("call sql_diffusion.work()")
        until(
            lambda: one(own, "select count(*) from sql_diffusion.claimable_jobs") > 0 or states_of(own) == {"succeeded"}
        )
        own.execute("call sql_diffusion.work()")
        check_pictures(own, SLOW)


def test_a_cancelled_call_of_work(db: str, own: Connection) -> None:
    """Its job is back in the queue at once, with the words, and not only when the lease has ended."""
    number = enqueue(own, 1, 900)
    with psycopg.connect(dbname=db, autocommit=True) as worker:
        worker.execute("set statement_timeout = '1s'")
        with pytest.raises(psycopg.errors.QueryCanceled, match="due to statement timeout"):
            worker.execute("call sql_diffusion.work(backend => 'sql')")
    assert states(own) == [(number, "queued", 1, "canceling statement due to statement timeout")]
    assert claim(own) == [(number, 2)]


def test_rows_that_somebody_locks_keep_no_painter(db: str, own: Connection) -> None:
    """work returns, and does not ask for them again and again."""
    number = enqueue(own, 1)
    with psycopg.connect(dbname=db) as other:
        other.execute("select from sql_diffusion.jobs where id = %s for update", [number])
        own.execute("set statement_timeout = '10s'")
        own.execute("call sql_diffusion.work()")
    assert [state for _, state, *_ in states(own)] == ["queued"]


def test_an_attempt_as_large_as_an_integer(own: Connection) -> None:
    """Who may insert into the view can write one: others' claims go on."""
    own.execute(
        "insert into sql_diffusion.jobs (seed, attempt, max_attempts, priority) values (1, 2147483647, 2147483647, 9)"
    )
    number = enqueue(own, 1)
    assert claim(own, 2) == [(number, 1)]


def states_of(own: Connection) -> set[str]:
    return {state for _, state, *_ in states(own)}


def take_all(db: str) -> list[tuple[int, int]]:
    """What a worker does that only pretends to paint: what it has taken."""
    taken = []
    with psycopg.connect(dbname=db, autocommit=True) as own:
        while claimed := claim(own):
            taken += claimed
            own.execute("select sql_diffusion.finish_job(%s, %s, 'png')", claimed[0])
    return taken


def test_many_jobs_and_eight_workers(db: str, own: Connection) -> None:
    """None is taken twice, and a vacuum frees what the round before left.

    A row is written three times. Where a snapshot of autovacuum's keeps PostgreSQL from pruning as it goes, the second round's two
    dead rows each make twice what is alive; three times would be both rounds'.
    """
    count = 100_000 if STRESS else 1000
    sizes = "select pg_table_size('sql_diffusion.stored_jobs'), pg_indexes_size('sql_diffusion.stored_jobs')"
    own.execute("vacuum full sql_diffusion.stored_jobs")
    for number in range(2):
        began = time.monotonic()
        own.execute("select sql_diffusion.enqueue(i) from generate_series(1, %s) i", [count])
        enqueued, size = time.monotonic(), own.execute(sizes).fetchone()
        with ThreadPoolExecutor(8) as pool:
            taken = [job for each in pool.map(take_all, [db] * 8) for job in each]
        ended = time.monotonic()
        assert len(taken) == len(set(taken)) == count
        assert one(own, "select count(*) from sql_diffusion.jobs where state = 'succeeded'") == (number + 1) * count
        print(
            f"\n{count} jobs: {count / (enqueued - began):.0f} enqueued a second, {count / (ended - enqueued):.0f} taken and finished a second"
        )
        full = own.execute(sizes).fetchone()
        own.execute("vacuum sql_diffusion.stored_jobs")
        print(f"table and indexes, bytes: {size} enqueued, {full} finished, {own.execute(sizes).fetchone()} vacuumed")
    vacuumed = one(own, "select pg_table_size('sql_diffusion.stored_jobs')")
    own.execute("vacuum full sql_diffusion.stored_jobs")
    assert vacuumed < 2.5 * one(own, "select pg_table_size('sql_diffusion.stored_jobs')")
    print(f"written anew: {own.execute(sizes).fetchone()}")
