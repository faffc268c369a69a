"""No memory, no disk: the error says so, nothing is half done, and the server goes on."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

import helper_command as command
from clusters import new_cluster
from reference import insert_model, random_unet

# of a kind that makes 40 MB of weights
LARGE: dict[str, Any] = {"block_out_channels": [64, 256], "layers_per_block": 2, "norm_num_groups": 32}


@pytest.fixture(scope="module")
def poor() -> Iterator[str]:
    """The socket of a server whose sessions may have 600 MB of address space, the shared buffers and NumPy among it."""
    with new_cluster("-c shared_buffers=16MB -c sql_diffusion.threads=1", memory=600 << 20) as socket:
        with psycopg.connect(host=socket, user="postgres", autocommit=True) as session:
            session.execute("create extension sql_diffusion_numpy cascade")
        yield socket


@pytest.mark.parametrize("schema", ["sql_diffusion", "sql_diffusion_numpy"])
def test_out_of_memory_while_computing(poor: str, schema: str) -> None:
    call = "select {}.pad(array_fill(0::real, '{{4,64,64}}'), {border}, {border}, {border}, {border})"
    with psycopg.connect(host=poor, user="postgres", autocommit=True) as session:
        with pytest.raises(psycopg.errors.OutOfMemory, match="out of memory"):
            session.execute(call.format(schema, border=1900).encode())
        query = f"select array_dims({call.format(schema, border=2)[7:]})"
        assert session.execute(query.encode()).fetchone() == ("[1:4][1:68][1:68]",)
        row = session.execute("select array_length(ddpm_generate(3, num_inference_steps => 1), 1)").fetchone()
        assert row == (3,)


def test_out_of_memory_while_loading(poor: str) -> None:
    """Nothing of the model stays."""
    with psycopg.connect(host=poor, user="postgres") as session:
        insert_model(session, "large", random_unet(np.random.default_rng()))
        with pytest.raises(psycopg.errors.OutOfMemory, match="out of memory"):
            session.execute(
                "update sql_diffusion.parameters set weight = array_fill(1::real, '{8192,16000}') where model = 'large'"
            )
        session.rollback()
        assert session.execute("select from sql_diffusion.models where not bundled").fetchall() == []


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 190 MB, which only root can make."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file system of a size")
    folder = Path(tempfile.mkdtemp(prefix="sql_diffusion."))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=190m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        place = folder / "tablespace"
        place.mkdir()
        shutil.chown(place, "postgres")
        folder.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_disk_full_while_loading(small_disk: Path, tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(random_unet(np.random.default_rng(), **LARGE), DDPMScheduler()).save_pretrained(tmp_path / "large")
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        server.execute(f"create tablespace {name} location '{small_disk}'".encode())
        try:
            server.execute(sql.SQL("create database {0} tablespace {0}").format(sql.Identifier(name)))
            with psycopg.connect(dbname=name, autocommit=True) as own:
                own.execute("create extension sql_diffusion")
                # what is free goes to a table, but for 10 MB, and 4 more that are given back for the cleaning up
                spare = small_disk.parent / "spare"
                spare.write_bytes(bytes(4 << 20))
                free = shutil.disk_usage(small_disk).free - (10 << 20)
                own.execute("create table filler (content bytea)")
                own.execute("alter table filler alter content set storage external")
                own.execute(
                    "insert into filler select decode(repeat('00', 1000000), 'hex') from generate_series(1, %s)",
                    [free // 1_050_000],
                )
            done = command.run(name, "load", tmp_path / "large")
            assert done.returncode != 0
            assert "No space left on device" in done.stderr + done.stdout
            with psycopg.connect(dbname=name, autocommit=True) as own:
                assert own.execute("select from sql_diffusion.models where not bundled").fetchall() == []
                spare.unlink()
                own.execute("drop table filler")
                own.execute("vacuum")
            command.succeed(name, "load", tmp_path / "large")
            with psycopg.connect(dbname=name, autocommit=True) as own:
                assert own.execute("select count(*) from sql_diffusion.models where not bundled").fetchone() == (1,)
        finally:
            server.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            server.execute(f"drop tablespace {name}".encode())
