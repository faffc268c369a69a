"""The commands beside load: list, show, remove, generate, verify, doctor; what they print, write and exit with."""

from __future__ import annotations

import io
import json
import re
import secrets
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

import helper_command as command
from clusters import new_cluster
from reference import random_unet
from sql_diffusion import arrays, cli, database, pictures
from sql_diffusion.errors import Problem
from sql_diffusion.generate import Settings, steps

TIMESTEPS = "500,250,60"


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    """The smallest network with every kind of layer."""
    return random_unet(np.random.default_rng(0))


@pytest.fixture(scope="module")
def db(database: str, unet: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tests' database with that network loaded as tiny."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    command.succeed(database, "load", folder)
    yield database
    with psycopg.connect(dbname=database, autocommit=True) as own:
        own.execute("delete from sql_diffusion.models where not bundled")


def generate(db: str, *arguments: object) -> str:
    """The pure SQL backend, so that the picture needs nothing else installed."""
    return command.succeed(db, "generate", "--model", "tiny", "--backend", "sql", "--timesteps", TIMESTEPS, *arguments)


@pytest.fixture(scope="module")
def picture(db: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed 42, and its animation beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    said = generate(db, "--seed", 42, "-o", folder / "42.png", "--animate", folder / "42.gif")
    assert said.splitlines() == [str(folder / "42.png"), str(folder / "42.gif")]
    return folder / "42.png"


def test_the_picture_is_the_servers_and_diffusers(db: str, picture: Path, unet: UNet2DModel) -> None:
    ours = np.asarray(Image.open(picture))
    with psycopg.connect(dbname=db) as own:
        row = own.execute(
            "select image_png(ddpm_generate(42, 'tiny', timesteps => %s, backend => 'sql'))",
            [[int(t) for t in TIMESTEPS.split(",")]],
        ).fetchone()
    assert row is not None
    (picture.parent / "server.png").write_bytes(row[0])
    np.testing.assert_array_equal(ours, np.asarray(Image.open(picture.parent / "server.png")))

    generator = torch.Generator().manual_seed(42)
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(timesteps=[int(t) for t in TIMESTEPS.split(",")])
    sample = torch.randn((1, 3, 8, 8), generator=generator)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            sample = scheduler.step(unet(sample, timestep).sample, timestep, sample, generator=generator).prev_sample
    theirs = ((sample / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255).round()
    assert np.abs(ours - theirs).max() <= 1


def test_the_picture_says_how_it_was_made(db: str, picture: Path) -> None:
    text = Image.open(picture).text  # type: ignore[attr-defined]
    expected = {
        "model": "tiny",
        "seed": "42",
        "timesteps": TIMESTEPS,
        "num_inference_steps": "3",
        "scheduler": "ddpm",
    }
    assert expected.items() <= text.items()
    assert text["Software"].startswith("sql_diffusion ")
    assert re.fullmatch("[0-9a-f]{64}", text["sha256"])


def test_the_animation_ends_with_the_picture(picture: Path) -> None:
    film: Any = Image.open(picture.with_suffix(".gif"))
    assert (film.n_frames, film.size) == (3, (8, 8))
    film.seek(2)
    np.testing.assert_array_equal(np.asarray(film.convert("RGB")), np.asarray(Image.open(picture)))  # 64 colours fit


def test_count_grid_and_scale(db: str, picture: Path, tmp_path: Path) -> None:
    generate(db, "--seed", 41, "--count", 3, "--grid", "--scale", 2, "-o", tmp_path / "grid.png")
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (32, 32)
    assert grid.text["seed"] == "41,42,43"  # type: ignore[attr-defined]
    second = np.asarray(grid)[:16, 16:]
    np.testing.assert_array_equal(second, np.asarray(Image.open(picture)).repeat(2, 0).repeat(2, 1))
    assert not np.asarray(grid)[16:, 16:].any()  # the place of a fourth

    said = generate(db, "--seed", 42, "--count", 2, "-o", tmp_path / "each.png").splitlines()
    assert said == [str(tmp_path / "each-42.png"), str(tmp_path / "each-43.png")]
    np.testing.assert_array_equal(np.asarray(Image.open(said[0])), np.asarray(Image.open(picture)))
    assert Image.open(said[1]).text["seed"] == "43"  # type: ignore[attr-defined]


def test_ansi_shows_the_pixels(db: str, picture: Path) -> None:
    said = generate(db, "--seed", 42, "--ansi")
    assert said.count("\n") == 4  # two rows of pixels in a line
    pixels = np.asarray(Image.open(picture)).astype(int)
    upper = re.search(r"38;2;(\d+);(\d+);(\d+)", said)
    lower = re.search(r"48;2;(\d+);(\d+);(\d+)", said)
    assert upper and lower
    assert [int(value) for value in upper.groups()] == pixels[0, 0].tolist()
    assert [int(value) for value in lower.groups()] == pixels[1, 0].tolist()


def test_steps_arrive_as_they_are_done(db: str) -> None:
    """Of 1000 steps the first two, in a session whose every statement may take only as long as a few steps."""
    with psycopg.connect(dbname=db, autocommit=True) as own:
        arrays.register(own)
        own.execute("set statement_timeout = '60s'")
        with closing(steps(own, 42, "sql", Settings("tiny", 1000))) as some:
            first, second = next(some), next(some)
    assert (first.step, first.timestep, second.step, second.timestep) == (1, 999, 2, 998)
    assert first.sample.shape == (3, 8, 8) and first.sample.dtype == np.float32


@pytest.mark.parametrize(
    ("exit_code", "arguments", "words"),
    [
        (2, ["--steps", 5000], "num_inference_steps is 5000"),
        (2, ["--timesteps", "10,20"], "descending"),
        (2, ["--timesteps", "ten"], "500,250,125,60"),
        (2, ["--eta", 2], "eta is 2"),
        (2, ["-o", "picture.jpg"], ".png"),
        (2, ["--negative", "rain"], "--negative goes with a prompt"),
        (2, ["--guidance", 7.5], "--guidance goes with a prompt"),
        (2, ["--size", "64x64"], "--size goes with a prompt"),
        (2, ["--mask", "mask.png"], "--mask goes with a picture"),
        (2, ["--strength", 0.5], "--strength goes with a picture"),
        (2, ["--noise-level", 5], "--noise-level goes with a picture"),
        (2, ["--image", "/nowhere/picture.png"], "/nowhere/picture.png cannot be read as a picture: No such file"),
        (2, ["--image", __file__], "test_helper_commands.py cannot be read as a picture"),
        (2, ["--prompt", "a moth", "--size", "64"], "--size 64 is not a width and a height"),
        (2, ["-o", "/nowhere/picture.png"], "no folder /nowhere"),
        (2, ["--animate", "film.mp4"], ".gif"),
        (5, ["--model", "nobody"], "nobody"),
        (2, ["--seed", 2**63], "the seeds are 9223372036854775808"),
        (2, ["--seed", 2**63 - 1, "--count", 2], "the seeds are 9223372036854775807 to 9223372036854775808"),
        (2, ["--seed", -(2**63) - 1], "the seeds are -9223372036854775809"),
    ],
)
def test_what_generate_refuses(db: str, exit_code: int, arguments: list[object], words: str) -> None:
    assert words in command.fail(db, exit_code, "generate", "--model", "tiny", "--backend", "sql", *arguments)


def test_a_picture_that_begins_with_a_picture(db: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Changed, and filled in: what the verbs make of the file's pixels, in the size that is asked for."""
    levels = rng.integers(0, 256, (16, 12, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "one.png")
    white = Image.fromarray(rng.integers(0, 256, (16, 12)).astype(np.uint8))
    white.save(tmp_path / "mask.png")
    smaller = Image.fromarray(levels).resize((8, 8), Image.Resampling.LANCZOS)
    image = (np.asarray(smaller, np.float32) / np.float32(255)).transpose(2, 0, 1).tolist()
    mask = (np.asarray(white.resize((8, 8), Image.Resampling.LANCZOS), np.float32) / np.float32(255))[None].tolist()
    given = ["--image", tmp_path / "one.png", "--size", "8x8", "--model", "tiny", "--seed", 3, "--steps", 4]
    common = "model => 'tiny', num_inference_steps => 4, backend => 'sql'"
    for name, more, query, given_arrays in (
        ("changed", ["--strength", 0.5], f"image_to_image(%s::real[], null, 3, 0.5, {common})", [image]),
        (
            "filled",
            ["--mask", tmp_path / "mask.png"],
            f"inpaint(%s::real[], %s::real[], null, 3, {common})",
            [image, mask],
        ),
    ):
        file = tmp_path / f"{name}.png"
        command.succeed(db, "generate", *given, *more, "--backend", "sql", "-o", file)
        with psycopg.connect(dbname=db) as own:
            row = own.execute(f"select image_png({query})".encode(), given_arrays).fetchone()
        assert row is not None
        made = Image.open(file)
        np.testing.assert_array_equal(np.asarray(made), np.asarray(Image.open(io.BytesIO(row[0]))))
        assert made.text["image"] == "one.png"  # type: ignore[attr-defined]
        assert made.text["strength"] == ("0.5" if name == "changed" else "1")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("96×64", (96, 64)), (None, (None, None))])
def test_sizes(text: str | None, size: tuple[int | None, int | None]) -> None:
    assert cli.parse_size(text) == size


def test_list(db: str) -> None:
    table = command.succeed(db, "list")
    assert re.search(r"^tiny +DDPMPipeline +[\d,]+ +0\.\d MB ", table, re.MULTILINE)
    listed = json.loads(command.succeed(db, "list", "--json"))
    (tiny,) = [entry for entry in listed if entry["name"] == "tiny"]
    assert tiny["bundled"] is False


def test_show(db: str, unet: UNet2DModel) -> None:
    shown = json.loads(command.succeed(db, "show", "tiny", "--json"))
    assert shown["parameters"] == sum(parameter.numel() for parameter in unet.parameters())
    assert shown["config"]["block_out_channels"] == [8, 16]
    assert shown["scheduler"]["_class_name"] == "DDPMScheduler"
    assert [step["step"] for step in shown["plan"]] == list(range(1, len(shown["plan"]) + 1))
    modules = dict(unet.named_modules())
    assert [step["key"] for step in shown["plan"] if step["operation"] == "input"] == ["sample", "timestep"]
    assert all(step["key"] in modules for step in shown["plan"] if step["key"] and step["operation"] != "input")
    text = command.succeed(db, "show", "tiny")
    assert f"{shown['parameters']:,}" in text
    assert "up_blocks.0.attentions.1" in text
    assert "There are: " in command.fail(db, 5, "show", "nobody")


def test_remove(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path / "gone")
    command.succeed(db, "load", tmp_path / "gone")
    command.succeed(db, "remove", "gone")
    assert "gone" in command.fail(db, 5, "remove", "gone")
    with psycopg.connect(dbname=db) as own:
        assert own.execute("select 1 from sql_diffusion.parameters where model = 'gone'").fetchone() is None


def test_verify_passes_and_fails(db: str) -> None:
    layers = json.loads(command.succeed(db, "verify", "tiny", "--backend", "sql", "--json"))
    assert {layer["operation"] for layer in layers} >= {"conv2d", "resnet_block", "attention_block", "downsample"}
    assert all(layer["passed"] and layer["relative"] < 1e-4 for layer in layers)
    assert all(layer["largest"] > 0 for layer in layers)


def test_verify_finds_a_wrong_layer(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is given another middle block than the database has: from there on nothing agrees."""
    from sql_diffusion import database, verify

    read = verify.read_weights

    def changed(*arguments: Any) -> dict[str, Any]:
        state = read(*arguments)
        state["mid_block.resnets.0.conv1.weight"] = state["mid_block.resnets.0.conv1.weight"] * 1.01
        return state

    monkeypatch.setattr(verify, "read_weights", changed)
    with database.connect(f"dbname={db}") as own:
        layers = verify.verify(own, "tiny", 0, 500, "sql")
    wrong = [layer.key for layer in layers if not layer.passed]
    assert wrong[0] == "mid_block.resnets.0"
    assert not any(key.startswith("down_blocks") for key in wrong)


def test_doctor(db: str) -> None:
    findings = {entry["check"]: entry for entry in json.loads(command.succeed(db, "doctor", "--json"))}
    assert findings["PostgreSQL"]["state"] == "ok"
    assert findings["sql_diffusion"]["state"] == "ok"
    assert "tiny" in findings["models"]["detail"]
    assert "✓" in command.succeed(db, "doctor")

    result = command.run("template1", "doctor", "--json")  # a database without the extension
    assert result.returncode == 1
    findings = {entry["check"]: entry for entry in json.loads(result.stdout)}
    assert findings["sql_diffusion"]["state"] == "missing"
    assert findings["sql_diffusion"]["mend"] == "CREATE EXTENSION sql_diffusion;"


def test_connections(db: str, tmp_path: Path) -> None:
    """As psql: a DSN, a URI, a service file; and a sentence where there is none."""
    (tmp_path / "services").write_text(f"[pictures]\ndbname={db}\n")
    for dsn, variables in (
        (f"dbname={db}", {}),
        (f"postgresql:///{db}", {}),
        ("service=pictures", {"PGSERVICEFILE": str(tmp_path / "services")}),
        ("", {"PGSERVICEFILE": str(tmp_path / "services"), "PGSERVICE": "pictures", "PGDATABASE": ""}),
    ):
        assert "tiny" in command.succeed("template1", "list", "--dsn", dsn, **variables)
    assert "CREATE EXTENSION" in command.fail("template1", 3, "list")
    assert "no connection" in command.fail(db, 3, "list", "--dsn", f"host={tmp_path}")
    assert "DSN" in command.fail(db, 3, "list", "--dsn", "hst=nowhere")
    assert "does not exist" in command.fail("no_such_database", 3, "list")


def test_a_model_that_is_not_there_needs_no_torch(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "there is no model nosuch" in command.fail(db, 5, "verify", "nosuch")
    assert "torch is not installed" in command.fail(db, 2, "verify", "tiny")


def test_an_animation_says_what_it_writes(db: str, tmp_path: Path) -> None:
    said = generate(db, "--seed", 1, "--animate", tmp_path / "film.gif")
    assert said.split() == [str(tmp_path / "film.gif")] == list(map(str, tmp_path.iterdir()))
    assert "Also write" not in command.succeed(db, "generate", "--help")


@pytest.mark.parametrize("given", ["none", "wrong"])
def test_a_password_is_asked_for(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal, where none was given or another; elsewhere the message says where it belongs."""
    role = f"sql_diffusion_{secrets.token_hex(4)}"
    with new_cluster() as host:
        with psycopg.connect(host=host, user="postgres", dbname="postgres", autocommit=True) as own:
            own.execute(f"create role {role} login password 'butterfly'".encode())
            row = own.execute("select current_setting('hba_file')").fetchone()
            assert row is not None
            Path(row[0]).write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            own.execute("select pg_reload_conf()")
        monkeypatch.delenv("PGPASSWORD", raising=False)
        dsn = f"host={host} port=5432 user={role} dbname=postgres" + (" password=moth" if given == "wrong" else "")
        with pytest.raises(Problem) as refused:
            database.connect(dsn)
        assert "PGPASSWORD" in (refused.value.hint or "")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("getpass.getpass", lambda prompt: "butterfly")
        with database.connect(dsn) as own:
            assert own.execute("select current_user").fetchone() == (role,)


def test_help_and_usage(db: str) -> None:
    for name in ("load", "list", "show", "remove", "generate", "verify", "doctor"):
        text = command.succeed(db, name, "--help")
        assert f"sql-diffusion {name}" in text.partition("Examples:")[2]
    assert "Exit codes" in command.succeed(db, "--help")
    assert command.run(db, "nonsense").returncode == 2
    assert command.run(db, "load").returncode == 2
    assert command.succeed(db, "--version").startswith("sql-diffusion ")
    completion = {"_SQL_DIFFUSION_COMPLETE": "complete_bash", "COMP_WORDS": "sql-diffusion l", "COMP_CWORD": "1"}
    assert command.succeed(db, **completion).split() == ["load", "list"]


def test_the_version_is_the_extensions() -> None:
    """pyproject.toml reads it from the control file, and nothing else holds it."""
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    source = project["tool"]["hatch"]["version"]
    found = re.search(source["pattern"], (root / source["path"]).read_text())
    assert found and re.fullmatch(r"\d+\.\d+\.\d+", found["version"])


# Pictures


def test_rounding_is_numpys_half_to_even() -> None:
    """Every grey level and the halves between them, as diffusers' numpy_to_pil rounds."""
    values = np.linspace(-1.2, 1.2, 4096, dtype=np.float32).reshape(1, 64, 64)
    expected = DDPMPipeline.numpy_to_pil((np.clip(values / 2 + 0.5, 0, 1)).transpose(1, 2, 0)[None])[0]
    np.testing.assert_array_equal(np.asarray(pictures.to_image(values)), np.asarray(expected))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels: int, tmp_path: Path, rng: np.random.Generator) -> None:
    sample = rng.uniform(-1, 1, (channels, 5, 7)).astype(np.float32)
    image = pictures.to_image(sample, 3)
    assert image.size == (21, 15)
    pictures.save_png(image, tmp_path / "x.png", {"model": "Schmetterlinge, größer"})
    saved = Image.open(tmp_path / "x.png")
    assert saved.text["model"] == "Schmetterlinge, größer"  # type: ignore[attr-defined]
    assert np.asarray(saved).shape == ((15, 21) if channels == 1 else (15, 21, channels))


@pytest.mark.parametrize("suffix", [".gif", ".apng", ".png", ".webp"])
def test_animations(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    frames = [pictures.to_image(rng.uniform(-1, 1, (3, 6, 6)).astype(np.float32)) for _ in range(5)]
    pictures.save_animation(frames, tmp_path / f"x{suffix}", {"seed": "1"})
    film: Any = Image.open(tmp_path / f"x{suffix}")
    assert film.n_frames == 5 and film.info["loop"] == 0
    film.seek(4)
    np.testing.assert_array_equal(np.asarray(film.convert("RGB")), np.asarray(frames[4]))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1000])
def test_frames(count: int) -> None:
    chosen = pictures.choose_frames(count)
    assert len(chosen) == min(count, pictures.MOST_FRAMES)
    assert chosen[0] == 0 and chosen[-1] == count - 1
    assert chosen == sorted(set(chosen))


# Arrays


@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3), (2, 3, 1, 1), (1, 2, 3, 4, 5, 6), (arrays.CHUNK + 1,)])
def test_arrays_travel_both_ways(database: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    """To the server and back, bit by bit, subnormals and negative zero too."""
    array = rng.standard_normal(shape).astype(np.float32)
    array.flat[0] = -0.0 if len(shape) % 2 else np.float32(1e-45)
    with psycopg.connect(dbname=database) as own:
        arrays.register(own)
        row = own.cursor(binary=True).execute("select %b, array_ndims(%b), %b::text::real[]", [array] * 3).fetchone()
    assert row is not None
    assert row[1] == len(shape)
    for returned in (row[0], row[2]):
        np.testing.assert_array_equal(returned.view(np.uint32), array.view(np.uint32))
