"""Clusters of the tests' own beside the one that all tests share: for what needs two servers, or other settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installation import program


def run_as_server(*command: object, memory: int | None = None) -> None:
    """PostgreSQL refuses to run as root: root hands the server to the user that the packages made for it.

    memory: bytes of address space that each process may have.
    """
    user = "postgres" if os.geteuid() == 0 else None
    if memory is not None:
        command = ("sh", "-c", f'ulimit -v {memory >> 10}; exec "$@"', "sh", *command)
    done = subprocess.run(
        [str(part) for part in command],
        user=user, group=user, extra_groups=None if user is None else [], cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@contextmanager
def new_cluster(settings: str = "", standby_of: str | None = None, memory: int | None = None) -> Iterator[str]:
    """The socket's folder of a new cluster with user postgres, or of a streaming standby of the one in another folder.

    memory: bytes of address space that each of its processes may have.
    """
    home = Path(tempfile.mkdtemp(prefix="sql_diffusion."))
    data = home / "data"
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
    try:
        if standby_of is None:
            run_as_server(
                program("initdb"), f"--pgdata={data}", "--username=postgres", "--auth=trust",
                "--encoding=UTF8", "--locale=C", "--no-sync",
            )  # fmt: skip
        else:
            run_as_server(
                program("pg_basebackup"), f"--pgdata={data}", f"--host={standby_of}", "--username=postgres",
                "--checkpoint=fast", "--write-recovery-conf", "--no-sync",
            )  # fmt: skip
        options = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off {settings}"
        control = [program("pg_ctl"), f"--pgdata={data}", "--silent", "--wait", f"--log={home / 'server.log'}"]
        run_as_server(*control, f"--options={options}", "start", memory=memory)
        try:
            yield str(home)
        finally:
            run_as_server(*control, "--mode=immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
