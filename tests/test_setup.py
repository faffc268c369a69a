"""scripts/demo and scripts/test as a stranger meets them: an ordinary user, a machine where things are missing, and what is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from installation import ROOT, pg_config

# What a bare Debian has, of what the scripts call before they install anything.
BARE = (
    "sh",
    "sed",
    "id",
    "dirname",
    "mktemp",
    "chmod",
    "rm",
    "ls",
    "sort",
    "env",
    "cat",
    "mkdir",
    "grep",
    "tr",
    "head",
)


@pytest.fixture
def sources() -> Iterator[Path]:
    """A copy of the sources that an ordinary user owns, and a folder tmp beside it for whatever is temporary."""
    with TemporaryDirectory(prefix="sql_diffusion.") as folder:
        home = Path(folder)
        home.chmod(0o755)
        ignored = shutil.ignore_patterns(".*", "build", "dist", "demo", "__pycache__", "*.png")
        shutil.copytree(ROOT, home / "sources", ignore=ignored)
        (home / "tmp").mkdir()
        if os.geteuid() == 0:
            for path in (home, *home.rglob("*")):
                shutil.chown(path, "nobody", "nogroup")
        yield home / "sources"


def ordinary(sources: Path, *command: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command there as an ordinary user, even where the tests are run by root."""
    root = os.geteuid() == 0
    return subprocess.run(
        command,
        cwd=sources,
        user="nobody" if root else None,
        group="nogroup" if root else None,
        extra_groups=[] if root else None,
        env={"PATH": path or os.environ["PATH"], "TMPDIR": str(sources.parent / "tmp"), "HOME": str(sources.parent)},
        capture_output=True,
        text=True,
    )


def bare_path(sources: Path, *more: str) -> str:
    """A PATH of what a bare machine has, and some more."""
    folder = sources.parent / "bin"
    folder.mkdir()
    for name in (*BARE, *more):
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


def test_the_message_without_sudo_names_every_package_at_once(sources: Path) -> None:
    path = bare_path(sources, "python3")
    apt = sources.parent / "bin" / "apt-get"
    apt.write_text("#!/bin/sh\nexit 1\n")
    apt.chmod(0o755)
    done = ordinary(sources, "scripts/test", path=path)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "apt-get install" in line]
    assert {"make", "git"} <= set(line.split())
    assert list((sources.parent / "tmp").iterdir()) == []


@pytest.mark.parametrize("has_client", [True, False])
def test_what_is_installed_is_what_the_release_has(sources: Path, has_client: bool) -> None:
    """Docker's command is a package of its own in Debian 13 only; and nothing is left in /etc of what kept clusters away."""
    path, installed = bare_path(sources, "rmdir", "tee", "true"), sources.parent / "installed"
    programs = {
        "apt-get": f'echo "$*" >>{installed}',
        "apt-cache": f'[ "$1" != show ] || exit {int(not has_client)}; echo "  Depends: postgresql-17"',
        "sudo": '"$@"',
    }
    for name, script in programs.items():
        program = sources.parent / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    script = f"""
set -eu
. scripts/prepare
no_cluster={sources.parent}/etc/createcluster.d/sql_diffusion.conf
find_postgresql() {{ return 0; }}
required=' git docker.io docker-cli postgresql postgresql-plpython3'
install_required
"""
    done = ordinary(sources, "sh", "-c", script, path=path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in installed.read_text().splitlines() if line.startswith("install ")]
    assert ("docker-cli" in line.split()) == has_client
    assert {"git", "docker.io", "postgresql", "postgresql-plpython3-17"} <= set(line.split())
    assert not (sources.parent / "etc/createcluster.d").exists()


def test_an_ordinary_user_builds_and_installs_without_root(sources: Path) -> None:
    """Into a copy of the PostgreSQL that is installed, which is as it was before."""
    script = f"""
set -eu
. scripts/prepare
PG_CONFIG={pg_config("--bindir")}/pg_config
build_and_install
ls "$($PG_CONFIG --sharedir)/extension"
"$($PG_CONFIG --bindir)/initdb" --version
"""
    extension = pg_config("--sharedir") / "extension"
    before = sorted((file.name, file.stat().st_mtime_ns) for file in extension.iterdir())
    done = ordinary(sources, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "sql_diffusion.control" in done.stdout and "sql_diffusion_numpy.control" in done.stdout
    assert sorted((file.name, file.stat().st_mtime_ns) for file in extension.iterdir()) == before
    assert list((sources.parent / "tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes folders of two users")
@pytest.mark.parametrize("folder", ["build", "demo"])
def test_a_folder_of_another_user_is_named_before_anything_is_made(sources: Path, folder: str) -> None:
    (sources / folder).mkdir()
    done = ordinary(sources, "sh", "-euc", ". scripts/prepare")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"sh: the folder {sources / folder} is another user's, expected one that nobody may write"
    )
    assert not list((sources / folder).iterdir()) and not list((sources.parent / "tmp").iterdir())


def test_docker_is_not_started_where_its_bridge_could_not_be_removed(sources: Path) -> None:
    path = bare_path(sources)
    for name in ("dockerd", "docker"):
        program = sources.parent / "bin" / name
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    environment = {"PATH": path, "TMPDIR": str(sources.parent / "tmp")}
    command = ["scripts/with-docker", "sh", "-c", "echo the command ran"]
    done = subprocess.run(command, cwd=sources, env=environment, capture_output=True, text=True)
    assert done.stdout == "the command ran\n"
    assert "iproute2" in done.stderr
    assert list((sources.parent / "tmp").iterdir()) == []
