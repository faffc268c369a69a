"""Backend torch in a server: whole pictures and texts, settings, sessions, memory, cancelling.

PyTorch is not in the server's own Python: a session that is to have it is shown that of the tests.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDPMPipeline
from psycopg import Connection, sql
from psycopg.types.json import Jsonb
from rich.progress import Progress
from transformers import GPT2Tokenizer

from databases import new_database
from reference import insert_model, random_unet
from sql_diffusion.load import Request, load
from test_gpt import random_gpt
from test_redraw import LOW_RES, picture, upscaler
from test_text_to_image import PICTURES
from text_pipelines import grey_levels, insert_pipeline
from trained_tokenizers import train

pytest_plugins = ["text_pipelines"]

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(torch.__file__).parent.parent

# What half precision may cost the bundled model's picture, in grey levels: the largest difference, and the mean.
HALF = {"float16": (4, 0.2), "bfloat16": (40, 3.0)}

Open = Callable[[], Connection]


def show_torch(session: Connection) -> None:
    """Puts the packages of the tests behind those of the server."""
    version = value(session, "select python_version()")
    if tuple(version) != sys.version_info[:2]:
        pytest.skip(
            f"the server's Python is {version}, the tests' {sys.version_info[:2]}: it cannot load their PyTorch"
        )
    session.execute(f"do $$ import sys; sys.path.append({str(SITE)!r}) $$ language plpython3u")


def value(session: Connection, query: str, *arguments: Any) -> Any:
    row = session.execute(query, arguments).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture(scope="module")
def database(
    pipelines: dict[str, Any], folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One with pipelines in it."""
    with new_database("sql_diffusion_numpy") as name, psycopg.connect(dbname=name, autocommit=True) as own:
        own.execute(
            "create function python_version() returns int[] language plpython3u as $$import sys; return list(sys.version_info[:2])$$"
        )
        own.execute(
            "create function torch_threads() returns int language plpython3u as $$import torch; return torch.get_num_threads()$$"
        )
        for model, pipeline in {**pipelines, "upscaler": upscaler(folders)}.items():
            insert_pipeline(own, model, pipeline, folders)
        own.execute(
            "update sql_diffusion.models set defaults = %s where name = 'upscaler'",
            [Jsonb({"low_res_scheduler": LOW_RES, "max_noise_level": 350})],
        )
        language = train(tmp_path_factory.mktemp("gpt"), "GPT2Tokenizer", np.random.default_rng(1))
        random_gpt(np.random.default_rng(2), len(GPT2Tokenizer.from_pretrained(language))).save_pretrained(language)
        load(own, Request(str(language)), "gpt", False, Progress(disable=True))
        yield name


@pytest.fixture
def connect(database: str) -> Iterator[Open]:
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(psycopg.connect(dbname=database, autocommit=True))
        show_torch(opened[-1])
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Connection]:
    """A session that the tests share, for importing PyTorch takes seconds."""
    with psycopg.connect(dbname=database, autocommit=True) as session:
        show_torch(session)
        session.execute("set sql_diffusion.threads = 1")
        yield session


@pytest.fixture(autouse=True)
def settings_are_reset(server: Connection) -> Iterator[None]:
    yield
    server.execute("reset sql_diffusion.device; reset sql_diffusion.dtype")


# Pictures and texts


def test_the_bundled_picture_is_diffusers(server: Connection, rng: np.random.Generator) -> None:
    pipeline = DDPMPipeline.from_pretrained(ROOT / "models" / "butterflies", variant="fp16", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    seed = int(rng.integers(2**31))
    image = pipeline(generator=torch.Generator().manual_seed(seed), num_inference_steps=3, output_type="np").images[0]
    ours = value(
        server, "select ddpm_generate(%s, num_inference_steps => 3, scheduler => 'ddpm', backend => 'torch')", seed
    )
    assert grey_levels(ours, image.transpose(2, 0, 1)) <= 1


@pytest.mark.parametrize(("name", "prompt", "settings"), PICTURES.values(), ids=PICTURES.keys())
def test_a_picture_of_a_prompt_is_diffusers(
    server: Connection, pipelines: dict[str, Any], name: str, prompt: str, settings: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(42)
    theirs = pipelines[name](prompt, generator=generator, output_type="np", **settings).images[0].transpose(2, 0, 1)
    named = "".join(
        f", {argument} => %s" + ("::real" if isinstance(each, float) else "") for argument, each in settings.items()
    )
    query = f"select text_to_image(%s::text, 42, %s, backend => 'torch'{named})"
    assert grey_levels(value(server, query, prompt, name, *settings.values()), theirs) <= 1


# Calls of verbs and of functions of a backend, what they take from the picture made at random
ALIKE = {
    "ddpm_generate(array[1, 7]::bigint[], num_inference_steps => 2, backend => '{backend}')": [],
    "ddpm_steps(1, num_inference_steps => 2, backend => '{backend}')": [],
    "text_to_image(array['a', 'b'], array[1, 2]::bigint[], '1', num_inference_steps => 2, backend => '{backend}')": [],
    "text_to_image_steps('a', 1, 'XL', num_inference_steps => 2, backend => '{backend}')": [],
    "image_to_image(%s::real[], 'a', 3, 0.6, '1', num_inference_steps => 4, backend => '{backend}')": [3],
    "image_to_image_steps(%s::real[], 'a', 3, 0.6, '1', num_inference_steps => 4, backend => '{backend}')": [3],
    "inpaint(%s::real[], %s::real[], 'a', 3, model => '1', num_inference_steps => 2, backend => '{backend}')": [3, 1],
    "inpaint_steps(%s::real[], %s::real[], 'a', 3, model => '1', num_inference_steps => 2, backend => '{backend}')": [
        3,
        1,
    ],
    "upscale((%s::real[])[:][:8][:8], 3, 'a', 20, 'upscaler', num_inference_steps => 2, backend => '{backend}')": [3],
    "upscale_steps((%s::real[])[:][:8][:8], 3, 'a', 20, 'upscaler', num_inference_steps => 2, backend => '{backend}')": [
        3
    ],
    "{schema}.unet(sql_diffusion.randn(1, '{{3,64,64}}'), 500, 'butterflies')": [],
    "{schema}.vae_encode(%s::real[], '1')": [3],
    "{schema}.vae_decode(sql_diffusion.randn(1, '{{4,8,6}}'), '1')": [],
    "{schema}.text_encoder('{{1,2,3}}', 'XL', 'text_encoder_2')": [],
    "gpt_generate('an astronaut', 12, 'gpt', backend => '{backend}')": [],
    "gpt_generate('an astronaut', 6, 'gpt', temperature => 1, seed => 5, backend => '{backend}')": [],
    "gpt_next('an astronaut', 'gpt', backend => '{backend}')": [],
    "{schema}.finished_image(sql_diffusion.randn(1, '{{4,8,6}}'), '1')": [],
}


def numbers(row: Any) -> np.ndarray:
    """All that a row holds, in a line."""
    return np.concatenate([np.ravel(each).astype(np.float64) for each in row if not isinstance(each, str)])


@pytest.mark.parametrize("call", ALIKE, ids=lambda call: call.partition("(")[0])
def test_what_numpy_gives(server: Connection, rng: np.random.Generator, call: str) -> None:
    given = [picture(rng, channels, 16, 16).tolist() for channels in ALIKE[call]]
    rows = [
        server.execute(
            f"select * from {call}".format(backend=backend, schema=f"sql_diffusion_{backend}"), given
        ).fetchall()
        for backend in ("numpy", "torch")
    ]
    assert len(rows[0]) == len(rows[1]) > 0
    for theirs, ours in zip(*(map(numbers, each) for each in rows), strict=True):
        assert np.abs(ours - theirs).max() <= 1 / 255 * max(1, np.abs(theirs).max())


def test_the_steps_of_a_network_are_those_of_numpy(server: Connection) -> None:
    query = """select s.step, s.operation, s.key, array_ndims(s.hidden), s.hidden
               from {}.unet_steps(sql_diffusion.randn(1, '{{4,8,8}}'), 500, 'XL', sql_diffusion.randn(2, '{{5,36}}'),
                                  text_embeds => sql_diffusion.randn(3, '{{12}}'), time_ids => '{{8,8,0,0,8,8}}') s"""
    rows = [server.execute(query.format(f"sql_diffusion_{backend}")).fetchall() for backend in ("numpy", "torch")]
    assert [row[:4] for row in rows[0]] == [row[:4] for row in rows[1]]
    assert len(rows[0]) > 30
    for theirs, ours in zip(*rows, strict=True):
        assert np.allclose(ours[4], theirs[4], rtol=0, atol=1e-4 * np.abs(theirs[4]).max()), theirs[:3]


@pytest.mark.parametrize("dtype", HALF)
def test_how_far_half_precision_is_off(server: Connection, dtype: str) -> None:
    query = "select ddpm_generate(42, num_inference_steps => 10, backend => 'torch')"
    exact = np.array(value(server, query))
    server.execute(sql.SQL("set sql_diffusion.dtype = {}").format(sql.Literal(dtype)))
    differences = np.abs(np.round(np.array(value(server, query)) * 255) - np.round(exact * 255))
    print(f"{dtype}: at most {differences.max():.0f} grey levels, in the mean {differences.mean():.3f}")
    most, mean = HALF[dtype]
    assert 0 < differences.max() <= most
    assert differences.mean() <= mean


# Settings


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("device", "cuda:77", "sql_diffusion.device is 'cuda:77', expected cpu"),
        ("device", "gpu", "sql_diffusion.device is 'gpu', expected cpu"),
        ("dtype", "half", "sql_diffusion.dtype is 'half', expected float32, float16 or bfloat16"),
    ],
)
@pytest.mark.parametrize(
    "call", ["ddpm_generate(1, backend => 'torch')", "text_to_image_steps('a', 1, '1', backend => 'torch')"]
)
def test_settings_that_are_refused(server: Connection, name: str, setting: str, message: str, call: str) -> None:
    server.execute(f"set sql_diffusion.{name} = '{setting}'")
    with pytest.raises(psycopg.Error) as caught:
        server.execute(f"select {call}")
    assert str(caught.value.diag.message_primary).removeprefix("sql_diffusion: ").startswith(message)
    assert caught.value.sqlstate == "22023"


def test_the_setting_backend_and_that_of_threads(server: Connection) -> None:
    server.execute("set sql_diffusion.backend = torch")
    try:
        assert value(server, "select sql_diffusion.choose_backend(null)") == "torch"
        server.execute("set sql_diffusion.threads = 2")
        image = value(server, "select ddpm_generate(1, num_inference_steps => 1)")
        assert value(server, "select torch_threads()") == 2
        assert value(server, "select image_from_png(image_png(%s::real[]))", image)  # by NumPy
    finally:
        server.execute("reset sql_diffusion.backend; set sql_diffusion.threads = 1")


def test_what_is_wrong_is_said_in_the_words_of_numpy(server: Connection) -> None:
    for call in (
        "ddpm_generate(1, 'none', backend => {})",
        "ddpm_generate(1, num_inference_steps => 0, backend => {})",
    ):
        said = []
        for backend in ("'numpy'", "'torch'"):
            with pytest.raises(psycopg.Error) as caught:
                server.execute(f"select {call.format(backend)}")
            said.append((caught.value.diag.message_primary, caught.value.diag.message_hint, caught.value.sqlstate))
        assert said[0] == said[1]


def test_the_doctor_tells_of_it(server: Connection, connect: Open) -> None:
    rows = {row[0]: row[1:] for row in server.execute("select * from sql_diffusion_numpy.doctor()")}
    assert rows["torch"][0] == "ok"
    assert rows["torch"][1].startswith(f"PyTorch {torch.__version__}, {SITE}/torch; cpu, ")
    assert rows["torch"][1].endswith(" GB")


def test_without_pytorch(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as session:
        session.execute("do $$ import sys; sys.modules['torch'] = None $$ language plpython3u")
        for call in ("ddpm_generate(1, backend => 'torch')", "ddpm_steps(1, backend => 'torch')") * 2:
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"select {call}")
            assert caught.value.sqlstate == "58P01"
            assert "PyTorch cannot be loaded by the server's Python" in str(caught.value)
            assert "pip install torch" in str(caught.value.diag.message_hint)
        assert value(session, "select ddpm_generate(1, num_inference_steps => 1)")  # NumPy goes on
        rows = {row[0]: row[1:] for row in session.execute("select * from sql_diffusion_numpy.doctor()")}
        assert rows["torch"] == ("ok", rows["torch"][1])
        assert rows["torch"][1].startswith("not installed")


# Sessions


def test_an_ordinary_role_can_use_it(server: Connection) -> None:
    server.execute("create role painter_in_torch")
    try:
        server.execute("set role painter_in_torch")
        assert len(value(server, "select ddpm_generate(1, num_inference_steps => 1, backend => 'torch')")) == 3
        server.execute("select sql_diffusion_torch.empty_cache()")
    finally:
        server.execute("reset role; drop role painter_in_torch")


def test_it_can_be_kept_from_a_role(server: Connection) -> None:
    """Who may not use it still has NumPy; also in a session that has used it in another role."""
    call = "select array_dims(ddpm_generate(1, num_inference_steps => 1, backend => %s))"
    server.execute("create role torch_nobody; revoke execute on function sql_diffusion_torch.settings() from public")
    try:
        assert value(server, call, "torch") == "[1:3][1:64][1:64]"
        server.execute("set role torch_nobody")
        with pytest.raises(
            psycopg.errors.InsufficientPrivilege, match="sql_diffusion: permission denied for function settings"
        ):
            server.execute(call, ["torch"])
        assert value(server, call, "numpy") == "[1:3][1:64][1:64]"
    finally:
        server.execute(
            "reset role; grant execute on function sql_diffusion_torch.settings() to public; drop role torch_nobody"
        )


def test_calls_of_both_backends_side_by_side(server: Connection) -> None:
    """Rows that are taken in turn come of their own backends."""
    call = "select sample from ddpm_steps(1, num_inference_steps => 3, backend => '{}')"
    whole = {backend: server.execute(call.format(backend)).fetchall() for backend in ("numpy", "torch")}
    assert whole["numpy"] != whole["torch"]  # in the last digits
    with server.transaction(), server.cursor("a") as numpy, server.cursor("b") as pytorch:
        numpy.execute(call.format("numpy"))
        pytorch.execute(call.format("torch"))
        for number in range(3):
            assert pytorch.fetchmany(1) == whole["torch"][number : number + 1]
            assert numpy.fetchmany(1) == whole["numpy"][number : number + 1]


def test_the_first_step_comes_while_the_rest_is_still_to_be_made(server: Connection) -> None:
    call = "select step from ddpm_steps(1, num_inference_steps => 30, backend => 'torch')"
    server.execute("set cursor_tuple_fraction to 1")
    with server.transaction(), server.cursor("steps") as cursor:
        began = time.monotonic()
        cursor.execute(call)
        assert cursor.fetchmany(1) == [(1,)]
        first = time.monotonic() - began
        assert len(cursor.fetchall()) == 29
        assert first < (time.monotonic() - began) / 4


def test_a_timeout_acts(server: Connection) -> None:
    query = "select count(*) from ddpm_generate(array_fill(1::bigint, '{{640}}'), num_inference_steps => {}, backend => 'torch')"
    server.execute("set statement_timeout = '300ms'")
    began = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        server.execute(query.format(500))
    assert time.monotonic() - began < 60  # which is far from the end
    server.execute("set statement_timeout = 0")
    assert value(server, "select ddpm_generate(1, num_inference_steps => 1, backend => 'torch')")


def test_weights_are_mapped_and_let_go_of(connect: Open, rng: np.random.Generator) -> None:
    """A file for each of NumPy and PyTorch, whose networks leave each other's alone."""
    session = connect()
    insert_model(session, "mapped", random_unet(rng))
    for _ in range(2):
        for backend in ("numpy", "torch"):
            assert value(session, "select ddpm_generate(1, 'mapped', 1, backend => %s)", backend)
    maps = Path(f"/proc/{session.info.backend_pid}/maps")

    def mapped() -> set[str]:
        return {line.split()[5] for line in maps.read_text().splitlines() if line.split()[-1].endswith(".network")}

    files = mapped()
    assert len(files) == 2  # and none that was removed
    session.execute("select sql_diffusion_torch.empty_cache()")
    assert len(mapped()) == 1
    assert value(session, "select ddpm_generate(1, 'mapped', 1, backend => 'torch')")
    assert mapped() == files
    session.execute("delete from sql_diffusion.models where name = 'mapped'")


def test_another_network_under_the_same_name(server: Connection, rng: np.random.Generator) -> None:
    images = []
    for _ in range(2):
        insert_model(server, "again", random_unet(rng))
        images.append(value(server, "select ddpm_generate(1, 'again', 1, backend => 'torch')"))
        server.execute("delete from sql_diffusion.models where name = 'again'")
    assert images[0] != images[1]
