"""doc/many-servers.md on three servers: its blocks run, and what it says of errors, cancels, servers that are down and poolers is so."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image
from psycopg import Connection

import documented
import helper_command as command
from clusters import new_cluster, run_as_server
from installation import pg_config, program

BUTTERFLIES = Path(__file__).parent.parent / "models" / "butterflies"
DEADLINE = 60  # seconds
STOPS = (
    5  # seconds in which what is cancelled has ended, on a busy machine too; painting on would take more than a minute
)

# One thread each, so that the same picture is the same to the bit, and no painter waits for another's processor.
SETTINGS = "-c wal_level=logical -c sql_diffusion.threads=1 -c sql_diffusion.progress=off"

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

PLPROXY = (pg_config("--sharedir") / "extension" / "plproxy.control").exists()
needs_plproxy = pytest.mark.skipif(
    not PLPROXY,
    reason="PL/Proxy is not installed (Debian: postgresql-15-plproxy, or the number of the PostgreSQL at hand)",
)
needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

# What makes the pictures of the page quick
STEPS = '{"num_inference_steps": 2}'

# A picture of 1000 steps, which nobody waits for
SLOW = "image_png(ddpm_generate({seed}, model => model, num_inference_steps => 1000))"


def connect(service: str) -> Connection[Any]:
    return psycopg.connect(f"service={service}", autocommit=True)


def value(connection: Connection[Any], query: str, *arguments: Any) -> Any:
    row = connection.execute(query.encode(), arguments or None).fetchone()
    assert row is not None
    return row[0]


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


@contextmanager
def three_servers() -> Iterator[dict[str, str]]:
    """The sockets' folders of front, one and two, which all processes find by these names."""
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sql_diffusion.")))
        folder.chmod(0o755)  # the servers may run as another user
        services = folder / "pg_service.conf"
        patch = opened.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PGSERVICEFILE", str(services))
        for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE"):
            patch.delenv(name, raising=False)
        # PL/Proxy names the database in its errors, so each has its server's name.
        sockets = {name: opened.enter_context(new_cluster(SETTINGS)) for name in ("front", "one", "two")}
        services.write_text(
            "".join(f"[{name}]\nhost={sockets[name]}\nuser=postgres\ndbname={name}\n" for name in sockets)
        )
        for name, socket in sockets.items():
            with psycopg.connect(host=socket, user="postgres", dbname="postgres", autocommit=True) as server:
                server.execute(f"create database {name}".encode())
        yield sockets


def printed(page: str) -> list[str]:
    """What psql prints for each block of the page, on whose way the model is loaded."""
    before, heading, after = page.partition("## The same models on all")
    outputs = documented.printed(before, "service=front")
    command.succeed("one", "load", BUTTERFLIES, "--name", "moths", "--no-pack", "--dsn", "service=one")
    with connect("one") as one:
        one.execute(f"update sql_diffusion.models set defaults = '{STEPS}' where name = 'moths'".encode())
    return outputs + documented.printed(heading + after, "service=front")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """On which the page's blocks were run."""
    with three_servers() as sockets:
        page = (documented.DOC / "many-servers.md").read_text()
        if not PLPROXY:
            page = page.partition("## One function")[0]
        for (code, shown), output in zip(documented.BLOCK.findall(page), printed(page), strict=True):
            assert output == shown.strip("\n"), code
        yield sockets


@pytest.fixture(scope="module")
def slow(servers: dict[str, str]) -> None:
    """The same as `painted` and `paint_many`, of pictures that take minutes; model `broken` fails at once."""
    with ExitStack() as opened:
        nodes = {name: opened.enter_context(connect(name)) for name in servers}
        for name in ("one", "two"):
            nodes[name].execute(
                f"create view slow as select node, id, {SLOW.format(seed='seed')} as picture from wanted".encode()
            )
            nodes[name].execute(
                "create function slowly(seeds bigint[], models text[]) returns setof bytea language sql stable "
                f"return (select {SLOW.format(seed='seed')} from unnest(seeds, models) o (seed, model))".encode()
            )
        front = nodes["front"]
        front.execute("create table slow (node text, id bigint, picture bytea) partition by list (node)")
        for name in ("one", "two"):
            front.execute(
                f"create foreign table slow_{name} partition of slow for values in ('{name}') server {name} options (table_name 'slow')".encode()
            )
        if PLPROXY:
            front.execute(
                "create function slowly(seeds bigint[], models text[]) returns setof bytea language plproxy "
                "as $$ cluster 'painters'; split seeds, models; run on hashint8(seeds); $$"
            )


@pytest.fixture
def nodes(servers: dict[str, str]) -> Iterator[dict[str, Connection[Any]]]:
    with ExitStack() as opened:
        yield {name: opened.enter_context(connect(name)) for name in servers}


def busy(node: Connection[Any]) -> int:
    """How many other sessions of applications compute there."""
    return value(
        node,
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid()",
    )


def wait_until(condition: Any, seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to pass"
        time.sleep(0.02)


class Call:
    """A query in a thread of its own, in a session of its own on front, from the time that both servers paint for it."""

    def __init__(self, nodes: dict[str, Connection[Any]], query: str) -> None:
        self.session = connect("front")
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run, args=[query])
        self.thread.start()
        wait_until(lambda: busy(nodes["one"]) > 0 and busy(nodes["two"]) > 0)

    def run(self, query: str) -> None:
        try:
            self.session.execute(query.encode())
        except psycopg.Error as error:
            self.error = error

    def ended(self) -> psycopg.Error:
        """The error that it ended with."""
        self.thread.join(STOPS)
        assert not self.thread.is_alive(), "it goes on"
        assert isinstance(self.error, psycopg.Error)
        self.session.close()
        return self.error


def same(png: bytes, other: bytes) -> bool:
    return bool(np.abs(picture(png) - picture(other)).max() <= 1)


def seeds_of_both(front: Connection[Any]) -> list[int]:
    """A seed that PL/Proxy sends to one, and a seed that it sends to two."""
    smallest = "select min(s) from generate_series(1, 100) s where hashint8(s) & 1 = %s"
    return [value(front, smallest, remainder) for remainder in (0, 1)]


# postgres_fdw


def test_pictures_are_those_of_one_server(nodes: dict[str, Connection[Any]]) -> None:
    """The bundled model has the same weights as the one that was shipped."""
    painted = (
        nodes["front"]
        .execute("select p.id, o.seed, p.picture from pictures p join orders o using (id) order by id")
        .fetchall()
    )
    assert [row[0] for row in painted] == [1, 2, 3, 4, 5, 6, 7]
    for id, seed, png in painted:
        alone = "select image_png(ddpm_generate(%s, 'butterflies', 2))"
        assert same(png, value(nodes["one" if id % 2 else "two"], alone, seed))


def test_a_cancel_stops_all_servers(nodes: dict[str, Connection[Any]], slow: None) -> None:
    call = Call(nodes, "select count(picture) from slow")
    call.session.cancel()
    assert isinstance(call.ended(), psycopg.errors.QueryCanceled)
    wait_until(lambda: not busy(nodes["one"]) and not busy(nodes["two"]), STOPS)


def test_a_timeout_stops_all_servers(nodes: dict[str, Connection[Any]], slow: None) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        nodes["front"].execute("set statement_timeout = '2s'; select count(picture) from slow")
    wait_until(lambda: not busy(nodes["one"]) and not busy(nodes["two"]), STOPS)


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
def test_what_ends_one_server_ends_the_query(nodes: dict[str, Connection[Any]], slow: None, end: str) -> None:
    call = Call(nodes, "select count(picture) from slow")
    nodes["two"].execute(
        f"select {end}(pid) from pg_stat_activity where application_name = 'postgres_fdw' and state = 'active'".encode()
    )
    assert call.ended().sqlstate in ("57014", "57P01", "08006")
    wait_until(lambda: not busy(nodes["one"]) and not busy(nodes["two"]), STOPS)


def test_settings_travel_with_the_server(nodes: dict[str, Connection[Any]]) -> None:
    nodes["one"].execute("create view setting as select current_setting('sql_diffusion.progress') as progress")
    nodes["front"].execute("create foreign table setting (progress text) server one")
    nodes["front"].execute("set sql_diffusion.progress = on")
    assert value(nodes["front"], "select progress from setting") == "off"


# PL/Proxy


@needs_plproxy
def test_proxied_pictures_are_those_of_one_server(nodes: dict[str, Connection[Any]], rng: np.random.Generator) -> None:
    seeds = [int(seed) for seed in rng.integers(2**62, size=4)]
    alone = {seed: value(nodes["one"], "select image_png(ddpm_generate(%s, 'butterflies', 2))", seed) for seed in seeds}
    many = dict(nodes["front"].execute("select seed, picture from paint_many(%s, 'moths')", [seeds]).fetchall())
    assert sorted(many) == sorted(seeds)
    for seed in seeds:
        assert same(many[seed], alone[seed])
    assert same(value(nodes["front"], "select paint(%s::bigint, 'moths')", seeds[0]), alone[seeds[0]])
    assert same(value(nodes["front"], "select paint_anywhere(%s::bigint, 'moths')", seeds[1]), alone[seeds[1]])


@needs_plproxy
@pytest.mark.parametrize("timeout", [False, True])
def test_a_cancel_stops_all_proxied_calls(nodes: dict[str, Connection[Any]], slow: None, timeout: bool) -> None:
    first, second = seeds_of_both(nodes["front"])
    query = f"select count(*) from slowly('{{{first},{second}}}', '{{moths,moths}}')"
    call = Call(nodes, ("set statement_timeout = '2s';" if timeout else "") + query)
    if not timeout:
        call.session.cancel()
    assert isinstance(call.ended(), psycopg.errors.QueryCanceled)
    wait_until(lambda: not busy(nodes["one"]) and not busy(nodes["two"]), STOPS)


@needs_plproxy
def test_an_error_does_not_wait_for_the_other_server(nodes: dict[str, Connection[Any]], slow: None) -> None:
    first, second = seeds_of_both(nodes["front"])
    with (
        connect("front") as session,
        pytest.raises(psycopg.errors.UndefinedObject, match=r'\[two\] REMOTE ERROR: .*model "nosuch" does not exist'),
    ):
        session.execute(f"select count(*) from slowly('{{{first},{second}}}', '{{moths,nosuch}}')".encode())
    assert busy(nodes["one"])
    nodes["one"].execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where query like '%slowly%' and pid <> pg_backend_pid()"
    )


# A server that is down


@contextmanager
def down(socket: str) -> Iterator[None]:
    """A cluster is stopped at once, and started again."""
    control = [program("pg_ctl"), f"--pgdata={socket}/data", "--silent", "--wait", f"--log={socket}/server.log"]
    run_as_server(*control, "--mode=immediate", "stop")
    try:
        yield
    finally:
        run_as_server(*control, "restart")  # with the options that it had


def test_without_a_server(servers: dict[str, str], slow: None) -> None:
    """It is stopped amid a query; the others are asked without it; when it is back, so are its pictures."""
    with connect("front") as front, connect("one") as one:
        with connect("two") as two:
            call = Call({"one": one, "two": two}, "select count(picture) from slow")
        with down(servers["two"]):
            call.ended()
            wait_until(lambda: not busy(one), STOPS)
            with pytest.raises(psycopg.errors.SqlclientUnableToEstablishSqlconnection, match='connect to server "two"'):
                front.execute("select count(picture) from painted")
            assert value(front, "select count(picture) from painted where node <> 'two'") == 4
        assert value(front, "select count(picture) from painted") == 7


@needs_plproxy
def test_proxied_calls_without_a_server(servers: dict[str, str]) -> None:
    """In one session all along."""
    with connect("front") as front:
        first, second = seeds_of_both(front)
        paint = "select paint(%s::bigint, 'moths')"
        before = value(front, paint, second)
        with down(servers["two"]):
            assert value(front, paint, first)
            for _ in range(2):
                with pytest.raises(psycopg.Error, match="paint"):
                    front.execute(paint.encode(), [second])
            front.execute("alter server painters options (set p1 'service=one')")
            assert same(value(front, paint, second), before)
            front.execute("alter server painters options (set p1 'service=two')")
        assert same(value(front, paint, second), before)


# A standby behind a pooler


@pytest.fixture(scope="module")
def pooler(servers: dict[str, str]) -> Iterator[str]:
    """The socket's folder of pgbouncer: database `standby` by one connection, `both` by the primary and a standby in turn."""
    with ExitStack() as opened:
        standby = opened.enter_context(new_cluster(SETTINGS, standby_of=servers["one"]))
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sql_diffusion.")))
        user = "postgres" if os.geteuid() == 0 else None  # pgbouncer refuses to run as root
        if user is not None:
            shutil.chown(folder, user)
        settings = folder / "pgbouncer.ini"
        limit = "connect_query='set sql_diffusion.memory_limit = ''2GB'' '"
        settings.write_text(
            "[databases]\n"
            f"standby = host={standby} dbname=one user=postgres pool_size=1 {limit}\n"
            f"both = host={servers['one']},{standby} dbname=one user=postgres pool_size=2\n"
            "[pgbouncer]\n"
            f"unix_socket_dir = {folder}\nlisten_port = 6432\nauth_type = any\npool_mode = transaction\n"
        )
        settings.chmod(0o644)
        log = opened.enter_context((folder / "log").open("w"))
        groups: list[str] | None = None if user is None else []
        pgbouncer = [str(PGBOUNCER), str(settings)]
        process = opened.enter_context(
            subprocess.Popen(pgbouncer, user=user, group=user, extra_groups=groups, cwd="/", stderr=log)
        )
        opened.callback(process.terminate)
        wait_until(lambda: (folder / ".s.PGSQL.6432").exists() or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield str(folder)


@pytest.fixture
def pooled(pooler: str) -> Iterator[Any]:
    """Connects by the pooler; a prepared statement is one server session's, which is why none is prepared."""
    with ExitStack() as opened:

        def open_one(database: str = "standby") -> Connection[Any]:
            where = f"host={pooler} port=6432 user=postgres dbname={database}"
            return opened.enter_context(psycopg.connect(where, autocommit=True, prepare_threshold=None))

        yield open_one


@needs_pgbouncer
def test_a_pooled_standby_paints(nodes: dict[str, Connection[Any]], pooled: Any, rng: np.random.Generator) -> None:
    """More clients than connections, of which one has the network for all of them."""
    seeds = [int(seed) for seed in rng.integers(2**62, size=3)]
    clients = [pooled() for _ in seeds]
    assert all(value(client, "select pg_is_in_recovery()") for client in clients)
    assert len({value(client, "select pg_backend_pid()") for client in clients}) == 1
    query = "select image_png(ddpm_generate(%s, 'moths', 2))"
    painted: dict[int, bytes] = {}

    def paint(client: Connection[Any], seed: int) -> None:
        painted[seed] = value(client, query, seed)

    threads = [threading.Thread(target=paint, args=pair) for pair in zip(clients, seeds, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        assert same(painted[seed], value(nodes["one"], query, seed))


@needs_pgbouncer
def test_pooled_settings(pooled: Any) -> None:
    """Of a transaction, of the pooler, and one that another client meets."""
    first, second = pooled(), pooled()
    backend = "select current_setting('sql_diffusion.backend', true)"
    with first.transaction():
        first.execute("set local sql_diffusion.backend = 'sql'")
        assert value(first, backend) == "sql"
    assert value(second, backend) in ("", None)
    assert value(second, "select current_setting('sql_diffusion.memory_limit')") == "2GB"
    first.execute("set sql_diffusion.backend = 'nosuch'")
    with pytest.raises(psycopg.Error, match="backend is 'nosuch'"):
        second.execute("select ddpm_generate(1)")
    second.execute("reset sql_diffusion.backend")


@needs_pgbouncer
def test_what_a_pooled_standby_does_not_have(pooled: Any) -> None:
    first, second = pooled(), pooled()
    for statement in ("listen painted", "create temporary table t ()"):
        with pytest.raises(psycopg.Error, match=r"read-only transaction|during recovery"):
            first.execute(statement)
    first.execute("select pg_advisory_lock(1)")
    assert value(second, "select pg_try_advisory_lock(1)"), "a session's lock is of whose transaction is next"
    first.execute("select pg_advisory_unlock_all()")


@needs_pgbouncer
def test_pooled_notices_arrive(pooled: Any) -> None:
    client, heard = pooled(), []
    client.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    client.execute("do $$ begin raise notice 'step 1 of 2'; end $$")
    assert heard == ["step 1 of 2"]


@needs_pgbouncer
def test_a_pooled_call_is_cancelled(pooled: Any) -> None:
    client = pooled()
    timer = threading.Timer(1, client.cancel)
    timer.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        client.execute("select ddpm_generate(1, num_inference_steps => 1000)")
    assert value(client, "select array_ndims(ddpm_generate(1, 'moths', 1))") == 3


@needs_pgbouncer
def test_a_pooler_spreads_over_servers(pooled: Any) -> None:
    with ExitStack() as held:
        clients = [pooled("both") for _ in range(2)]
        for client in clients:
            held.enter_context(client.transaction())
        assert {value(client, "select pg_is_in_recovery()") for client in clients} == {False, True}
