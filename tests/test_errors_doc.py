"""Everything that doc/errors.md shows is said: by psql, by the NumPy extension, by the command sql-diffusion."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import documented
import helper_command as command
from databases import new_database

pytest_plugins = ["numpy_server"]

PAGE = (documented.DOC / "errors.md").read_text()
INDENTED = [block.replace("\n    ", "\n") for block in re.findall(r"(?:^|\n)\n    (.*(?:\n    .*)*)", PAGE)]


def test_every_block_prints_what_the_page_says() -> None:
    with documented.roles("reader"), new_database("sql_diffusion") as database:
        documented.check("errors.md", database, "--set=VERBOSITY=verbose")


def test_nothing_on_the_page_is_left_out() -> None:
    dialogues = [block for block in INDENTED if block.startswith("$ sql-diffusion ")]
    errors = [block for block in INDENTED if block.startswith("ERROR:  ")]
    assert len(errors) == 3
    assert len(INDENTED) == len(dialogues) + len(errors) + len(FOUND)


def shown(error: psycopg.Error) -> str:
    """An error as the page shows it, without its detail."""
    hint = error.diag.message_hint
    return f"ERROR:  {error.sqlstate}: {error.diag.message_primary}" + (f"\nHINT:  {hint}" if hint else "")


def test_files_that_are_not_there(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error) as caught:
        connection.execute("create extension sql_diffusion_is_not_here")
    assert shown(caught.value).replace("_is_not_here", "") in INDENTED


# ----------------------------------------------------------------------------------------------------------------------
# What the NumPy extension's doctor finds: a superuser makes it so, in PL/Python
# ----------------------------------------------------------------------------------------------------------------------

HIDDEN = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            raise ModuleNotFoundError("No module named 'numpy'", name=name)
sys.meta_path.insert(0, Finder())
"""

FOUND = {
    ("blas", "warning"): "import sys; sys.modules['sql_diffusion_numpy.doctor'].SLOW = 1e9",
    ("threads", "warning"): "import sys; sys.modules['sql_diffusion_numpy.threads'].blas_was_loaded = True",
    ("cache", "warning"): "import os; os.chmod('pg_stat_tmp/sql_diffusion', 0o755)",
    ("cache", "error"): """
import glob
with open(max(glob.glob('pg_stat_tmp/sql_diffusion/*.network')), 'r+b') as file:
    file.seek(5000)
    last = file.read(1)
    file.seek(5000)
    file.write(bytes([last[0] ^ 1]))
""",
    ("version", "warning"): """
plpy.execute("update pg_extension set extversion = '0.9.0' where extname = 'sql_diffusion_numpy'")
import sys
sys.modules['sql_diffusion_numpy.doctor'].VERSION = '0.9.0'
""",
    ("version", "error"): """
plpy.execute("update pg_extension set extversion = '0.9.0' where extname = 'sql_diffusion_numpy'")
""",
}


@pytest.fixture
def numpy_session(numpy_database: str) -> Iterator[psycopg.Connection]:
    """A session that has drawn a picture; what was made of the cache's folder is undone."""
    with psycopg.connect(dbname=numpy_database) as own:
        own.execute("select ddpm_generate(1, num_inference_steps => 1)")
        yield own
        own.rollback()
        own.execute(
            "do language plpython3u $$import shutil; shutil.rmtree('pg_stat_tmp/sql_diffusion', ignore_errors=True)$$"
        )


@pytest.mark.parametrize(("check", "status"), FOUND)
def test_what_the_doctor_finds(numpy_session: psycopg.Connection, check: str, status: str) -> None:
    numpy_session.execute(f"do language plpython3u $${FOUND[check, status]}$$")
    rows = numpy_session.execute('select "check", status, detail from sql_diffusion_numpy.doctor()').fetchall()
    [detail] = [row[2] for row in rows if row[:2] == (check, status)]
    [line] = [block for block in INDENTED if re.match(rf"{check} +\| {status} +\| ", block)]
    # Numbers are this server's, and an ellipsis stands for a path.
    pattern = re.sub(r"\d+", r"\\d+", re.escape(line.split(" | ", 2)[2])).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, detail), (pattern, detail)


@pytest.mark.parametrize(("package", "backend"), [("numpy", "auto"), ("torch", "torch")])
def test_without_a_package(numpy_session: psycopg.Connection, package: str, backend: str) -> None:
    with psycopg.connect(dbname=numpy_session.info.dbname) as own:
        own.execute(f"do language plpython3u $${HIDDEN.replace('numpy', package)}$$")
        with pytest.raises(psycopg.Error) as caught:
            own.execute("select ddpm_generate(1, backend => %s)", [backend])
        own.rollback()
    assert re.sub(r"ython ?3\.\d+", lambda found: found[0].partition("3")[0] + "3.11", shown(caught.value)) in INDENTED


# ----------------------------------------------------------------------------------------------------------------------
# The command
# ----------------------------------------------------------------------------------------------------------------------


def test_the_command_says_what_the_page_says(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    dialogues = [block for block in INDENTED if block.startswith("$ sql-diffusion ")]
    assert len(dialogues) > 3
    with documented.roles("reader"), psycopg.connect(dbname=database, autocommit=True) as server:
        server.execute("create role reader login")
        for dialogue in dialogues:
            call, _, answer = dialogue.partition("\n")
            result = command.run(database, *shlex.split(call)[2:])
            assert result.returncode != 0
            assert result.stderr.strip() == answer.strip()
