"""Runs the command sql-diffusion as a user does, from its arguments to its exit code."""

from __future__ import annotations

import functools
import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from sql_diffusion import cli

PACKAGES = os.pathsep.join(str(Path(__file__).parent.parent / folder) for folder in ("scripts", "plpython"))


def environment(database: str, **variables: str) -> dict[str, str]:
    """The tests' environment, with the database, the package and further variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **clean,
        "PGDATABASE": database,
        "PYTHONPATH": PACKAGES,
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "200",
        **variables,
    }


class Process(subprocess.Popen[str]):
    """One that a test which fails does not wait for."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)


def start(database: str, *arguments: object, **variables: str) -> Process:
    """Starts the command, which Ctrl-C ends even where the tests run in a shell's background, which ignores it."""
    return Process(
        [sys.executable, "-m", "sql_diffusion", *map(str, arguments)],
        env=environment(database, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def run(database: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end. A traceback is never right.

    With variables in a process of its own; without any in this one, which saves half a second of imports.
    """
    if variables:
        process = start(database, *arguments, **variables)
        out, err = process.communicate(timeout=120)
        code = process.returncode
    else:
        out, err, code = run_here(database, *arguments)
    assert "Traceback" not in out + err, err
    return subprocess.CompletedProcess([str(argument) for argument in arguments], code, out, err)


def run_here(database: str, *arguments: object) -> tuple[str, str, int]:
    """Runs the command in this process: what it printed, what it complained of, its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, PGDATABASE=database, COLUMNS="200"),
        patch.object(sys, "argv", ["sql-diffusion", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as finished,
    ):
        cli.main()
    return out.getvalue(), err.getvalue(), int(finished.value.code or 0)


def succeed(database: str, *arguments: object, **variables: str) -> str:
    """Runs the command, which has to succeed; what it printed."""
    result = run(database, *arguments, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fail(database: str, exit_code: int, *arguments: object, **variables: str) -> str:
    """Runs the command, which has to fail with this exit code; what it said: a sentence and, mostly, the next step."""
    result = run(database, *arguments, **variables)
    assert result.returncode == exit_code, (result.returncode, result.stdout, result.stderr)
    assert result.stderr.startswith("sql-diffusion: ")
    assert result.stdout == ""
    return result.stderr
