"""Pages of doc/ whose blocks of SQL are run in psql, in order: what it prints is the block of text that follows.

    scripts/private-cluster python3 tests/documented.py doc/tutorial.md [EXTENSION [OPTION OF PSQL ...]]

runs a page in a new database, with an extension in it, and writes into the page what psql prints, for whoever changes
the page, or the bundled model.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from databases import new_database
from installation import program

DOC = Path(__file__).parent.parent / "doc"
BLOCK = re.compile(r"^```sql\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def psql(database: str, script: str, *options: str) -> list[str]:
    """The lines that psql prints, errors among them: without row counts, trailing blanks and places in C files."""
    command = [program("psql"), "--no-psqlrc", "--quiet", "--pset=footer=off", "--set=SHOW_CONTEXT=never", *options]
    # No notices of progress, which come where the machine is slow.
    quiet = os.environ | {"PGOPTIONS": "-c sql_diffusion.progress=off"}
    done = subprocess.run(
        [*command, f"--dbname={database}"],
        input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet,
    )  # fmt: skip
    return [line.rstrip() for line in done.stdout.splitlines() if not line.startswith("LOCATION:")]


def printed(page: str, database: str, *options: str) -> list[str]:
    """What psql prints for each block of the page, all of them in one session."""
    mark = "-- end of a block --"
    script = "".join(f"{code}\n\\echo {mark}\n" for code, _ in BLOCK.findall(page))
    outputs = "\n".join(psql(database, script, *options)).split(mark)
    return [output.strip("\n") for output in outputs[:-1]]


def check(name: str, database: str, *options: str) -> None:
    """Fails where a block of the page prints something else than the page shows, or something where it shows nothing."""
    page = (DOC / name).read_text()
    blocks = BLOCK.findall(page)
    assert len(blocks) > 2
    outputs = printed(page, database, *options)
    assert len(outputs) == len(blocks)
    for (code, shown), output in zip(blocks, outputs, strict=True):
        assert output == shown.strip("\n"), code


@contextmanager
def roles(*names: str) -> Iterator[None]:
    """Roles that a page creates are dropped at the end, after its database."""
    try:
        yield
    finally:
        with psycopg.connect(autocommit=True) as server:
            for name in names:
                if server.execute("select from pg_roles where rolname = %s", [name]).fetchone() is not None:
                    server.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
                    server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def rewrite(path: Path, extension: str | None = None, *options: str) -> None:
    """Write into the page what psql prints now."""
    page = path.read_text()
    with new_database(extension) as database:
        outputs = iter(printed(page, database, *options))

    def block(match: re.Match[str]) -> str:
        output = next(outputs)
        return f"```sql\n{match[1]}```\n" + (f"\n```text\n{output}\n```\n" if output else "")

    path.write_text(BLOCK.sub(block, page))


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]), *sys.argv[2:])
