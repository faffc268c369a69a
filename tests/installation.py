"""The PostgreSQL installation that the tests run on, and a copy of it to install into and remove from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent


def pg_config(option: str) -> Path:
    """What pg_config says of the installation: a folder."""
    command = [os.environ.get("PG_CONFIG", "pg_config"), option]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def program(name: str) -> str:
    """psql, pg_dump and their like, of the installation that the server is from."""
    return str(pg_config("--bindir") / name)


@contextmanager
def copied_installation() -> Iterator[Path]:
    """The pg_config of a copy without our extensions; PostgreSQL finds its folders relative to its programs."""
    with TemporaryDirectory(prefix="sql_diffusion.") as folder:
        copy = Path(folder)
        copy.chmod(0o755)  # the server may run as another user

        def copied(option: str) -> Path:
            return copy / pg_config(option).relative_to("/")

        for option in ("--bindir", "--sharedir", "--pkglibdir"):
            shutil.copytree(
                pg_config(option),
                copied(option),
                ignore=shutil.ignore_patterns("sql_diffusion*", "bitcode"),
                ignore_dangling_symlinks=True,
                dirs_exist_ok=True,
            )
        copied("--libdir").mkdir(parents=True, exist_ok=True)
        yield copied("--bindir") / "pg_config"


@contextmanager
def private_cluster(pg_config: Path) -> Iterator[str]:
    """PGHOST of a throw-away cluster of another installation; its port is 5432, its superuser postgres."""
    with subprocess.Popen(
        [ROOT / "scripts" / "private-cluster", "sh", "-c", 'echo "$PGHOST"; read -r line || :'],
        env=os.environ | {"PG_CONFIG": str(pg_config)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        assert cluster.stdin and cluster.stdout
        host = cluster.stdout.readline().strip()
        assert host, "the cluster did not start"
        try:
            yield host
        finally:
            cluster.stdin.close()
