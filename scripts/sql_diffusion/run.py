"""Paints the rows of a query and writes the pictures back: `sql-diffusion run`.

Workers, processes with a connection each, claim rows by FOR UPDATE SKIP LOCKED, paint them in the transaction that holds
them and commit their update. So whatever dies on the way, a row is painted and free, or neither painted nor held. The
parent gives a worker leave for each batch and keeps what was painted, what failed, and what is left to do.
"""

import multiprocessing
import re
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from .database import Connection, connect, explain, extension_schema, function
from .errors import DATABASE, MODEL, USAGE, Problem
from .generate import model_name, takes_prompt
from .stopping import Stop, stoppable

PLAIN = (
    "It is to be a plain SELECT of rows that can be locked, with neither FOR UPDATE nor LIMIT, GROUP BY, DISTINCT, UNION or aggregates: "
    "select id, prompt, seed from wanted where picture is null"
)
UPDATE = "Write it as: update wanted set picture = %(png)s where id = %(id)s"
PATIENCE = 5  # seconds, until it is said that others hold the rest
MOMENT = 0.2  # seconds, in which the parent looks at least once whether it is to stop
PAUSE = 0.3  # seconds, until rows that others hold are looked for again


class Job(NamedTuple):
    """What is to be painted and how."""

    dsn: str
    query: str
    update: str
    columns: list[str]
    model: str | None  # of rows that name none
    backend: str | None
    num_inference_steps: int | None


class Row(NamedTuple):
    """A row of the query; all values are text, as the server wrote them, and go back to it as that."""

    mark: int  # a hash of the whole row, by which it is known again
    values: dict[str, str | None]


class Failure(NamedTuple):
    """A row that stays as it is, and why."""

    mark: int
    row: str
    words: str


class Leave(NamedTuple):
    """What a worker may do next: claim so many rows, without those that have failed."""

    rows: int
    failed: list[int]


class Report(NamedTuple):
    """What a worker did with its leave. Where it found nothing, left is how many rows others hold."""

    painted: int = 0
    failures: list[Failure] = []  # noqa: RUF012, nobody changes it
    left: int | None = None
    problem: tuple[str, str | None, int] | None = None  # that ends the whole run
    lost: str | None = None  # that ends the worker


class Outcome(NamedTuple):
    """What a run came to."""

    painted: int
    failed: int
    stopped: bool


class Worker(Protocol):
    """A worker as its parent sees it."""

    @property
    def number(self) -> int:
        """By which it is told of."""

    def send(self, leave: Leave | None) -> None:
        """Lets it go on; None: it is to end."""

    def receive(self) -> Report:
        """What it says, or that it is lost."""

    def join(self) -> None:
        """Waits until it has ended."""


class Crew(Protocol):
    """The workers of a run."""

    @property
    def workers(self) -> Sequence[Worker]:
        """All that were started."""

    def ready(self, working: Collection[Worker]) -> Iterable[Worker]:
        """Those that say something now, or in a moment."""


def prepare(connection: Connection, job: Job) -> Job:
    """The job with what the query tells. Raises a Problem where query, update and model do not go together."""
    job = job._replace(query=job.query.strip().rstrip(";").rstrip(), update=job.update.strip().rstrip(";"))
    if job.model is not None:
        is_prompted(connection, job.model)
    try:
        described = connection.execute(f"select * from (\n{job.query}\n) q limit 0".encode()).description or []
        job = job._replace(columns=[column.name for column in described])
        plain, locked = (top_node(connection, text) for text in (job.query, f"{job.query}\n for update skip locked"))
    except psycopg.Error as error:
        raise refused("query", error, PLAIN) from error
    if plain in ("LockRows", "Limit") or locked != "LockRows":
        why = {"LockRows": "it locks them itself", "Limit": "it has a LIMIT"}.get(
            plain, "there is no table's row in it"
        )
        raise Problem(f"rows of the query cannot be claimed: {why}", PLAIN + "   (a limit is --limit N)", USAGE)
    if len(set(job.columns)) < len(job.columns) or "png" in job.columns:
        raise Problem(
            f"the query's columns are {', '.join(job.columns)}, expected different names other than png", PLAIN, USAGE
        )
    if "seed" not in job.columns:
        raise Problem(
            f"the query has no column seed: its columns are {', '.join(job.columns)}",
            "Give each row its seed, which makes the picture: select id, prompt, seed from wanted ...; a column can have one by default: seed bigint default (random() * 1e9)::bigint",
            USAGE,
        )
    if not re.search(r"%\(png\)[sbt]", job.update):
        raise Problem("the update has no %(png)s, which is the picture", UPDATE, USAGE)
    try:
        connection.execute(f"explain {job.update}".encode(), {**dict.fromkeys(job.columns), "png": b""})
    except (psycopg.Error, TypeError) as error:
        raise refused("update", error, UPDATE) from error
    if "model" not in job.columns:
        job = job._replace(model=model_name(connection, job.model, "prompt" in job.columns))
        assert job.model is not None
        if is_prompted(connection, job.model) != ("prompt" in job.columns):
            has = (
                "takes a prompt, and the query has no"
                if "prompt" not in job.columns
                else "takes no prompt, but the query has a"
            )
            raise Problem(
                f'model "{job.model}" {has} column prompt', "Name another: --model MODEL, or change the query.", USAGE
            )
    return job


def refused(what: str, error: Exception, hint: str) -> Problem:
    """The server, or the driver, does not take the query or the update as it is written."""
    if isinstance(error, psycopg.Error) and error.sqlstate == "42501":
        return Problem(
            f"the {what} is refused: {error.diag.message_primary}",
            "Rows are locked by who may read and update them: GRANT SELECT, UPDATE ON the table TO the role.",
            DATABASE,
        )
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return Problem(f"the {what} is refused: {message or error}", hint, USAGE)


def top_node(connection: Connection, query: str) -> str:
    """The topmost node of a query's plan."""
    row: Any = connection.execute(f"explain (format json) {query}".encode()).fetchone()
    return str(row[0][0]["Plan"]["Node Type"])


def count_rows(connection: Connection, job: Job, failed: list[int]) -> int:
    """How many rows the query gives now, whoever holds them, without those that have failed."""
    row: Any = connection.execute(from_query("select count(*)", job, ""), {"failed": failed}).fetchone()
    return int(row[0])


def from_query(selected: str, job: Job, locking: str) -> bytes:
    """A query of the job's rows that have not failed."""
    query = job.query.replace("%", "%%")
    mark = "pg_catalog.hashtextextended((q.*)::text, 0)"
    return (
        f"{selected.format(mark=mark)} from (\n{query}\n {locking}) q where {mark} <> all (%(failed)s::bigint[])"
    ).encode()


def is_prompted(connection: Connection, model: str) -> bool:
    """Whether a model is told in words what to draw. Raises a Problem where there is none of that name."""
    takes = takes_prompt(connection, model)
    if takes is None:
        raise Problem(f'model "{model}" does not exist', "See what is loaded: sql-diffusion list", MODEL)
    return takes


class Futile(Problem):
    """The update does nothing, so there is no use in painting."""


class Painter:
    """What a worker does, on its connection."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self.connection, self.job = connection, job
        self.schema = extension_schema(connection)
        self.done: set[int] = set()
        self.prompted: dict[str, bool] = {}
        connection.isolation_level = (
            psycopg.IsolationLevel.READ_COMMITTED
        )  # elsewhere a claim fails, where it is to skip

    def work(self, leave: Leave) -> Report:
        """One batch: claimed, painted, written and committed, or nothing of it."""
        failures: list[Failure] = []
        with self.connection.transaction():
            rows = self.claim(leave)
            again = [row for row in rows if row.mark in self.done]
            if again:
                raise Problem(
                    f"the query gives a row again that has been painted: {self.name(again[0])}",
                    "The update has to make a row leave the query, and the query to tell rows apart by a key: "
                    "select id, seed from wanted where picture is null",
                    USAGE,
                )
            painted = self.paint_rows(rows, failures)
        self.done.update(row.mark for row in painted)
        left = None if rows else count_rows(self.connection, self.job, leave.failed)
        if left:
            time.sleep(PAUSE)
        return Report(len(painted), failures, left)

    def claim(self, leave: Leave) -> list[Row]:
        """The next rows that nobody holds, which are held until the transaction ends."""
        query = from_query("select {mark}, q.*", self.job, "for update skip locked") + b" limit %(count)s"
        with self.connection.cursor() as cursor:
            result = cursor.execute(query, {"failed": leave.failed, "count": leave.rows}).pgresult
            assert result is not None
            rows = []
            for number in range(result.ntuples):
                mark, *values = (result.get_value(number, column) for column in range(result.nfields))
                texts = [None if value is None else value.decode() for value in values]
                rows.append(Row(int(mark or 0), dict(zip(self.job.columns, texts, strict=True))))
        return rows

    def paint_rows(self, rows: list[Row], failures: list[Failure], is_part: bool = False) -> list[Row]:
        """Paints rows together, or where that fails one by one; those that were painted."""
        try:
            with self.connection.transaction():
                self.write(rows, self.paint(rows))
            return rows
        except (psycopg.Error, Problem) as error:
            if is_lost(error) or self.connection.broken or (isinstance(error, Futile) and not is_part):
                raise
            if len(rows) == 1:
                problem = explain(error) if isinstance(error, psycopg.Error) else error
                failures.append(Failure(rows[0].mark, self.name(rows[0]), problem.message))
                return []
        return [row for each in rows for row in self.paint_rows([each], failures, is_part=True)]

    def paint(self, rows: list[Row]) -> list[bytes]:
        """The pictures, one call of the verb for all that are of one model, one class and one negative prompt."""
        groups: dict[tuple[str | None, ...], list[int]] = {}
        for number, row in enumerate(rows):
            if row.values["seed"] is None:
                raise Problem("seed is null, expected an integer", None, USAGE)
            kind = (
                row.values.get("model") or self.job.model,
                row.values.get("negative_prompt"),
                row.values.get("class_label"),
            )
            groups.setdefault(kind, []).append(number)
        pictures: dict[int, bytes] = {}
        for (model, negative_prompt, class_label), numbers in groups.items():
            prompts = [rows[number].values.get("prompt") for number in numbers]
            if model is None:
                model = model_name(self.connection, None, prompts[0] is not None)
            settings = {
                "seeds": [rows[number].values["seed"] for number in numbers],
                "model": model,
                "num_inference_steps": self.job.num_inference_steps,
                "backend": self.job.backend,
            }
            if self.is_prompted(model):
                if None in prompts:
                    raise Problem(f'prompt is null, but model "{model}" takes a prompt', None, USAGE)
                verb, settings = "text_to_image", {**settings, "prompts": prompts, "negative_prompt": negative_prompt}
            else:
                if any(prompt is not None for prompt in prompts):
                    raise Problem(f'model "{model}" takes no prompt', None, USAGE)
                verb, settings = "ddpm_generate", {**settings, "class_label": class_label}
            pictures.update(zip(numbers, self.call(verb, settings), strict=True))
        return [pictures[number] for number in range(len(rows))]

    def call(self, verb: str, settings: dict[str, Any]) -> Iterator[bytes]:
        """The PNGs of a call of a verb."""
        types = {"seeds": "bigint[]", "prompts": "text[]", "num_inference_steps": "int", "class_label": "int"}
        arguments = sql.SQL(", ").join(
            sql.SQL("{} => {}::{}").format(sql.Identifier(key), sql.Placeholder(key), sql.SQL(types.get(key, "text")))
            for key in settings
        )
        query = sql.SQL("select {}(g.image) from {}({}) g").format(
            function(self.schema, "image_png"), function(self.schema, verb), arguments
        )
        with self.connection.cursor(binary=True) as cursor:
            for row in cursor.execute(query, settings).fetchall():
                yield row[0]

    def write(self, rows: list[Row], pictures: list[bytes]) -> None:
        """Runs the update of each row."""
        if not rows:
            return
        parameters = [{**row.values, "png": picture} for row, picture in zip(rows, pictures, strict=True)]
        with self.connection.cursor() as cursor:
            cursor.executemany(self.job.update.encode(), parameters)
            if cursor.rowcount < len(rows):
                kind = Problem if cursor.rowcount or self.done else Futile
                raise kind("the update changed no row", UPDATE, USAGE)

    def is_prompted(self, model: str) -> bool:
        """Asked once a model."""
        if model not in self.prompted:
            self.prompted[model] = is_prompted(self.connection, model)
        return self.prompted[model]

    def name(self, row: Row) -> str:
        """id = 7: what the update knows the row by."""
        known = [key for key in row.values if f"%({key})" in self.job.update] or list(row.values)
        return ", ".join(f"{key} = {row.values[key]}" for key in known)


def is_lost(error: Exception) -> bool:
    """Whether it is the connection that failed."""
    return isinstance(error, psycopg.Error) and (error.sqlstate is None or error.sqlstate.startswith(("08", "57P")))


def serve(pipe: Pipe, job: Job) -> None:
    """A worker's life: batch after batch, for as long as its parent gives it leave."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which knows what to do
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The parent may end, or end this, at any moment, also while it is told of an error; the transaction goes with the connection.
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with connect(job.dsn) as connection:
                notice_death(connection)
                painter = Painter(connection, job)
                pipe.send(Report())
                while leave := pipe.recv():
                    pipe.send(painter.work(leave))
        except (psycopg.Error, Problem) as error:
            pipe.send(last_words(error))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends by itself now


def last_words(error: psycopg.Error | Problem) -> Report:
    """What a worker says of the error that ends it, or the whole run."""
    problem = explain(error) if isinstance(error, psycopg.Error) else error
    if is_lost(error):
        return Report(lost=problem.message)
    return Report(problem=(problem.message, problem.hint, problem.exit_code))


def notice_death(connection: Connection) -> None:
    """Lets the server look now and then whether this process is still there, where it can: else it paints to the end for nobody."""
    with suppress(psycopg.errors.InvalidParameterValue):  # not every system can
        connection.execute(
            "select set_config(name, '1000', false) from pg_catalog.pg_settings where name = 'client_connection_check_interval'"
        )


class Process(NamedTuple):
    """A worker on this machine."""

    number: int
    process: BaseProcess
    pipe: Pipe

    def send(self, leave: Leave | None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # that it is dead is read next
            self.pipe.send(leave)

    def receive(self) -> Report:
        try:
            report = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            return Report(lost=f"its process ended with exit code {self.process.exitcode}")
        assert isinstance(report, Report)
        return report

    def join(self) -> None:
        self.process.join()


class Processes:
    """Workers on this machine."""

    def __init__(self, workers: list[Process]) -> None:
        self.workers = workers

    def ready(self, working: Collection[Worker]) -> Iterable[Worker]:
        pipes = {worker.pipe: worker for worker in self.workers if worker in working}
        return [pipes[pipe] for pipe in wait(list(pipes), timeout=MOMENT) if isinstance(pipe, Pipe)]


@contextmanager
def started(job: Job, count: int) -> Iterator[Processes]:
    """So many workers, none of which outlives the context."""
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        for number in range(1, count + 1):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, job), name=f"worker {number}", daemon=True)
            process.start()
            there.close()
            workers.append(Process(number, process, here))
        yield Processes(workers)
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
            worker.pipe.close()
        for worker in workers:
            worker.process.join()


def run(
    connection: Connection,
    job: Job,
    workers: int,
    batch: int,
    limit: int | None,
    advance: Callable[[int], None],
    tell: Callable[[str], None],
    ray: str | None = None,
) -> Outcome:
    """Paints until the query gives nothing but rows that have failed, the limit is reached, or somebody stops it.

    ray: the address of a cluster whose nodes paint.
    """
    job = job._replace(
        dsn=make_conninfo(job.dsn, **({"password": connection.info.password} if connection.info.password else {}))
    )
    start: AbstractContextManager[Crew] = started(job, workers)
    if ray is not None:
        from . import ray_workers

        start = ray_workers.started(connection, job, workers, ray)
    with stoppable() as stop, start as crew:
        return Foreman(crew, batch, limit, stop, advance, tell).run()


class Foreman:
    """What the parent does: it hands out leave and keeps count."""

    def __init__(
        self,
        crew: Crew,
        batch: int,
        limit: int | None,
        stop: Stop,
        advance: Callable[[int], None],
        tell: Callable[[str], None],
    ) -> None:
        self.batch, self.limit, self.stop, self.advance, self.tell = batch, limit, stop, advance, tell
        self.crew = crew
        self.working = dict.fromkeys(crew.workers, 0)  # rows that each has leave for
        self.painted, self.moved = 0, time.monotonic()  # when there was something to paint last
        self.failed: set[int] = set()
        self.problem: Problem | None = None
        self.lost = 0

    def run(self) -> Outcome:
        """Until no worker is left."""
        crew, told_stop, told_wait = len(self.working), False, False
        while self.working:
            for ready in self.crew.ready(self.working):
                report = self.receive(ready)
                if report is not None and not self.keep(report):
                    self.let_go(ready)
                elif report is not None:
                    if (
                        report.left
                        and not told_wait
                        and time.monotonic() - self.moved > PATIENCE
                        and not any(self.working.values())
                    ):
                        told_wait = True
                        self.tell(f"waiting for {report.left} rows that other sessions hold")
                    self.give(ready)
            if self.stop.asked and not told_stop:
                told_stop = True
                self.tell("stopping after the rows at hand; Ctrl-C again gives them up")
        if self.problem is not None:
            raise self.problem
        if self.lost == crew and not self.stop.asked:
            raise Problem(
                f"no worker is left; {self.painted} pictures were painted and written",
                "Run the same command again: it goes on where this one was.",
                DATABASE,
            )
        return Outcome(self.painted, len(self.failed), self.stop.asked)

    def receive(self, worker: Worker) -> Report | None:
        """What a worker says, or nothing where it is dead."""
        self.working[worker] = 0
        report = worker.receive()
        if report.lost is not None:
            self.lost += 1
            del self.working[worker]
            self.tell(f"worker {worker.number} is gone, its rows are free again: {report.lost}")
            return None
        return report

    def keep(self, report: Report) -> bool:
        """Counts what was done; whether the worker may go on."""
        for failure in report.failures:
            if failure.mark not in self.failed:
                self.failed.add(failure.mark)
                self.tell(f"{failure.row}: {failure.words}")
        self.painted += report.painted
        if report.painted or report.failures:
            self.moved = time.monotonic()
        self.advance(report.painted)
        if report.problem is not None:
            self.problem = self.problem or Problem(*report.problem)
        return self.problem is None and not self.stop.asked and report.left != 0

    def give(self, worker: Worker) -> None:
        """Gives a worker leave for the next batch, as far as the limit goes."""
        count = self.batch
        if self.limit is not None:
            count = min(count, self.limit - self.painted - len(self.failed) - sum(self.working.values()))
        if count < 1:
            self.let_go(worker)
            return
        self.working[worker] = count
        worker.send(Leave(count, sorted(self.failed)))

    def let_go(self, worker: Worker) -> None:
        """Ends a worker that has nothing more to do."""
        del self.working[worker]
        worker.send(None)
        worker.join()
