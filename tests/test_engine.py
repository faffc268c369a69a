"""The engines outside of the server: the pictures and the words are those of the verbs in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import sql_diffusion_numpy
from databases import new_database
from painting import grey_levels
from reference import insert_model, random_unet
from sql_diffusion.database import Connection, connect
from sql_diffusion.engine import VERBS, Engine, Server, backend_here
from sql_diffusion.errors import Problem
from sql_diffusion_numpy import functions, threads
from test_torch_server import show_torch
from text_pipelines import insert_pipeline

pytest_plugins = ["text_pipelines"]


@pytest.fixture(scope="module")
def own(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[Connection]:
    """With a model of prompts, words, and one of classes."""
    with new_database("sql_diffusion_numpy") as name, connect(f"dbname={name}") as connection:
        insert_pipeline(connection, "words", pipelines["1"], folders)
        insert_model(connection, "classes", random_unet(np.random.default_rng(5), num_class_embeds=5))
        connection.execute(
            "create function python_version() returns int[] language plpython3u as $$import sys; return list(sys.version_info[:2])$$"
        )
        yield connection


def in_server(own: Connection, verb: str, settings: dict[str, Any], backend: str) -> list[bytes]:
    given = ", ".join(f"{key} => %({key})s::{VERBS[verb][key]}" for key in settings)
    query = f"select image_png(g.image) from {verb}({given}, backend => '{backend}') g"
    return [row[0] for row in own.execute(query.encode(), settings).fetchall()]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_pictures(own: Connection, rng: np.random.Generator, backend: str) -> None:
    """NumPy's are the same to the byte, with as many threads."""
    if backend == "torch":
        show_torch(own)
    engine = Engine(own, 1)
    seeds = [str(seed) for seed in rng.integers(-(2**63), 2**63 - 1, 2)]
    words: dict[str, Any] = {
        "seeds": seeds,
        "prompts": ["a moth, größer", ""],
        "model": "words",
        "negative_prompt": "rain",
    }
    calls: list[tuple[str, dict[str, Any]]] = [
        ("text_to_image", {**words, "num_inference_steps": 2, "guidance_scale": "3.3", "scheduler": "ddim", "eta": "0.3"}),
        ("text_to_image", {**words, "timesteps": "{900, 100}", "scheduler": "ddpm", "clip_skip": "1", "guidance_rescale": "0.7"}),
        ("ddpm_generate", {"seeds": seeds, "model": "classes", "num_inference_steps": 2, "class_label": "3"}),
    ]  # fmt: skip
    for verb, settings in calls:
        ours = list(engine.pictures(verb, {**settings, "backend": backend}))
        theirs = in_server(own, verb, settings, backend)
        assert len(ours) == 2
        if backend == "numpy":
            assert ours == theirs
        assert max(grey_levels(one, other) for one, other in zip(ours, theirs, strict=True)) <= 1
        assert threads._check is None  # or layers would ask a connection that is gone


@pytest.mark.parametrize(
    ("verb", "settings"),
    [
        ("ddpm_generate", {"seeds": ["1"], "model": "nobody"}),
        ("ddpm_generate", {"seeds": ["1"], "model": "classes", "class_label": 5}),
        ("ddpm_generate", {"seeds": ["1"], "model": "classes", "num_inference_steps": 0, "class_label": 1}),
        ("ddpm_generate", {"seeds": ["one"], "model": "classes"}),
        ("text_to_image", {"seeds": ["1"], "prompts": ["a moth"], "model": "classes"}),
        ("text_to_image", {"seeds": ["1"], "prompts": ["a moth"], "model": "words", "height": 7}),
    ],
)
def test_words(own: Connection, verb: str, settings: dict[str, Any]) -> None:
    """What is refused, and its hint; the connection lives on."""
    with pytest.raises(psycopg.Error) as theirs:
        in_server(own, verb, settings, "numpy")
    with pytest.raises((Problem, psycopg.Error)) as ours, own.transaction():
        list(Engine(own, 1).pictures(verb, dict(settings)))
    if isinstance(ours.value, Problem):
        assert ours.value.message == theirs.value.diag.message_primary
        assert ours.value.hint == theirs.value.diag.message_hint
    else:
        assert isinstance(ours.value, psycopg.Error)
        assert ours.value.diag.message_primary == theirs.value.diag.message_primary
    assert own.execute("select 1").fetchone() == (1,)


def test_what_the_machine_has_not(own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the call, as it would in a server, and not the worker."""

    def fail(server: Any, *arguments: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(functions, "ddpm_generate_many", fail)
    with pytest.raises(Problem, match="RuntimeError: CUDA error: out of memory"):
        list(Engine(own, 1).pictures("ddpm_generate", {"seeds": ["1"], "model": "classes"}))


def test_whether_it_can_paint(own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before a row is claimed."""
    engine = Engine(own, 1)
    engine.check_painter("numpy")
    monkeypatch.delattr(sql_diffusion_numpy, "torch_engine", raising=False)
    monkeypatch.setitem(sys.modules, "sql_diffusion_numpy.torch_engine", None)
    with pytest.raises(Problem, match="backend torch: PyTorch cannot be loaded: "):
        engine.check_painter("torch")


def test_a_setting_of_another_verb(own: Connection) -> None:
    with pytest.raises(Problem, match="ddpm_generate takes no height"):
        list(Engine(own, 1).pictures("ddpm_generate", {"seeds": ["1"], "model": "classes", "height": "8"}))


def test_without_the_numpy_extension() -> None:
    """The server need have nothing but SQL."""
    with new_database("sql_diffusion") as name, connect(f"dbname={name}") as own:
        insert_model(own, "plain", random_unet(np.random.default_rng(5)))
        [ours] = Engine(own, 1).pictures("ddpm_generate", {"seeds": ["7"], "model": "plain", "num_inference_steps": 1})
        own.execute("create extension sql_diffusion_numpy cascade")
        own.execute("set sql_diffusion.threads = 1")
        query = "select image_png(ddpm_generate(7, 'plain', 1))"
        assert own.execute(query).fetchone() == (ours,)


def test_a_model_that_is_replaced_while_it_is_read(own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query sees what there is then; no network is made of two states."""
    execute, reads = Server.execute, 0

    def execute_and_replace(server: Server, plan: tuple[str, int], values: list[Any]) -> list[dict[str, Any]]:
        nonlocal reads
        rows = execute(server, plan, values)
        if "weight_bytes" in plan[0]:
            reads += 1
            if reads == 2:
                with own.transaction():
                    own.execute("delete from sql_diffusion.models where name = 'replaced'")
                    insert_model(own, "replaced", random_unet(np.random.default_rng(2)))
        return rows

    insert_model(own, "replaced", random_unet(np.random.default_rng(1)))
    monkeypatch.setattr(Server, "execute", execute_and_replace)
    settings = {"seeds": ["7"], "model": "replaced", "num_inference_steps": 1}
    ours = list(Engine(own, 1).pictures("ddpm_generate", dict(settings)))
    assert reads > 2
    assert ours == in_server(own, "ddpm_generate", settings, "numpy")


def test_another_version(own: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sql_diffusion.engine.__version__", "0.9.0")
    with pytest.raises(Problem, match=r"the package sql_diffusion is 0\.9\.0 where this worker runs"):
        Engine(own, 1)


def test_backends(own: Connection) -> None:
    assert [backend_here(own, name) for name in (None, "auto", "numpy", "torch")] == [
        "numpy",
        "numpy",
        "numpy",
        "torch",
    ]
    with pytest.raises(Problem, match=re.escape("backend is sql, which paints in the server alone")):
        backend_here(own, "sql")
