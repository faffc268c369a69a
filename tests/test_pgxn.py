"""What PGXN's users do: install, load, check, unload and uninstall, from a mirror that holds what `make dist` makes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from installation import ROOT, copied_installation, private_cluster

Pgxn = Callable[..., str]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of the committed state."""
    if not (ROOT / ".git").exists():
        pytest.skip("`make dist` takes the committed state, and this is no clone")
    subprocess.run(["make", "--silent", "dist"], cwd=ROOT, check=True, capture_output=True)
    meta = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
    made = ROOT / "dist" / f"{meta['name']}-{meta['version']}.zip"
    return Path(shutil.copy(made, tmp_path_factory.mktemp("dist")))


@pytest.fixture(scope="module")
def mirror(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a PGXN mirror with this one distribution."""
    root = tmp_path_factory.mktemp("mirror")
    with zipfile.ZipFile(archive) as content:
        meta = json.loads(content.read(f"{archive.stem}/META.json"))
    name, version = meta["name"], meta["version"]
    release = root / "dist" / name / version
    release.mkdir(parents=True)
    shutil.copy(archive, release)
    meta["sha1"] = hashlib.sha1(archive.read_bytes()).hexdigest()
    (release / "META.json").write_text(json.dumps(meta))
    releases = {
        "name": name,
        "releases": {meta["release_status"]: [{"version": version, "date": "2026-01-01T00:00:00Z"}]},
    }
    (root / "dist" / f"{name}.json").write_text(json.dumps(releases))
    templates = {
        "dist": "/dist/{dist}.json",
        "meta": "/dist/{dist}/{version}/META.json",
        "download": "/dist/{dist}/{version}/{dist}-{version}.zip",
    }
    (root / "index.json").write_text(json.dumps(templates))
    return root.as_uri()


@pytest.fixture(scope="module")
def pg_config() -> Iterator[Path]:
    with copied_installation() as copy:
        yield copy


@pytest.fixture(scope="module")
def server(pg_config: Path) -> Iterator[str]:
    with private_cluster(pg_config) as host:
        yield host


@pytest.fixture
def pgxn(mirror: str, pg_config: Path, server: str, tmp_path: Path) -> Pgxn:
    """pgxn COMMAND ..., with PostgreSQL's first in PATH and a shell's PG* variables, as a user has them."""

    def run(*command: str) -> str:
        done = subprocess.run(
            [Path(sys.executable).parent / "pgxn", command[0], "--yes", "--mirror", mirror, *command[1:]],
            cwd=tmp_path,
            env={
                "PATH": os.pathsep.join([str(pg_config.parent), "/usr/local/bin", "/usr/bin", "/bin"]),
                "HOME": str(tmp_path),
                "PGHOST": server,
                "PGPORT": "5432",
                "PGUSER": "postgres",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


def extension_files(pg_config: Path) -> list[str]:
    share = subprocess.run([pg_config, "--sharedir"], check=True, capture_output=True, text=True).stdout.strip()
    return sorted(file.name for file in (Path(share) / "extension").glob("sql_diffusion*"))


def test_what_pgxn_users_do(pgxn: Pgxn, pg_config: Path, server: str) -> None:
    meta = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
    extensions, version = list(meta["provides"]), meta["version"]
    assert extension_files(pg_config) == []
    pgxn("install", "sql_diffusion")
    assert {f"{name}.control" for name in extensions} <= set(extension_files(pg_config))
    assert {f"{name}--{version}.sql" for name in extensions} <= set(extension_files(pg_config))

    with psycopg.connect(host=server, port=5432, user="postgres", dbname="postgres", autocommit=True) as own:
        loaded = "select extname, extversion from pg_extension where extname like 'sql_diffusion%' order by extname"
        own.execute("create database pictures")
        with psycopg.connect(host=server, port=5432, user="postgres", dbname="pictures", autocommit=True) as pictures:
            # one of the extensions, then all of them
            pgxn("load", "-d", "pictures", "sql_diffusion", "sql_diffusion")
            assert pictures.execute(loaded).fetchall() == [("sql_diffusion", version)]
            assert pictures.execute("select array_dims(ddpm_generate(1, num_inference_steps => 1))").fetchone() == (
                "[1:3][1:64][1:64]",
            )
            pgxn("unload", "-d", "pictures", "sql_diffusion", "sql_diffusion")
            assert pictures.execute(loaded).fetchall() == []

            pictures.execute("create extension plpython3u")
            pgxn("load", "-d", "pictures", "sql_diffusion")
            assert pictures.execute(loaded).fetchall() == [(name, version) for name in extensions]
            pgxn("unload", "-d", "pictures", "sql_diffusion")
            assert pictures.execute(loaded).fetchall() == []

        # without -d, pgxn leaves the database of the regression tests to pg_regress
        report = pgxn("check", "sql_diffusion")
        assert "All" in report and "tests passed" in report, report

    pgxn("uninstall", "sql_diffusion")
    assert extension_files(pg_config) == []


def test_the_archive_is_whole_and_nothing_else(archive: Path) -> None:
    """Every file under a folder of the distribution's name, as PGXN wants it; every file that META.json names."""
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
        meta = json.loads(content.read(f"{archive.stem}/META.json"))
    assert all(name.startswith(f"{archive.stem}/") for name in names)
    for provided in meta["provides"].values():
        assert f"{archive.stem}/{provided['file']}" in names
        assert f"{archive.stem}/{provided['docfile']}" in names
    assert not [name for name in names if "/build/" in name or "/.venv/" in name]


def no_network() -> list[str]:
    """What runs a command without any network, where this user may do that."""
    for prefix in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*prefix, "true"], capture_output=True).returncode == 0:
                return prefix
        except FileNotFoundError:
            break
    pytest.skip("needs unshare, and the right to a network of one's own")


@pytest.mark.parametrize("lack", ["Python packages", "network"])
def test_make_install_needs_neither(archive: Path, tmp_path: Path, lack: str) -> None:
    """Python with its standard library alone, without pip and NumPy; and no network."""
    prefix = no_network() if lack == "network" else []
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python3", "python"):
        # -S: no site-packages; -E: nothing from the environment either
        (programs / name).write_text('#!/bin/sh\nexec /usr/bin/python3 -S -E "$@"\n')
        (programs / name).chmod(0o755)
    for name in ("pip", "pip3", "curl", "wget", "git", "npm"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} was called" >&2\nexit 1\n')
        (programs / name).chmod(0o755)
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    for forbidden in ("numpy", "pip"):
        found = subprocess.run(
            [programs / "python3", "-c", f"import {forbidden}"], env=environment, capture_output=True
        )
        assert b"ModuleNotFoundError" in found.stderr
    done = subprocess.run(
        [
            *prefix,
            "make",
            "install",
            f"PG_CONFIG={os.environ.get('PG_CONFIG', 'pg_config')}",
            f"DESTDIR={tmp_path}/installed",
        ],
        cwd=tmp_path / archive.stem,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    installed = {file.name for file in (tmp_path / "installed").rglob("sql_diffusion*")}
    assert {"sql_diffusion.control", "sql_diffusion_numpy.control"} <= installed
