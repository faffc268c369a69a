"""A container of the image that the Dockerfile makes: a server behind a port, which generates diffusers' pictures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDPMPipeline

from installation import ROOT

pytest_plugins = ["numpy_server"]


@pytest.fixture(scope="module")
def image() -> str:
    """The name of the image, built from the Dockerfile."""
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no Docker here")
    if answer.returncode:
        pytest.skip(f"no Docker answers here: {(answer.stderr or answer.stdout).strip().splitlines()[-1]}")
    base = subprocess.run([ROOT / "scripts" / "base-image"], capture_output=True, text=True)
    if base.returncode:
        pytest.skip(f"there is Docker, but no image to start from: {base.stderr.strip().splitlines()[-1]}")
    name = "sql_diffusion:test"
    # of the host's network only what builds the image makes use: Debian's packages
    build = ["docker", "build", "--network=host", f"--build-arg=POSTGRES={base.stdout.strip()}", f"--tag={name}", "."]
    done = subprocess.run(build, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return name


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[dict[str, object]]:
    """How to connect to a server in a container, as the superuser that the image is told to make."""
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # that helper is an image of its own, to be pulled
    from testcontainers.community.postgres import PostgresContainer

    password = "a word of passage"
    server = PostgresContainer(image, username="painter", password=password, dbname="pictures", driver=None)
    server.ports[5432] = ("127.0.0.1", None)  # some port of the loopback interface, and of no other
    with server as running:
        yield {
            "host": running.get_container_host_ip(),
            "port": running.get_exposed_port(5432),
            "user": "painter",
            "password": password,
            "dbname": "pictures",
        }


@pytest.fixture(params=["container", "local cluster"])
def server(request: pytest.FixtureRequest) -> dict[str, object]:
    """How to connect to a server that has both extensions: one in a container, and the local one beside it."""
    if request.param == "container":
        return dict(request.getfixturevalue("container"))
    return {"dbname": request.getfixturevalue("numpy_database")}


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_pictures_are_those_of_diffusers(server: dict[str, object], rng: np.random.Generator, backend: str) -> None:
    seed = int(rng.integers(2**40))
    pipeline = DDPMPipeline.from_pretrained(ROOT / "models" / "butterflies", variant="fp16", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    theirs = pipeline(generator=generator, num_inference_steps=2, output_type="np").images[
        0
    ]  # (height, width, channels)
    with psycopg.connect(**server, autocommit=True) as own:  # type: ignore[arg-type]
        own.execute("create extension if not exists sql_diffusion_numpy cascade")
        row = own.execute(
            "select ddpm_generate(%s, num_inference_steps => 2, scheduler => 'ddpm', backend => %s)", [seed, backend]
        ).fetchone()
    assert row
    ours = np.asarray(row[0], np.float32).transpose(1, 2, 0)
    assert theirs.min() < theirs.max()
    assert np.abs(np.rint(ours * 255) - np.rint(theirs * 255)).max() <= 1


def test_the_container_wants_the_password(container: dict[str, object]) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**(container | {"password": "another"}))  # type: ignore[arg-type]
