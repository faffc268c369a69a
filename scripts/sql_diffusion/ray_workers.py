"""Workers on the nodes of a Ray cluster: `sql-diffusion run --ray ADDRESS`.

Each is an actor with a connection to PostgreSQL. It claims rows, reads the model once, paints with the engine of its own
process, and writes the pictures, as a worker on this machine does but for where it paints: a node needs this package, and no
PostgreSQL. Ray says which node has room for it, and which GPU. With --models-from it has a second connection, to the server
that it reads the model from and that is asked all that the engine asks.
"""

import logging
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psycopg

from sql_diffusion_numpy.errors import Refused
from sql_diffusion_numpy.session import thread_count

from . import model_server
from .database import Connection, connect, is_lost
from .engine import CONFLICTS, Engine, backend_here
from .errors import DATABASE, USAGE, Lost, Problem, Unable
from .run import (
    MOMENT,
    Job,
    Leave,
    Painter,
    Report,
    Row,
    Worker,
    last_words,
    notice_death,
    stay_idle,
)

# What begins a connection of HTTP/2 (RFC 9113, 3.4): the preface, and a frame of no settings, whose fourth byte is its type
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS
ROOM = 30  # seconds, in which Ray has to find room for the workers


class Needs(NamedTuple):
    """What each worker takes of a node."""

    threads: int
    gpus: int


class DistantPainter(Painter):
    """Paints in its own process."""

    def __init__(self, connection: Connection, job: Job, models: Connection, threads: int) -> None:
        super().__init__(connection, job, models)
        self.painted: list[Row] = []  # at the moment
        with model_server.told_apart(job.models_from):
            self.engine = Engine(models, threads, self.check)
            self.engine.check_painter(job.backend)

    def check(self) -> None:
        """Ends a call whose pictures nobody wants any longer; the engine asks now and then."""
        if self.painted and not self.source.wanted(self.painted):
            raise Problem("the picture is not wanted any longer", None, USAGE)

    def paint(self, rows: list[Row]) -> list[bytes]:
        """The pictures, of the models that there were when the rows were claimed; no row is blamed where their server fails."""
        self.painted = rows
        if self.models is self.connection:
            return super().paint(rows)
        state = model_server.written(self.connection)
        try:
            model_server.catch_up(self.models, state)
            return super().paint(rows)
        except Unable as error:
            raise model_server.named(error) from error
        except psycopg.Error as error:
            if is_lost(error) or self.models.broken or error.sqlstate in CONFLICTS:
                raise model_server.named(error, Lost) from error
            raise

    def is_prompted(self, model: str) -> bool:
        """Asked once a model, which is waited for where it has not arrived yet."""
        if self.models is self.connection or model in self.prompted:
            return super().is_prompted(model)
        model_server.wait_for_model(self.connection, self.models, model)
        try:
            return super().is_prompted(model)
        except Problem as error:
            raise model_server.named(error) from error

    def call(self, verb: str, settings: dict[str, Any]) -> Iterator[bytes]:
        """The PNGs of a call of a verb."""
        return self.engine.pictures(verb, settings)


class Actor:
    """A worker where it lives."""

    def __init__(self, job: Job, threads: int) -> None:
        self.job, self.threads = job, threads
        self.painter: DistantPainter | None = None

    def work(self, leave: Leave | None) -> Report:
        """One batch; with no leave for one it gets ready."""
        try:
            if self.painter is None or leave is None:
                connection = models = lasting(connect(self.job.dsn))
                if self.job.models_from is not None:
                    with model_server.told_apart(self.job.models_from):
                        models = lasting(model_server.connect(self.job.models_from))
                self.painter = DistantPainter(connection, self.job, models, self.threads)
                return Report()
            return self.painter.work(leave)
        except (psycopg.Error, Problem) as error:
            return last_words(error)


def lasting(connection: Connection) -> Connection:
    """A connection that the server keeps for as long as the worker lives, and no longer."""
    notice_death(connection)
    notice_silence(connection)
    stay_idle(connection)
    return connection


def notice_silence(connection: Connection) -> None:
    """Lets the server find out within a minute that a machine is gone which held rows: by itself it asks after two hours."""
    for name, value in {"idle": 30, "interval": 10, "count": 3}.items():
        connection.execute("select set_config(%s, %s, false)", [f"tcp_keepalives_{name}", str(value)])


def import_ray() -> Any:
    """Ray, which is an extra. It tells its makers nothing of what is done here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise Problem("the Python package ray is not installed", "pip install 'sql_diffusion[ray]'", USAGE) from error
    return ray


class ActorHandle:
    """An actor as the parent sees it."""

    def __init__(self, ray: Any, number: int, actor: Any) -> None:
        self.ray, self.number, self.actor = ray, number, actor
        self.answer = actor.work.remote(None)

    def send(self, leave: Leave | None) -> None:
        if leave is None:
            self.ray.kill(self.actor)
        else:
            self.answer = self.actor.work.remote(leave)

    def receive(self) -> Report:
        try:
            report = self.ray.get(self.answer)
        except self.ray.exceptions.RayError as error:
            self.ray.kill(self.actor)  # it may be its machine's network alone that is gone
            return Report(lost=reason(error))
        assert isinstance(report, Report)
        return report

    def join(self) -> None:
        """Ray ends it."""


def reason(error: Exception) -> str:
    """Of what Ray says of an actor's end, the sentence that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith('File "') for line in lines):  # Python's own error, there
        has_not = any("failed to import" in line for line in lines)
        return lines[-1] + ("; the node needs the package: pip install 'sql_diffusion[ray]'" if has_not else "")
    return next((line for line in lines if "because" in line), lines[0] if lines else type(error).__name__)


class Actors:
    """Workers on the nodes of a cluster."""

    def __init__(self, ray: Any, workers: list[ActorHandle]) -> None:
        self.ray, self.workers = ray, workers

    def ready(self, working: Collection[Worker]) -> Iterable[Worker]:
        answers = {worker.answer: worker for worker in self.workers if worker in working}
        return [answers[answer] for answer in self.ray.wait(list(answers), num_returns=1, timeout=MOMENT)[0]]


def needs_of(connection: Connection, job: Job) -> Needs:
    """What the session's settings come to: sql_diffusion.threads of its cores, and a GPU where sql_diffusion.device is one."""
    row: Any = connection.execute(
        """select coalesce(nullif(current_setting('sql_diffusion.threads', true), ''), '1'),
                  coalesce(current_setting('sql_diffusion.device', true), '')"""
    ).fetchone()
    threads, device = row
    try:
        count = thread_count(threads)
    except Refused as error:
        raise Problem(error.message, error.hint, USAGE) from error
    return Needs(count, int(job.backend == "torch" and device.startswith("cuda")))


def reach(address: str) -> None:
    """Raises an error where nobody listens who speaks HTTP/2, as Ray does: Ray itself would try on and on, and hear no Ctrl-C."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address:
        return
    if not port.isdecimal():
        raise ValueError("its port is no number")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return
        connection.sendall(HELLO)
        with suppress(TimeoutError, ConnectionResetError), connection.makefile("rb") as answer:
            if answer.read(len(SETTINGS))[3:4] == SETTINGS[3:4]:
                return
    raise ConnectionError("what listens there is not Ray's first node")


@contextmanager
def started(models: Connection, job: Job, count: int, address: str) -> Iterator[Actors]:
    """So many workers, none of which outlives the context. models: a connection to the server that they read the models from."""
    ray = import_ray()
    job = job._replace(backend=backend_here(models, job.backend))
    needs = needs_of(models, job)
    try:
        reach(address)
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise Problem(
            f"no connection to Ray at {address}: {words[0]}",
            "Start its first node, and name that: ray start --head --port=6379, then --ray HOST:6379",
            DATABASE,
        ) from error
    try:
        share = {"CPU": needs.threads, **({"GPU": needs.gpus} if needs.gpus else {})}
        group = ray.util.placement_group([share] * count, strategy="SPREAD")
        if not any(group.wait(1) for _ in range(ROOM)):  # Ctrl-C is heard in between alone
            raise Problem(
                f"Ray found no room for {count} workers within {ROOM} seconds: each takes "
                f"{needs.threads} CPU{f' and {needs.gpus} GPU' if needs.gpus else ''}, and the nodes have "
                f"{ray.cluster_resources().get('CPU', 0):g} CPUs and {ray.cluster_resources().get('GPU', 0):g} GPUs in all",
                "Start fewer, --workers N, or more nodes: ray start --address=HOST:6379",
                USAGE,
            )
        place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
        kind = ray.remote(Actor).options(num_cpus=needs.threads, num_gpus=needs.gpus, scheduling_strategy=place)
        yield Actors(ray, [ActorHandle(ray, n, kind.remote(job, needs.threads)) for n in range(1, count + 1)])
    finally:
        ray.shutdown()  # ends the actors
