"""Paints the rows of a query, or the jobs of the queue, and writes the pictures back: `sql-diffusion run`.

Workers, processes with a connection each, claim rows, paint them and write the pictures. Where the rows come from and go to is a
Source. The rows of a Query are claimed by FOR UPDATE SKIP LOCKED and painted in the transaction that holds them: whatever
dies on the way, a row is painted and free, or neither painted nor held. Those of the Queue have a lease, and are free once it
has ended. The parent gives a worker leave for each batch and keeps what was painted, what failed, and what is left to do.
"""

import json
import multiprocessing
import re
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import sql

from .database import Connection, connect, explain, extension_schema, function, is_lost, whole_dsn
from .errors import DATABASE, MODEL, USAGE, Problem, Unable
from .generate import model_name, takes_prompt
from .model_server import told_apart
from .stopping import Stop, stoppable

PLAIN = (
    "It is to be a plain SELECT of rows that can be locked, with neither FOR UPDATE nor LIMIT, GROUP BY, DISTINCT, UNION or aggregates: "
    "select id, prompt, seed from wanted where picture is null"
)
UPDATE = "Write it as: update wanted set picture = %(png)s where id = %(id)s   (a percent sign of its own is %%)"
ALIKE = 10  # failures of the same words that are told of
PATIENCE = 5  # seconds, until it is said that others hold the rest
MOMENT = 0.2  # seconds, in which the parent looks at least once whether it is to stop
PAUSE = 0.3  # seconds, until rows that others hold are looked for again
POLL = 2.0  # seconds, until the queue is looked at again where nobody has told of a job: a lease may have ended

# What is asked of the verbs, in the order in which the engines' functions take it
VERBS = {
    "ddpm_generate": {
        "seeds": "bigint[]", "model": "text", "num_inference_steps": "int", "timesteps": "int[]", "scheduler": "text",
        "eta": "real", "class_label": "int",
    },
    "text_to_image": {
        "prompts": "text[]", "seeds": "bigint[]", "model": "text", "negative_prompt": "text", "num_inference_steps": "int",
        "guidance_scale": "real", "height": "int", "width": "int", "scheduler": "text", "timesteps": "int[]", "eta": "real",
        "guidance_rescale": "real", "clip_skip": "int",
    },
}  # fmt: skip


class Job(NamedTuple):
    """What is to be painted and how."""

    dsn: str  # of the server that has the rows
    query: str | None  # None: the jobs of the queue
    update: str
    columns: list[str]
    model: str | None  # of rows that name none
    backend: str | None
    num_inference_steps: int | None  # of rows that name none
    lease: str = "1 minute"  # of a job, which is extended while it is painted
    stay: bool = False  # and wait for more jobs
    models_from: str | None = None  # the DSN of another server, which has the models


class Row(NamedTuple):
    """A row of the query, or a job; all values are text, as the server wrote them, and go back to it as that."""

    mark: int  # by which it is known again
    values: dict[str, str | None]
    settings: dict[str, str]  # further arguments of the verb


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


def prepare(connection: Connection, job: Job, models: Connection) -> Job:
    """The job with what the query tells. Raises a Problem where query, update and model do not go together.

    models: a connection to the server that has them, which may be the same.
    """
    if job.model is not None:
        with told_apart(job.models_from):
            is_prompted(models, job.model)
    if job.query is None:
        check_lease(connection, job.lease)
        return job
    query = job.query.strip().rstrip(";").rstrip()
    job = job._replace(query=query, update=job.update.strip().rstrip(";"))
    try:
        plain = top_node(connection, query)  # first, as what is wrong with it is told without what comes around it
        described = connection.execute(f"select * from (\n{query}\n) q limit 0".encode()).description or []
        job = job._replace(columns=[column.name for column in described])
        locked = top_node(connection, f"{query}\n for update skip locked")
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
    used = placeholders(job.update)
    if "png" not in used:
        raise Problem("the update has no %(png)s, which is the picture", UPDATE, USAGE)
    if not used.intersection(job.columns):
        raise Problem(
            "the update names no column of the query, and would give every row the same picture", UPDATE, USAGE
        )
    try:
        connection.execute(f"explain {job.update}".encode(), {**dict.fromkeys(job.columns), "png": b""})
    except (psycopg.Error, TypeError) as error:
        raise refused("update", error, UPDATE) from error
    if "model" not in job.columns:
        with told_apart(job.models_from):
            model = model_name(models, job.model, "prompt" in job.columns)
            takes = is_prompted(models, model)
        job = job._replace(model=model)
        if takes != ("prompt" in job.columns):
            has = (
                "takes a prompt, and the query has no"
                if "prompt" not in job.columns
                else "takes no prompt, but the query has a"
            )
            raise Problem(
                f'model "{job.model}" {has} column prompt', "Name another: --model MODEL, or change the query.", USAGE
            )
    return job


def check_lease(connection: Connection, lease: str) -> None:
    """Raises a Problem where a lease ends before it can be extended, or never."""
    query = "select %(lease)s::interval between interval '1 second' and interval '1 year'"
    try:
        row: Any = connection.execute(query, {"lease": lease}).fetchone()
        message = None if row[0] else f"lease is {lease}, expected from 1 second to 1 year"
    except psycopg.DataError as error:
        message = f"lease is no interval: {error.diag.message_primary}"
    if message is not None:
        raise Problem(message, "Write it as: --lease '5 minutes'", USAGE)


def placeholders(update: str) -> set[str]:
    """The names in %(name)s, which psycopg puts values in place of."""
    return set(re.findall(r"%\((.*?)\)[sbt]", update))


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
    """The topmost node of a query's plan. An error where it is more than one statement, as the binary protocol takes one alone."""
    row: Any = connection.execute(f"explain (format json) {query}".encode(), binary=True).fetchone()
    return str(row[0][0]["Plan"]["Node Type"])


def is_prompted(connection: Connection, model: str) -> bool:
    """Whether a model is told in words what to draw. Raises a Problem where there is none of that name."""
    takes = takes_prompt(connection, model)
    if takes is None:
        raise Problem(f'model "{model}" does not exist', "See what is loaded: sql-diffusion list", MODEL)
    return takes


class Futile(Problem):
    """The update does nothing, so there is no use in painting."""


class Source(Protocol):
    """Where rows are claimed and pictures are written, over one connection."""

    def held(self) -> AbstractContextManager[object]:
        """Lasts for as long as rows are claimed, painted and written."""

    def claim(self, leave: Leave, failures: list[Failure]) -> list[Row]:
        """The next rows that nobody holds; those that are given up by that are added to failures."""

    def wanted(self, rows: list[Row]) -> list[Row]:
        """Those of the claimed rows that nobody has cancelled or taken away; may be asked at any moment."""

    def write(self, rows: list[Row], pictures: list[bytes]) -> list[Row]:
        """Writes the pictures of rows; those that took them."""

    def fail(self, row: Row, error: psycopg.Error | Problem) -> Failure | None:
        """Keeps why a row was not painted; what is to be told of it, if it is not tried again."""

    def left(self, failed: list[int]) -> int | None:
        """How many rows there are, whoever holds them, without those that have failed. None: it does not matter, there may be more."""

    def pause(self) -> None:
        """Waits for rows, for a moment."""


def source_of(connection: Connection, job: Job) -> Source:
    """What the job is about."""
    return Queue(connection, job) if job.query is None else Query(connection, job)


def count_rows(connection: Connection, job: Job) -> int:
    """How many rows or jobs there are now, whoever holds them."""
    return source_of(connection, job._replace(stay=False)).left([]) or 0


class Query:
    """The rows of the user's own query, held by the transaction in which they are painted."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self.connection, self.job = connection, job
        self.done: set[int] = set()
        # What the update finds a row by tells rows apart: other columns it may have changed itself.
        used = placeholders(re.split(r"(?i)\bwhere\b", job.update)[-1])
        keys = [name for name in job.columns if name in used] or job.columns
        key = sql.SQL(", ").join(sql.Identifier("q", name) for name in keys).as_string(connection)
        self.mark = f"pg_catalog.hashtextextended(row({key})::text, 0)".replace("%", "%%")

    def held(self) -> AbstractContextManager[object]:
        return self.connection.transaction()

    def claim(self, leave: Leave, failures: list[Failure]) -> list[Row]:
        query = self.select(f"{self.mark}, q.*", "for update skip locked") + b" limit %(count)s"
        rows = []
        for mark, *texts in text_rows(self.connection, query, {"failed": leave.failed, "count": leave.rows}):
            values = dict(zip(self.job.columns, texts, strict=True))
            settings = {
                key: value for key in ("negative_prompt", "class_label") if (value := values.get(key)) is not None
            }
            rows.append(Row(int(mark or 0), values, settings))
        again = [row for row in rows if row.mark in self.done]
        if again:
            raise Problem(
                f"the query gives a row again that has been painted: {self.name(again[0])}",
                "The update has to make a row leave the query, and the query to tell rows apart by a key: "
                "select id, seed from wanted where picture is null",
                USAGE,
            )
        return rows

    def wanted(self, rows: list[Row]) -> list[Row]:
        return rows  # nobody else gets at a row that is locked

    def write(self, rows: list[Row], pictures: list[bytes]) -> list[Row]:
        parameters = [{**row.values, "png": picture} for row, picture in zip(rows, pictures, strict=True)]
        with self.connection.cursor() as cursor:
            cursor.executemany(self.job.update.encode(), parameters)
            if cursor.rowcount < len(rows):
                kind = Problem if cursor.rowcount or self.done else Futile
                raise kind("the update changed no row", UPDATE, USAGE)
        self.done.update(row.mark for row in rows)
        return rows

    def fail(self, row: Row, error: psycopg.Error | Problem) -> Failure | None:
        return Failure(row.mark, self.name(row), words_of(error))

    def left(self, failed: list[int]) -> int | None:
        row: Any = self.connection.execute(self.select("count(*)", ""), {"failed": failed}).fetchone()
        return int(row[0])

    def pause(self) -> None:
        time.sleep(PAUSE)

    def select(self, columns: str, locking: str) -> bytes:
        """A query of the rows that have not failed."""
        query = str(self.job.query).replace("%", "%%")
        return (
            f"select {columns} from (\n{query}\n {locking}) q where {self.mark} <> all (%(failed)s::bigint[])".encode()
        )

    def name(self, row: Row) -> str:
        """id = 7: what the update knows the row by."""
        used = placeholders(self.job.update)
        known = [key for key in row.values if key in used] or list(row.values)
        return ", ".join(f"{key} = {row.values[key]}" for key in known)


class Queue:
    """The jobs of sql_diffusion.jobs, each with a lease, which is extended while it is painted; what became of them is kept there."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self.connection, self.job = connection, job
        self.heard = False
        self.claimed: list[Row] = []
        self.lost: set[int] = set()  # of these, those that were cancelled, or have another painter
        lease: Any = connection.execute("select extract(epoch from %s::interval)::float8", [job.lease]).fetchone()
        self.period = max(0.1, lease[0] / 3)  # seconds
        if job.stay:
            connection.add_notify_handler(self.hear)
            connection.execute("listen sql_diffusion_jobs")

    def hear(self, _: psycopg.Notify) -> None:
        """There is a new job."""
        self.heard = True

    @contextmanager
    def held(self) -> Iterator[None]:
        self.claimed, self.lost, done = [], set(), threading.Event()
        keeper = threading.Thread(target=self.keep, args=(done,), daemon=True)
        keeper.start()
        try:
            yield
        except KeyboardInterrupt:
            self.give_back()
            raise
        finally:
            done.set()
            keeper.join()

    def give_back(self) -> None:
        """Puts back what is claimed, none of it as an attempt that failed: it was this worker that was ended."""
        for row in self.claimed:
            self.connection.execute(
                "select sql_diffusion.fail_job(%(id)s, %(attempt)s, 'the worker was ended', '57P01')", row.values
            )

    def keep(self, done: threading.Event) -> None:
        """Extends the leases of what is being painted, over a connection of its own, which short work never needs.

        Where nothing of it is wanted any longer, the call that paints it is cancelled.
        """
        with suppress(psycopg.Error, Problem), ExitStack() as stack:  # without it the leases end, and others may claim
            connection = None
            while not done.wait(self.period):
                if connection is None:
                    connection = stack.enter_context(connect(self.job.dsn))
                    stay_idle(connection)
                for row in self.claimed:
                    extended = connection.execute(
                        "select sql_diffusion.extend_lease(%(id)s, %(attempt)s, %(lease)s)",
                        {**row.values, "lease": self.job.lease},
                    )
                    if extended.fetchone() != (True,):
                        self.lost.add(row.mark)
                if self.claimed and not self.wanted(self.claimed) and not done.is_set():
                    self.connection.cancel()

    def claim(self, leave: Leave, failures: list[Failure]) -> list[Row]:
        with self.connection.transaction():  # what is locked first is what is claimed, but for what comes in between
            query = "select c.id from sql_diffusion.claimable_jobs c limit %s for update of c skip locked"
            locked = [id for (id,) in self.connection.execute(query, [leave.rows]).fetchall()]
            rows = self.claim_rows(leave.rows)
            query = "select j.id, j.error from sql_diffusion.jobs j where j.id = any (%s) and j.state = 'failed'"
            missing = sorted({*locked} - {row.mark for row in rows})
            given_up = self.connection.execute(query, [missing]).fetchall() if missing else []
        failures += [Failure(id, f"job {id}", error) for id, error in given_up]
        self.claimed = rows  # which other sessions see by now
        return rows

    def wanted(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows if row.mark not in self.lost]

    def claim_rows(self, count: int) -> list[Row]:
        """Up to so many jobs. One whose last lease has ended is given up in place of being claimed."""
        query = b"""select c.id, c.attempt, c.prompt, c.seed, c.model, c.settings
                    from sql_diffusion.claim_jobs(%(count)s, %(lease)s) c"""
        rows = []
        for *texts, written in text_rows(self.connection, query, {"count": count, "lease": self.job.lease}):
            values = dict(zip(("id", "attempt", "prompt", "seed", "model"), texts, strict=True))
            settings = {
                key: setting_text(value) for key, value in json.loads(written or "{}").items() if value is not None
            }
            rows.append(Row(int(values["id"] or 0), values, settings))
        return rows

    def write(self, rows: list[Row], pictures: list[bytes]) -> list[Row]:
        query = "select sql_diffusion.finish_job(%(id)s, %(attempt)s, %(png)s)"
        return [
            row
            for row, picture in zip(rows, pictures, strict=True)
            if self.connection.execute(query, {**row.values, "png": picture}).fetchone() == (True,)
        ]

    def fail(self, row: Row, error: psycopg.Error | Problem) -> Failure | None:
        code = error.sqlstate if isinstance(error, psycopg.Error) else "22023"
        words = words_of(error)
        self.connection.execute(
            "select sql_diffusion.fail_job(%(id)s, %(attempt)s, %(words)s, %(code)s)",
            {**row.values, "words": words, "code": code},
        )
        state = self.connection.execute("select state from sql_diffusion.jobs where id = %(id)s", row.values).fetchone()
        return Failure(row.mark, f"job {row.values['id']}", words) if state == ("failed",) else None

    def left(self, failed: list[int]) -> int | None:
        if self.job.stay:
            return None
        row: Any = self.connection.execute(
            "select count(*) from sql_diffusion.jobs where finished_at is null"
        ).fetchone()
        return int(row[0])

    def pause(self) -> None:
        if not self.job.stay:
            time.sleep(PAUSE)
        elif not self.heard:
            select.select([self.connection.fileno()], [], [], POLL)  # the next claim reads what has come
        self.heard = False


def text_rows(connection: Connection, query: bytes, parameters: dict[str, Any]) -> Iterator[list[str | None]]:
    """The rows of a query, all values as the server writes them."""
    with connection.cursor() as cursor:
        result = cursor.execute(query, parameters).pgresult
        assert result is not None
        for number in range(result.ntuples):
            values = (result.get_value(number, column) for column in range(result.nfields))
            yield [None if value is None else value.decode() for value in values]


def setting_text(value: Any) -> str:
    """A setting, as the server reads the type that the verb has for it."""
    if isinstance(value, str):
        return value
    text = json.dumps(value, ensure_ascii=False)
    return "{" + text[1:-1] + "}" if isinstance(value, list) else text


def words_of(error: psycopg.Error | Problem) -> str:
    """What is said of an error in one line."""
    return (explain(error) if isinstance(error, psycopg.Error) else error).message


class Painter:
    """What a worker does, on its connection; models is the one to the server that has them, which may be the same."""

    def __init__(self, connection: Connection, job: Job, models: Connection) -> None:
        self.connection, self.job, self.models = connection, job, models
        with told_apart(job.models_from):
            self.schema = extension_schema(models)
        self.prompted: dict[str, bool] = {}
        connection.isolation_level = (
            psycopg.IsolationLevel.READ_COMMITTED
        )  # elsewhere a claim fails, where it is to skip
        self.source = source_of(connection, job)

    def work(self, leave: Leave) -> Report:
        """One batch: claimed, painted, written and committed, or nothing of it."""
        failures: list[Failure] = []
        with self.source.held():
            rows = self.source.claim(leave, failures)
            painted = self.paint_rows(rows, failures) if rows else []
        if rows or failures:
            return Report(len(painted), failures)
        left = self.source.left(leave.failed)
        if left != 0:
            self.source.pause()
        return Report(left=left)

    def paint_rows(self, rows: list[Row], failures: list[Failure], is_part: bool = False) -> list[Row]:
        """Paints rows together, or where that fails one by one; those that were painted."""
        rows = self.source.wanted(rows)
        try:
            with self.connection.transaction():
                return self.source.write(rows, self.paint(rows))
        except (psycopg.Error, Problem) as error:
            if is_lost(error) or self.connection.broken or isinstance(error, Unable):
                raise
            if isinstance(error, Futile) and not is_part:
                raise
            if len(rows) == 1:
                failure = self.source.fail(rows[0], error)
                failures += [failure] if failure else []
                return []
        return [row for each in rows for row in self.paint_rows([each], failures, is_part=True)]

    def paint(self, rows: list[Row]) -> list[bytes]:
        """The pictures, one call of the verb for all that are of one model and the same settings."""
        groups: dict[tuple[str | None, tuple[tuple[str, str], ...]], list[int]] = {}
        for number, row in enumerate(rows):
            if row.values["seed"] is None:
                raise Problem("seed is null, expected an integer", None, USAGE)
            kind = (row.values.get("model") or self.job.model, tuple(sorted(row.settings.items())))
            groups.setdefault(kind, []).append(number)
        pictures: dict[int, bytes] = {}
        for (model, given), numbers in groups.items():
            prompts = [rows[number].values.get("prompt") for number in numbers]
            if model is None:
                model = model_name(self.models, None, prompts[0] is not None)
            settings: dict[str, Any] = {
                "num_inference_steps": self.job.num_inference_steps,
                **dict(given),
                "seeds": [rows[number].values["seed"] for number in numbers],
                "model": model,
                "backend": self.job.backend,
            }
            if self.is_prompted(model):
                if None in prompts:
                    raise Problem(f'prompt is null, but model "{model}" takes a prompt', None, USAGE)
                verb, other, settings = "text_to_image", "class_label", {**settings, "prompts": prompts}
            else:
                if any(prompt is not None for prompt in prompts):
                    raise Problem(f'model "{model}" takes no prompt', None, USAGE)
                verb, other = "ddpm_generate", "negative_prompt"
            settings.pop(other, None)
            pictures.update(zip(numbers, self.call(verb, settings), strict=True))
        return [pictures[number] for number in range(len(rows))]

    def call(self, verb: str, settings: dict[str, Any]) -> Iterator[bytes]:
        """The PNGs of a call of a verb."""
        arguments = sql.SQL(", ").join(
            sql.SQL("{} => {}::{}").format(
                sql.Identifier(key), sql.Placeholder(key), sql.SQL(VERBS[verb].get(key, "text"))
            )
            for key in settings
        )
        query = sql.SQL("select {}(g.image) from {}({}) g").format(
            function(self.schema, "image_png"), function(self.schema, verb), arguments
        )
        with self.connection.cursor(binary=True) as cursor:
            for row in cursor.execute(query, settings).fetchall():
                yield row[0]

    def is_prompted(self, model: str) -> bool:
        """Asked once a model."""
        if model not in self.prompted:
            self.prompted[model] = is_prompted(self.models, model)
        return self.prompted[model]


def serve(pipe: Pipe, job: Job) -> None:
    """A worker's life: batch after batch, for as long as its parent gives it leave."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The parent may end, or end this, at any moment, also while it is told of an error; the transaction goes with the connection.
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with connect(job.dsn) as connection:
                notice_death(connection)
                # what would keep it from painting any row is said before it holds one
                connection.execute("select sql_diffusion.check_painter(%s)", [job.backend])
                painter = Painter(connection, job, connection)
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


def stay_idle(connection: Connection) -> None:
    """Keeps the server from ending a session for what it does not do while a picture is painted elsewhere."""
    connection.execute(
        """select set_config(name, '0', false) from pg_catalog.pg_settings
           where name in ('idle_session_timeout', 'idle_in_transaction_session_timeout')"""
    )


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
def without_interruption() -> Iterator[None]:
    """A process begun in here is not struck by Ctrl-C, which its parent is told of, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def started(job: Job, count: int) -> Iterator[Processes]:
    """So many workers, none of which outlives the context."""
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        for number in range(1, count + 1):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, job), name=f"worker {number}", daemon=True)
            with without_interruption():
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
    models: Connection | None = None,
) -> Outcome:
    """Paints until the query gives nothing but rows that have failed, the limit is reached, or somebody stops it.

    ray: the address of a cluster whose nodes paint; models: a connection to another server, whose models they read.
    """
    job = job._replace(dsn=whole_dsn(connection))
    start: AbstractContextManager[Crew] = started(job, workers)
    if ray is not None:
        from . import ray_workers

        if models is not None and job.models_from is not None:
            job = job._replace(models_from=whole_dsn(models, job.models_from))
        start = ray_workers.started(models or connection, job, workers, ray)
    freed = "are free again" if job.query is not None else f"are free again within {job.lease}"
    with start as crew, stoppable() as stop:  # nothing is at hand until they have started
        return Foreman(crew, batch, limit, stop, advance, tell, freed).run()


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
        freed: str,  # what becomes of the rows of a worker that dies
    ) -> None:
        self.batch, self.limit, self.stop, self.advance, self.tell = batch, limit, stop, advance, tell
        self.freed, self.crew = freed, crew
        self.working = dict.fromkeys(crew.workers, 0)  # rows that each has leave for
        self.painted, self.moved = 0, time.monotonic()  # when there was something to paint last
        self.failed: set[int] = set()
        self.words = Counter[str]()  # of what failed
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
            self.tell(f"worker {worker.number} is gone, its rows {self.freed}: {report.lost}")
            return None
        return report

    def keep(self, report: Report) -> bool:
        """Counts what was done; whether the worker may go on."""
        for failure in report.failures:
            if failure.mark not in self.failed:
                self.failed.add(failure.mark)
                self.words[failure.words] += 1
                if self.words[failure.words] <= ALIKE:
                    self.tell(f"{failure.row}: {failure.words}")
                elif self.words[failure.words] == ALIKE + 1:
                    self.tell("more rows have failed with the same words, and are counted alone")
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
