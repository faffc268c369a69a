"""A model appears whole or not at all: loads that are killed, replaced under readers, or started twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import UNet2DModel

import helper_command as command
from reference import random_unet
from sql_diffusion import cli

PRIVATE_CLUSTER = Path(__file__).parent.parent / "scripts" / "private-cluster"
MOMENTS = 10
Kill = Callable[[subprocess.Popen[str], int], None]  # told the helper's process and its backend's id
PLAIN = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A cluster of the test's own: killing a backend makes PostgreSQL end every other session too."""
    keeper = subprocess.Popen(
        [PRIVATE_CLUSTER, "sh", "-c", 'echo "$PGHOST"; exec cat'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin and keeper.stdout
    host = keeper.stdout.readline().strip()
    variables = {"PGHOST": host, "PGPORT": "5432", "PGUSER": "postgres"}
    try:
        with connect(variables) as own:
            own.execute("create extension sql_diffusion")
        yield variables
    finally:
        keeper.stdin.close()
        keeper.wait()


def connect(cluster: dict[str, str]) -> psycopg.Connection:
    """A connection; after a crash as soon as the server takes one again."""
    end = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(
                host=cluster["PGHOST"], port=cluster["PGPORT"], user="postgres", dbname="postgres", autocommit=True
            )
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 12 MB, which takes long enough to copy for a kill to strike in the middle."""
    folder = tmp_path_factory.mktemp("large")
    random_unet(np.random.default_rng(0), block_out_channels=[32, 160], **PLAIN).save_pretrained(folder)
    return folder


def kill_helper(process: subprocess.Popen[str], backend: int) -> None:
    process.kill()


def kill_backend(process: subprocess.Popen[str], backend: int) -> None:
    os.kill(backend, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_helper, kill_backend])
def test_killed_at_random_moments(
    cluster: dict[str, str],
    large: Path,
    rng: np.random.Generator,
    tmp_path: Path,
    kill: Kill,
) -> None:
    if kill is kill_backend and os.geteuid() != 0:
        pytest.skip("only root may kill a backend of another user")
    small = tmp_path / "small"
    random_unet(rng).save_pretrained(small)
    command.succeed("postgres", "load", small, "--name", "kept", **cluster)
    old = digest(cluster, "kept")
    total = 2 * (large / "diffusion_pytorch_model.safetensors").stat().st_size  # each value travels with its length
    struck = 0
    for _ in range(4 * MOMENTS):
        share = rng.uniform(-0.1, 1)  # of the bytes copied; below 0: as soon as the session is there
        # in turn a model that is not there yet, and one that is to be replaced
        name = ["killed", "kept"][struck % 2]
        process = command.start("postgres", "load", large, "--name", name, "--replace", **cluster)
        hit = strike(cluster, process, kill, share * total)
        out, err = process.communicate(timeout=60)
        if not hit:  # it was sooner done than killed
            assert process.returncode == 0, err
            if name == "kept":
                command.succeed("postgres", "load", small, "--name", "kept", "--replace", **cluster)
            else:
                command.succeed("postgres", "remove", "killed", **cluster)
            continue
        struck += 1
        assert process.returncode == (-signal.SIGKILL if kill is kill_helper else 3), (out, err)
        assert "Traceback" not in err
        if kill is kill_backend:
            assert "connection was lost" in err or "no connection" in err
        assert rows(cluster, "killed") == (0, 0, 0)
        assert digest(cluster, "kept") == old
        if struck == MOMENTS:
            break
    assert struck == MOMENTS
    command.succeed("postgres", "load", large, "--name", "killed", "--replace", **cluster)
    assert rows(cluster, "killed")[:2] == (1, 1)
    for name in ("killed", "kept"):
        command.succeed("postgres", "remove", name, **cluster)
        assert rows(cluster, name) == (0, 0, 0)


def strike(cluster: dict[str, str], process: subprocess.Popen[str], kill: Kill, moment: float) -> bool:
    """Kills once the server has taken so many bytes. False where the load was done before."""
    with connect(cluster) as own:
        while process.poll() is None:
            found = own.execute(
                "select a.pid, coalesce(p.bytes_processed, -1) from pg_stat_activity a "
                "left join pg_stat_progress_copy p on p.pid = a.pid "
                "where a.application_name = 'sql-diffusion' and a.backend_type = 'client backend'"
            ).fetchone()
            if found and (found[1] >= moment or moment < 0):
                kill(process, found[0])
                process.wait(60)
                return process.returncode != 0
    return False


def rows(cluster: dict[str, str], name: str) -> tuple[int, int, int]:
    """How many rows the tables hold of a model, once the session that wrote it is gone."""
    with connect(cluster) as own:
        while own.execute("select 1 from pg_stat_activity where application_name = 'sql-diffusion'").fetchone():
            time.sleep(0.01)
        found = own.execute(
            "select (select count(*) from sql_diffusion.models where name = %(name)s), "
            "(select count(*) from sql_diffusion.components where model = %(name)s), "
            "(select count(*) from sql_diffusion.parameters where model = %(name)s)",
            {"name": name},
        ).fetchone()
    assert found is not None
    return found


def digest(cluster: dict[str, str], name: str) -> Any:
    """A digest of all that the tables hold of a model."""
    with connect(cluster) as own:
        return own.execute(
            "select m.sha256, c.config, md5(string_agg(p::text, '' order by p.key)) from sql_diffusion.models m "
            "join sql_diffusion.components c on c.model = m.name join sql_diffusion.parameters p on p.model = m.name "
            "where m.name = %s group by m.sha256, c.config",
            [name],
        ).fetchone()


@pytest.fixture
def constants(tmp_path: Path) -> list[Path]:
    """Two checkpoints of one shape; every value of the first is 1, of the second 2."""
    folders = []
    for value in (1.0, 2.0):
        unet: UNet2DModel = random_unet(np.random.default_rng(0))
        with torch.no_grad():
            for parameter in unet.parameters():
                parameter.fill_(value)
        unet.save_pretrained(tmp_path / str(value))
        folders.append(tmp_path / str(value))
    return folders


def test_readers_see_the_old_or_the_new_model(database: str, constants: list[Path]) -> None:
    command.succeed(database, "load", constants[0], "--name", "replaced")
    seen: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        with psycopg.connect(dbname=database, autocommit=True) as own:
            while not stop.is_set():
                seen.append(
                    own.execute(  # one statement, as ddpm_generate is
                        "select count(*), sum(cardinality(p.weight)), min(v.v), max(v.v), min(m.sha256) "
                        "from sql_diffusion.models m, sql_diffusion.parameters p, unnest(p.weight || p.bias) v (v) "
                        "where m.name = 'replaced' and p.model = m.name and cardinality(p.weight) < 100"
                    ).fetchone()
                )

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 7):
            command.succeed(database, "load", constants[number % 2], "--name", "replaced", "--replace")
    finally:
        stop.set()
        reader.join()
        with psycopg.connect(dbname=database, autocommit=True) as own:
            own.execute("delete from sql_diffusion.models where name = 'replaced'")
    assert {low for _, _, low, _, _ in seen} == {1.0, 2.0}  # both were seen
    assert len({(count, size) for count, size, *_ in seen}) == 1 and seen[0][0] > 0  # always as many values
    assert all(low == high for _, _, low, high, _ in seen)  # never a mixture
    assert len({(low, digest) for _, _, low, _, digest in seen}) == 2  # and each with its own digest


@pytest.mark.parametrize("replace", [[], ["--replace"]])
def test_two_loads_of_one_name(database: str, constants: list[Path], replace: list[str]) -> None:
    """One after the other: the second is told that the name is taken, or replaces the first."""
    processes = [command.start(database, "load", folder, "--name", "twice", *replace) for folder in constants]
    said = [process.communicate(timeout=60)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    with psycopg.connect(dbname=database, autocommit=True) as own:
        found = own.execute(
            "select min(v.v), max(v.v) from sql_diffusion.parameters p, unnest(p.bias) v (v) where p.model = 'twice'"
        ).fetchone()
        own.execute("delete from sql_diffusion.models where name = 'twice'")
    assert found in [(1, 1), (2, 2)]
    assert codes == ([0, 0] if replace else [0, 5]), said
    assert all("Traceback" not in text for text in said)


def test_interrupted_by_the_user(cluster: dict[str, str], large: Path) -> None:
    """Ctrl-C: exit code 130, no traceback, no trace."""
    process = command.start("postgres", "load", large, "--name", "killed", **cluster)
    assert strike(cluster, process, lambda process, backend: process.send_signal(signal.SIGINT), 1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert rows(cluster, "killed") == (0, 0, 0)


def test_interrupted_while_it_packs(cluster: dict[str, str], large: Path) -> None:
    """The model is there, whole, and the command says what is not done."""
    process = command.start("postgres", "load", large, "--name", "killed", "--pack", **cluster)
    with connect(cluster) as own:
        packing = "select 1 from pg_stat_activity where state = 'active' and query like 'select sql_diffusion.pack(%'"
        while process.poll() is None and not own.execute(packing).fetchone():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Loaded killed, but not packed it: select sql_diffusion.pack('killed') does that" in err
    assert "Traceback" not in err
    assert rows(cluster, "killed")[:2] == (1, 1)
    command.succeed("postgres", "remove", "killed", **cluster)


def test_interrupted_within_code_in_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where Ctrl-C strikes a function that C code calls, that may raise another error: NumPy did, with a file's path."""

    class Struck(type(Path())):  # type: ignore[misc]
        def __fspath__(self) -> str:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interruption:
                raise SystemError("returned a result with an exception set") from interruption

    monkeypatch.setattr(cli, "app", lambda **_: np.fromfile(Struck("weights")))
    monkeypatch.setenv("SQL_DIFFUSION_TRACEBACK", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "sql-diffusion: interrupted\n"
