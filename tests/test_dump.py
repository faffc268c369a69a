"""A dump carries the models that were loaded, and nothing that CREATE EXTENSION brings back by itself."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from databases import new_database
from installation import program
from reference import insert_model, random_unet
from trained_tokenizers import insert_tokenizer, train

CHECKSUMS = """
select 'model', name, bundled, md5(scheduler::text || defaults::text) from sql_diffusion.models
union all
select model, component, null, md5(config::text) from sql_diffusion.components
union all
select model, key, null, md5(array_send(weight) || coalesce(array_send(bias), '') || coalesce(dtype::bytea || weight_bytes, '')) from sql_diffusion.parameters
union all
select model, component, null, md5(config::text) from sql_diffusion.tokenizers
union all
select model, 'vocabulary', null, md5(string_agg(concat_ws(' ', component, id, token, ends_word), ',' order by component, id)) from sql_diffusion.vocabulary group by model
union all
select model, 'merges', null, md5(string_agg(concat_ws(' ', component, first, second, rank, merged), ',' order by component, rank)) from sql_diffusion.merges group by model
union all
select 'job', id::text, null, md5(j::text) from sql_diffusion.stored_jobs j
union all
select 'last job', last_value::text, null, null from sql_diffusion.stored_jobs_id_seq
order by 1, 2
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database that an ordinary role owns and made the extension in, with a model loaded and packed."""
    owner = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        server.execute(sql.SQL("create role {} login createdb").format(sql.Identifier(owner)))
    try:
        with new_database() as name:
            with psycopg.connect(autocommit=True) as server:
                server.execute(
                    sql.SQL("alter database {} owner to {}").format(sql.Identifier(name), sql.Identifier(owner))
                )
            with psycopg.connect(dbname=name, user=owner, autocommit=True) as own:
                own.execute("create extension sql_diffusion")
                insert_model(own, "mine", random_unet(np.random.default_rng()))
                insert_model(own, "half", random_unet(np.random.default_rng()).half())
                own.execute("select sql_diffusion.pack('mine')")
                folder = train(tmp_path_factory.mktemp("tokenizer"), "CLIPTokenizer", np.random.default_rng())
                insert_tokenizer(own, "mine", folder)
                own.execute(
                    "select sql_diffusion.enqueue(i, 'a moth', 'mine', '{\"height\": 8}') from generate_series(1, 3) i"
                )
                own.execute(
                    "select sql_diffusion.finish_job(id, attempt, 'a picture') from sql_diffusion.claim_jobs(2)"
                )
            yield name
    finally:
        with psycopg.connect(autocommit=True) as server:
            server.execute(sql.SQL("drop role {}").format(sql.Identifier(owner)))


def owner_of(database: str) -> str:
    query = "select pg_get_userbyid(datdba) from pg_database where datname = %s"
    with psycopg.connect() as server:
        row = server.execute(query, [database]).fetchone()
        assert row is not None
        return str(row[0])


def contents(database: str) -> tuple[list[tuple[object, ...]], object]:
    """Checksums of everything, and a picture."""
    with psycopg.connect(dbname=database) as own:
        rows = own.execute(CHECKSUMS).fetchall()
        assert {row[1] for row in rows} >= {"tokenizer", "vocabulary", "merges", "3"}
        half = "select count(dtype) > 10 from sql_diffusion.parameters where model = 'half'"
        assert own.execute(half).fetchone() == (True,)
        return rows, own.execute("select ddpm_generate(7, 'mine', 2, backend => 'sql')").fetchone()


@pytest.mark.parametrize("form", ["plain", "custom", "directory"])
@pytest.mark.parametrize("as_owner", [False, True], ids=["by a superuser", "by the owner"])
def test_dump_and_restore(source: str, tmp_path: Path, form: str, as_owner: bool) -> None:
    owner = owner_of(source)
    with new_database() as target:
        with psycopg.connect(autocommit=True) as server:
            server.execute(
                sql.SQL("alter database {} owner to {}").format(sql.Identifier(target), sql.Identifier(owner))
            )
        user = [f"--username={owner}"] if as_owner else []
        file = tmp_path / "dump"
        subprocess.run([program("pg_dump"), *user, f"--format={form}", f"--file={file}", source], check=True)
        if form == "plain":
            text = file.read_text()
            assert "\tmine\t" in text or "\nmine\t" in text
            assert "\nbutterflies\t" not in text
            restore = [program("psql"), *user, "--quiet", "--set=ON_ERROR_STOP=1", f"--file={file}", target]
        else:
            restore = [program("pg_restore"), *user, "--exit-on-error", f"--dbname={target}", str(file)]
        subprocess.run(restore, check=True, stdout=subprocess.DEVNULL)
        assert contents(target) == contents(source)


def test_a_template_database(source: str) -> None:
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        server.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(source)))
        try:
            assert contents(name) == contents(source)
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
