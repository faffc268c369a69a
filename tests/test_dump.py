"""A dump carries the models that were loaded, and nothing that CREATE EXTENSION brings back by itself."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from databases import program
from reference import insert_model, random_unet

CHECKSUMS = """
select 'model', name, bundled, md5(scheduler::text || defaults::text) from sql_diffusion.models
union all
select model, component, null, md5(config::text) from sql_diffusion.components
union all
select model, key, null, md5(array_send(weight) || coalesce(array_send(bias), '')) from sql_diffusion.parameters
order by 1, 2
"""


@pytest.mark.parametrize("form", ["plain", "custom", "directory"])
def test_dump_and_restore(database: str, rng: np.random.Generator, tmp_path: Path, form: str) -> None:
    source, target = (f"sql_diffusion_{secrets.token_hex(4)}" for _ in range(2))
    call = "select ddpm_generate(7, 'mine', 2, backend => 'sql')"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        for name in (source, target):
            server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(dbname=source, autocommit=True) as own:
                own.execute("create extension sql_diffusion")
                insert_model(own, "mine", random_unet(rng))
                checksums = own.execute(CHECKSUMS).fetchall()
                image = own.execute(call).fetchone()
            file = tmp_path / "dump"
            subprocess.run([program("pg_dump"), f"--format={form}", f"--file={file}", source], check=True)
            if form == "plain":
                text = file.read_text()
                assert "\tmine\t" in text or "\nmine\t" in text
                assert "\nbutterflies\t" not in text
                restore = [program("psql"), "--quiet", "--set=ON_ERROR_STOP=1", f"--file={file}", target]
            else:
                restore = [program("pg_restore"), "--exit-on-error", f"--dbname={target}", str(file)]
            subprocess.run(restore, check=True, stdout=subprocess.DEVNULL)
            with psycopg.connect(dbname=target) as own:
                assert own.execute(CHECKSUMS).fetchall() == checksums
                assert own.execute(call).fetchone() == image
        finally:
            for name in (source, target):
                server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
