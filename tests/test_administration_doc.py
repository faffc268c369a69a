"""What doc/administration.md says: its blocks run, and then its roles can do what it says, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import documented
import helper_command as command
from databases import new_database

BUTTERFLIES = Path(__file__).parent.parent / "models" / "butterflies"


def test_every_block_runs() -> None:
    with documented.roles("loader", "painter", "client"), new_database() as database:
        documented.check("administration.md", database)


@pytest.fixture(scope="module")
def administered() -> Iterator[str]:
    """A database in which all of the page's blocks were run but those that remove the extension."""
    with documented.roles("loader", "painter", "client"), new_database() as database:
        documented.printed((documented.DOC / "administration.md").read_text().partition("## Removal")[0], database)
        yield database


def test_a_loader_loads_replaces_packs_and_removes(administered: str) -> None:
    loader = ["--dsn", f"dbname={administered} options='-c role=loader'"]
    command.succeed(administered, "load", BUTTERFLIES, "--name", "mine", *loader)
    command.succeed(administered, "load", BUTTERFLIES, "--name", "mine", "--replace", *loader)
    with psycopg.connect(dbname=administered, options="-c role=loader") as own:
        packed = own.execute("select sql_diffusion.pack('mine')").fetchone()
        assert packed is not None
        assert packed[0] > 0
    command.succeed(administered, "remove", "mine", *loader)


ALLOWED = [
    ("painter", "select diffusion.paint(1)"),
    ("loader", "select diffusion.ddpm_generate(1, num_inference_steps => 1, backend => 'sql')"),
    ("loader", "select diffusion.ddpm_generate(1, num_inference_steps => 1, backend => 'numpy')"),
    ("painter", "select name from sql_diffusion.models"),
    ("painter", "select sql_diffusion.silu('{1}'), sql_diffusion_numpy.silu('{1}')"),
    ("painter", "set sql_diffusion.threads = 2"),
    ("client", "select sql_diffusion.cancel_job(sql_diffusion.enqueue(1))"),
    ("client", "select png from sql_diffusion.jobs"),
    ("loader", "select sql_diffusion.enqueue(1); select sql_diffusion.claim_jobs()"),
    ("loader", "select sql_diffusion.check_painter('sql'), sql_diffusion.check_painter('numpy')"),
]

REFUSED = [
    ("painter", "select diffusion.ddpm_generate(1, backend => 'sql')"),
    ("painter", "select diffusion.ddpm_generate(1, backend => 'numpy')"),
    ("painter", "select weight from sql_diffusion.parameters"),
    ("painter", "select kernels from sql_diffusion.packed_kernels"),
    ("painter", "delete from sql_diffusion.models"),
    ("painter", "select sql_diffusion.pack('butterflies')"),
    ("painter", "select sql_diffusion_numpy.doctor()"),
    ("painter", "select diffusion.ddpm_generate(1, backend => 'torch')"),
    ("loader", "drop table sql_diffusion.models cascade"),
    ("loader", "update sql_diffusion.models set bundled = true"),
    ("loader", "alter function sql_diffusion.silu(real[]) volatile"),
    ("loader", "do language plpython3u 'pass'"),
    ("painter", "select sql_diffusion.enqueue(1)"),
    ("painter", "select id from sql_diffusion.jobs"),
    ("painter", "select sql_diffusion.claim_jobs()"),
    ("painter", "select sql_diffusion.cancel_job(1)"),
    ("painter", "select sql_diffusion.check_painter()"),
    ("client", "select sql_diffusion.claim_jobs()"),
    ("client", "select prompt from sql_diffusion.stored_jobs"),
    ("client", "delete from sql_diffusion.jobs"),
    ("loader", "select prompt from sql_diffusion.stored_jobs"),
]


@pytest.mark.parametrize(("role", "statement"), ALLOWED)
def test_what_a_role_may(administered: str, role: str, statement: str) -> None:
    with psycopg.connect(dbname=administered, options=f"-c role={role}") as own:
        own.execute(statement.encode())
        own.rollback()


@pytest.mark.parametrize(("role", "statement"), REFUSED)
def test_what_a_role_may_not(administered: str, role: str, statement: str) -> None:
    with (
        psycopg.connect(dbname=administered, options=f"-c role={role}") as own,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        own.execute(statement.encode())
