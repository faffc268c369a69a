"""Whole pictures against diffusers' own pipelines, and what the verbs promise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler
from PIL import Image
from psycopg import Connection

from reference import VARIATIONS, insert_model, random_unet, relative_error
from sample_butterflies import Schedule, default_schedule, load_pipeline, sample

pytest_plugins = ["numpy_server"]

BUNDLED = Path(__file__).parent.parent / "models" / "butterflies"

# Networks, and what each sampler is varied by with it: pairs of (settings of the network, of DDPM, of DDIM).
PICTURES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("small", {}, {}),
    "grey": ("one channel", {"variance_type": "fixed_large"}, {"timestep_spacing": "trailing"}),
    "wide": ("not square", {"prediction_type": "v_prediction", "clip_sample_range": 0.8}, {"prediction_type": "v_prediction"}),
    "deep": ("three levels", {"beta_schedule": "scaled_linear", "steps_offset": 1}, {"set_alpha_to_one": False, "steps_offset": 1}),
    "see-through": ("four channels", {"variance_type": "fixed_small_log"}, {"timestep_spacing": "linspace"}),
    "no padding": ("no downsample padding", {"timestep_spacing": "trailing"}, {"beta_schedule": "squaredcos_cap_v2"}),
    "scaled": ("scale and shift", {"prediction_type": "sample", "clip_sample": False}, {"prediction_type": "sample"}),
    "centred": ("input centred", {"num_train_timesteps": 200}, {"beta_schedule": "scaled_linear", "clip_sample": False}),
}  # fmt: skip


def saved_png(picture: Image.Image) -> np.ndarray:
    """The pixels of the PNG that diffusers' picture is saved as."""
    file = io.BytesIO()
    picture.save(file, "png")
    return np.asarray(Image.open(io.BytesIO(file.getvalue())), dtype=int)


def our_png(connection: Connection, call: str, arguments: dict[str, Any]) -> np.ndarray:
    png = connection.execute(f"select image_png({call})", arguments).fetchone()[0]
    return np.asarray(Image.open(io.BytesIO(png)), dtype=int)


@pytest.mark.parametrize("variation", PICTURES.keys())
def test_ddpm_pictures_are_those_of_diffusers(connection: Connection, rng: np.random.Generator, variation: str) -> None:
    network, ddpm, _ = PICTURES[variation]
    unet, scheduler = random_unet(rng, **VARIATIONS[network]), DDPMScheduler(**ddpm)
    insert_model(connection, "random", unet, dict(scheduler.config) | {"_class_name": "DDPMScheduler"})
    seed, steps = int(rng.integers(2**40)), int(rng.integers(2, 9))

    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = saved_png(pipeline(generator=torch.Generator().manual_seed(seed), num_inference_steps=steps).images[0])
    ours = our_png(
        connection, "ddpm_generate(%(seed)s, 'random', %(steps)s, backend => 'sql')", {"seed": seed, "steps": steps}
    )
    assert theirs.min() < theirs.max()
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("variation", PICTURES.keys())
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_pictures_are_those_of_diffusers(
    connection: Connection, rng: np.random.Generator, variation: str, eta: float
) -> None:
    network, _, ddim = PICTURES[variation]
    unet, scheduler = random_unet(rng, **VARIATIONS[network]), DDIMScheduler(**ddim)
    insert_model(connection, "random", unet, dict(scheduler.config) | {"_class_name": "DDIMScheduler"}, "DDIMPipeline")
    seed, steps = int(rng.integers(2**40)), int(rng.integers(2, 9))

    pipeline = DDIMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = saved_png(
        pipeline(generator=torch.Generator().manual_seed(seed), num_inference_steps=steps, eta=eta).images[0]
    )
    ours = our_png(
        connection,
        "ddpm_generate(%(seed)s, 'random', %(steps)s, eta => %(eta)s::real, backend => 'sql')",
        {"seed": seed, "steps": steps, "eta": eta},
    )
    assert np.abs(ours - theirs).max() <= 1


def test_timesteps_of_the_article(connection: Connection, rng: np.random.Generator) -> None:
    unet, scheduler = random_unet(rng), DDPMScheduler()
    insert_model(connection, "random", unet)
    seed = int(rng.integers(2**40))
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(timesteps=[500, 250, 125, 60])
    sample = torch.randn((1, 3, 8, 8), generator=generator)
    rows = connection.execute(
        "select step, timestep, sample, pred_original_sample from ddpm_steps(%s, 'random', timesteps => '{500,250,125,60}', backend => 'sql')",
        [seed],
    ).fetchall()
    assert [(row[0], row[1]) for row in rows] == [(1, 500), (2, 250), (3, 125), (4, 60)]
    for timestep, (_, _, ours, ours_original) in zip([500, 250, 125, 60], rows, strict=True):
        with torch.no_grad():
            theirs = scheduler.step(unet(sample, timestep).sample, timestep, sample, generator=generator)
        sample = theirs.prev_sample
        assert relative_error(ours, sample[0]) < 1e-4
        assert relative_error(ours_original, theirs.pred_original_sample[0]) < 1e-4


@pytest.mark.parametrize(
    "arguments", ["", ", num_inference_steps => 3, scheduler => 'ddpm'"], ids=["by default", "ddpm"]
)
def test_the_bundled_model_is_that_of_diffusers(
    connection: Connection, rng: np.random.Generator, arguments: str
) -> None:
    seed = int(rng.integers(2**40))
    schedule = Schedule("ddpm", 3) if arguments else default_schedule(BUNDLED)
    theirs = sample(load_pipeline(BUNDLED), schedule, [seed])[0]
    ours = our_png(connection, f"ddpm_generate(%(seed)s{arguments}, backend => 'sql')", {"seed": seed})
    assert np.abs(ours - theirs).max() <= 1


def test_seeds_give_the_pictures_that_they_give_alone(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_unet(rng))
    seeds = [int(seed) for seed in rng.integers(-(2**62), 2**62, 3)]
    rows = connection.execute(
        "select seed, image from ddpm_generate(%s::bigint[], 'random', 2, backend => 'sql')", [seeds]
    ).fetchall()
    assert [row[0] for row in rows] == seeds
    for seed, image in rows:
        alone = connection.execute(
            "select ddpm_generate(%s::bigint, 'random', 2, backend => 'sql')", [seed]
        ).fetchone()[0]
        assert image == alone
    assert rows[0][1] != rows[1][1]


def test_the_model_is_a_setting(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_unet(rng))
    connection.execute("set local sql_diffusion.model = 'random'")
    image = connection.execute("select ddpm_generate(1, num_inference_steps => 1, backend => 'sql')").fetchone()[0]
    assert np.shape(image) == (3, 8, 8)
    assert 0 <= np.min(image) < np.max(image) <= 1


def test_a_model_has_a_schedule_of_its_own(connection: Connection, rng: np.random.Generator) -> None:
    insert_model(connection, "random", random_unet(rng))

    def schedule(arguments: str = "") -> list[int]:
        rows = connection.execute(f"select timestep from sql_diffusion.generation_schedule('random'{arguments})")
        return [row[0] for row in rows]

    assert schedule() == list(range(999, -1, -1))
    assert schedule(", scheduler => 'ddim'") == list(range(980, -1, -20))
    connection.execute(
        """update sql_diffusion.models set defaults = '{"scheduler": "ddim", "num_inference_steps": 4}' where name = 'random'"""
    )
    assert schedule() == [750, 500, 250, 0]
    assert schedule(", num_inference_steps => 2") == [500, 0]
    assert len(schedule(", scheduler => 'ddpm'")) == 1000
    connection.execute(
        """update sql_diffusion.models set defaults = '{"timesteps": [500, 250, 125, 60]}' where name = 'random'"""
    )
    assert schedule() == [500, 250, 125, 60]


def test_steps_stream(database: str, rng: np.random.Generator) -> None:
    """A person watches the picture come: the first rows are there before the last is computed."""
    with psycopg.connect(dbname=database) as own, own.cursor(name="watch") as cursor:
        insert_model(own, "random", random_unet(rng))
        cursor.itersize = 1
        cursor.execute("select step from ddpm_steps(1, 'random', 1000, backend => 'sql')")
        own.execute("set local statement_timeout = '30s'")
        assert [cursor.fetchone()[0] for _ in range(3)] == [1, 2, 3]
        own.rollback()


REFUSED: dict[str, tuple[str, str, str]] = {
    "no seed": ("null", "22023", "seed is null"),
    "an unknown model": ("1, 'nobody'", "42704", 'model "nobody" does not exist'),
    "no steps": ("1, 'random', 0", "22023", "num_inference_steps is 0, expected from 1 to 1000"),
    "too many steps": ("1, 'random', 1001", "22023", "num_inference_steps is 1001, expected from 1 to 1000"),
    "steps that ascend": ("1, 'random', timesteps => '{1,2}'", "22023", "timesteps is {1,2}, expected descending"),
    "no steps in the list": ("1, 'random', timesteps => '{}'", "22023", "timesteps has 0 dimensions"),
    "an unknown scheduler": (
        "1, 'random', scheduler => 'nosuch'",
        "22023",
        "scheduler is 'nosuch', expected ddim, ddpm, dpmsolver",
    ),
    "eta": ("1, 'random', 2, scheduler => 'ddim', eta => 2", "22023", "eta is 2, expected from 0 to 1"),
    "an unknown backend": (
        "1, 'random', 2, backend => 'cuda'",
        "22023",
        "backend is 'cuda', expected auto, sql, numpy or torch",
    ),
}


@pytest.mark.parametrize(("arguments", "state", "message"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("verb", ["ddpm_generate", "ddpm_steps"])
def test_bad_arguments_are_refused(
    connection: Connection, rng: np.random.Generator, verb: str, arguments: str, state: str, message: str
) -> None:
    insert_model(connection, "random", random_unet(rng))
    arguments = arguments.replace("null", "null::bigint", 1) if arguments == "null" else arguments
    with pytest.raises(psycopg.Error) as error:
        connection.execute(f"select {verb}({arguments})")
    assert error.value.sqlstate == state
    assert message in str(error.value)


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_pictures_of_a_class(numpy_connection: Connection, rng: np.random.Generator, backend: str) -> None:
    """diffusers has no pipeline for them; its network and scheduler are called in turn."""
    unet = random_unet(rng, num_class_embeds=5)
    insert_model(numpy_connection, "classes", unet)
    scheduler, seeds, label = DDPMScheduler(), [7, 8], int(rng.integers(5))
    rows = numpy_connection.execute(
        f"select image from ddpm_generate(array[7, 8], class_label => {label}, model => 'classes', num_inference_steps => 3, backend => %s)",
        [backend],
    ).fetchall()
    alone = numpy_connection.execute(
        f"select ddpm_generate('8', class_label => {label}, model => 'classes', num_inference_steps => 3, backend => %s)",
        [backend],
    ).fetchall()
    last = numpy_connection.execute(
        f"select sample from ddpm_steps(8, class_label => {label}, model => 'classes', num_inference_steps => 3, backend => %s)",
        [backend],
    ).fetchall()[-1]
    for seed, (image,) in zip(seeds, rows, strict=True):
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randn((1, 3, 8, 8), generator=generator)
        scheduler.set_timesteps(3)
        with torch.no_grad():
            for timestep in scheduler.timesteps:
                output = unet(sample, timestep, class_labels=torch.tensor([label])).sample
                sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
        theirs = (sample[0] / 2 + 0.5).clamp(0, 1).numpy()
        assert np.abs(np.rint(np.array(image) * 255) - np.rint(theirs * 255)).max() <= 1
    assert relative_error(last[0], sample[0]) < 1e-3
    assert relative_error(alone[0][0], rows[1][0]) < 1e-5


CLASSES: dict[str, tuple[str, str]] = {
    "no class": ("ddpm_generate(1, 'classes', 1, {})", "class_label is null, expected from 0 to 4"),
    "a class that there is not": ("ddpm_generate(1, 5, 'classes', 1, {})", "class_label is 5, expected from 0 to 4"),
    "a class below 0": ("ddpm_generate(1, -1, 'classes', 1, {})", "class_label is -1, expected from 0 to 4"),
    "a model without": ("ddpm_generate(1, 0, 'plain', 1, {})", 'class_label is 0, but model "plain" knows no classes'),
    "a picture to begin with": (
        "image_to_image(array_fill(0.5::real, '{{3,8,8}}'), null, 1, model => 'classes', {})",
        "class_label is null, expected from 0 to 4",
    ),
}


@pytest.mark.parametrize(("call", "message"), CLASSES.values(), ids=CLASSES.keys())
def test_classes_are_checked_alike(
    numpy_connection: Connection, rng: np.random.Generator, call: str, message: str
) -> None:
    insert_model(numpy_connection, "classes", random_unet(rng, num_class_embeds=5))
    insert_model(numpy_connection, "plain", random_unet(rng))
    for backend in ("sql", "numpy"):
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error, numpy_connection.transaction():
            numpy_connection.execute("select " + call.format(f"backend => '{backend}'"))
        assert str(error.value.diag.message_primary).removeprefix("sql_diffusion: ") == message


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_arrays_of_seeds(numpy_connection: Connection, rng: np.random.Generator, backend: str) -> None:
    """Of any number of dimensions, as unnest reads them; a NULL among them is refused before the first picture is made."""
    insert_model(numpy_connection, "random", random_unet(rng))
    call = f"select seed from ddpm_generate(%s::bigint[], 'random', 1, backend => '{backend}')"
    assert numpy_connection.execute(call, ["{{1,2},{3,4}}"]).fetchall() == [(1,), (2,), (3,), (4,)]
    assert numpy_connection.execute(call, ["{}"]).fetchall() == []
    for seeds in ("{1,NULL}", "{{1,NULL}}"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="seed is null"), numpy_connection.transaction():
            numpy_connection.execute(call, [seeds])
