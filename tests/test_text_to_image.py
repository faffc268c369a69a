"""Whole pictures from prompts against diffusers' pipelines: real configurations, shrunk, with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from psycopg import Connection

from databases import new_database
from reference import insert_model, random_unet, randomize
from text_pipelines import autoencoder, grey_levels, insert_pipeline

pytest_plugins = ["text_pipelines"]

FIVE_LANGUAGES = [
    "a blue butterfly with orange spots",
    "ein Schmetterling, größer als üblich",
    "青い蝶と橙色の斑点",
    "голубая бабочка",
    "فراشة زرقاء",
]
LONG = "wings, " * 100


# pipeline, prompt, what else diffusers is told; the verb takes the same names.
PICTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "defaults of guidance": ("1", FIVE_LANGUAGES[0], {"num_inference_steps": 3}),
    "negative prompt": ("1", FIVE_LANGUAGES[1], {"negative_prompt": "a moth", "guidance_scale": 3.0, "num_inference_steps": 2}),
    "no guidance": ("1", FIVE_LANGUAGES[2], {"guidance_scale": 1.0, "num_inference_steps": 2}),
    "not square": ("1", FIVE_LANGUAGES[3], {"height": 24, "width": 8, "num_inference_steps": 2}),
    "latents of odd sizes": ("eighths", FIVE_LANGUAGES[0], {"height": 72, "width": 104, "num_inference_steps": 2}),
    "clip_skip": ("1", FIVE_LANGUAGES[4], {"clip_skip": 1, "num_inference_steps": 2}),
    "rescaled guidance": ("2", FIVE_LANGUAGES[0], {"guidance_rescale": 0.7, "num_inference_steps": 3}),
    "fresh noise": ("2", FIVE_LANGUAGES[1], {"eta": 0.6, "num_inference_steps": 3}),
    "empty prompt": ("2", "", {"num_inference_steps": 2}),
    "long prompt": ("2", LONG, {"num_inference_steps": 2}),
    "XL, zeros for no negative prompt": ("XL", FIVE_LANGUAGES[2], {"num_inference_steps": 2}),
    "XL, negative prompt": ("XL", FIVE_LANGUAGES[0], {"negative_prompt": "a moth", "num_inference_steps": 2}),
    "XL, not square, clip_skip": ("XL", FIVE_LANGUAGES[3], {"height": 16, "width": 24, "clip_skip": 1, "num_inference_steps": 2}),
    "turbo": ("turbo", FIVE_LANGUAGES[0], {"num_inference_steps": 1, "guidance_scale": 0.0}),
    "turbo, four steps": ("turbo", FIVE_LANGUAGES[1], {"num_inference_steps": 4, "guidance_scale": 0.0}),
    "consistency, its defaults": ("consistency", FIVE_LANGUAGES[4], {}),
    "consistency, two steps": ("consistency", FIVE_LANGUAGES[0], {"num_inference_steps": 2, "guidance_scale": 2.0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[Connection]:
    """A database that has all of them."""
    with new_database("sql_diffusion_numpy") as name, psycopg.connect(dbname=name, autocommit=True) as connection:
        for model, pipeline in pipelines.items():
            insert_pipeline(connection, model, pipeline, folders)
        yield connection


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(("name", "prompt", "settings"), PICTURES.values(), ids=PICTURES.keys())
def test_the_picture_of_diffusers(
    loaded: Connection, pipelines: dict[str, Any], name: str, prompt: str, settings: dict[str, Any], backend: str
) -> None:
    seed = 42
    generator = torch.Generator().manual_seed(seed)
    theirs = pipelines[name](prompt, generator=generator, output_type="np", **settings).images[0].transpose(2, 0, 1)
    named = "".join(
        f", {argument} => %s" + ("::real" if isinstance(value, float) else "") for argument, value in settings.items()
    )
    row = loaded.execute(
        f"select text_to_image(%s::text, %s, %s, backend => %s{named})",
        [prompt, seed, name, backend, *settings.values()],
    ).fetchone()
    assert row is not None
    assert np.std(theirs) > 0.02  # a picture, not a plain ground
    assert grey_levels(row[0], theirs) <= 1


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_many_prompts_are_each_the_picture_made_alone(loaded: Connection, backend: str) -> None:
    prompts, seeds = FIVE_LANGUAGES[:2], [2**40, -3]
    rows = loaded.execute(
        "select prompt, seed, image from text_to_image(%s::text[], %s::bigint[], '1', num_inference_steps => 2, backend => %s)",
        [prompts, seeds, backend],
    ).fetchall()
    assert [(prompt, seed) for prompt, seed, _ in rows] == list(zip(prompts, seeds, strict=True))
    for prompt, seed, image in rows:
        alone = loaded.execute(
            "select text_to_image(%s::text, %s, '1', num_inference_steps => 2, backend => %s)", [prompt, seed, backend]
        ).fetchone()
        assert alone is not None
        assert grey_levels(image, np.array(alone[0])) <= 1


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_the_steps_lead_to_the_picture(loaded: Connection, backend: str) -> None:
    rows = loaded.execute(
        """select s.step, s.sample, s.pred_original_sample, array(select image_ansi(sql_diffusion.latent_preview(s.sample))),
                  sql_diffusion.finished_image(s.sample, '2')
           from text_to_image_steps('a moth', 5, '2', num_inference_steps => 3, backend => %s) s""",
        [backend],
    ).fetchall()
    assert [row[0] for row in rows] == [1, 2, 3]
    assert all(np.shape(row[1]) == np.shape(row[2]) == (4, 8, 8) for row in rows)
    assert all(len(row[3]) == 4 and "\x1b[" in row[3][0] for row in rows)
    twin = loaded.execute("select sql_diffusion_numpy.finished_image(%s::real[], '2')", [rows[-1][1]]).fetchone()
    assert twin is not None
    assert grey_levels(rows[-1][4], np.array(twin[0])) <= 1
    picture = loaded.execute(
        "select text_to_image('a moth', 5, '2', num_inference_steps => 3, backend => %s)", [backend]
    ).fetchone()
    assert picture is not None
    assert grey_levels(rows[-1][4], np.array(picture[0])) <= 1


def test_latent_previews_are_alike(loaded: Connection, rng: np.random.Generator) -> None:
    for channels in (1, 2, 3, 4, 8):
        latent = rng.standard_normal((channels, 5, 6)).astype(np.float32).tolist()
        [(one, two)] = loaded.execute(
            "select sql_diffusion.latent_preview(%s::real[]), sql_diffusion_numpy.latent_preview(%s::real[])",
            [latent, latent],
        ).fetchall()
        assert np.shape(one) == (3, 5, 6)
        np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("kind", ["VQModel", "AutoencoderKL"])
def test_unconditional_latents(connection: Connection, rng: np.random.Generator, kind: str) -> None:
    connection.execute("create extension sql_diffusion_numpy cascade")
    torch.manual_seed(int(rng.integers(2**32)))
    decoder = autoencoder() if kind == "AutoencoderKL" else randomize(
        VQModel(
            block_out_channels=[4, 8], layers_per_block=1, norm_num_groups=2, latent_channels=3, num_vq_embeddings=16,
            vq_embed_dim=3, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )  # fmt: skip
    channels = decoder.config.latent_channels
    network = random_unet(rng, in_channels=channels, out_channels=channels)
    pipeline = LDMPipeline(vqvae=decoder, unet=network, scheduler=DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    scheduler = {"_class_name": "DDIMScheduler", **pipeline.scheduler.config}
    insert_model(connection, "latent", network, scheduler, "LDMPipeline", vqvae=decoder)
    theirs = pipeline(generator=torch.Generator().manual_seed(3), num_inference_steps=3, output_type="np").images[0]
    for backend in ("sql", "numpy"):
        row = connection.execute(
            "select ddpm_generate(3, 'latent', num_inference_steps => 3, backend => %s)", [backend]
        ).fetchone()
        assert row is not None
        assert grey_levels(row[0], theirs.transpose(2, 0, 1)) <= 1, backend


WRONG: dict[str, tuple[str, str]] = {
    "no prompt": ("text_to_image(null::text, 1, '1', {})", "prompt is null, expected a text"),
    "no seed": ("text_to_image('a', null, '1', {})", "seed is null, expected an integer"),
    "a height that does not fit": ("text_to_image('a', 1, '1', height => 11, {})", "height is 11, expected a positive multiple of 2"),
    "a negative width": ("text_to_image('a', 1, '1', width => -4, {})", "width is -4, expected a positive multiple of 2"),
    "guidance that is no number": ("text_to_image('a', 1, '1', guidance_scale => 'NaN', {})", "guidance_scale is NaN, expected a finite number of at least 0"),
    "guidance below 0": ("text_to_image('a', 1, '1', guidance_scale => -1, {})", "guidance_scale is -1, expected a finite number of at least 0"),
    "rescaling beyond 1": ("text_to_image('a', 1, '1', guidance_rescale => 2, {})", "guidance_rescale is 2, expected from 0 to 1"),
    "too many layers left out": ("text_to_image('a', 1, '1', clip_skip => 3, {})", "clip_skip is 3, expected from 1 to 2"),
    "an unconditional model": ("text_to_image('a', 1, 'butterflies', {})", 'model "butterflies" takes no prompt'),
    "a prompt's model without a prompt": ("ddpm_generate(1, '1', {})", 'model "1" takes a prompt'),
    "arrays of different lengths": (
        "text_to_image(array['a', 'b'], array[1]::bigint[], '1', {})",
        "prompts has 2 elements and seeds 1, expected as many of one as of the other",
    ),
    "a null prompt among others": ("text_to_image(array['a', null], array[1, 2]::bigint[], '1', {})", "prompt is null, expected a text"),
    "an unknown sampler": ("text_to_image('a', 1, '1', scheduler => 'nosuch', {})", "nosuch"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(loaded: Connection, call: str, message: str) -> None:
    words = []
    for backend in ("sql", "numpy"):
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error, loaded.transaction():
            loaded.execute("select " + call.format(f"backend => '{backend}'")).fetchall()
        assert error.value.diag.message_primary is not None
        assert message in error.value.diag.message_primary, backend
        words.append(error.value.diag.message_primary.removeprefix("sql_diffusion: "))
    assert words[0] == words[1]


def test_a_model_without_its_text_encoder(loaded: Connection) -> None:
    with loaded.transaction(force_rollback=True):
        loaded.execute("delete from sql_diffusion.components where model = '1' and component = 'text_encoder'")
        for backend in ("sql", "numpy"):
            with (
                pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="component text_encoder is missing"),
                loaded.transaction(),
            ):
                loaded.execute("select text_to_image('a', 1, '1', backend => %s)", [backend])


def test_a_call_without_types_finds_its_function(loaded: Connection) -> None:
    loaded.execute("prepare prompted as select cardinality(text_to_image($1, $2, '1', num_inference_steps => 1))")
    assert loaded.execute("execute prompted('a moth', 3)").fetchone() == (3 * 16 * 16,)
    loaded.execute("deallocate prompted")


def test_numbers_come_as_drivers_send_them(loaded: Connection) -> None:
    """Python's are double precision, or as small an integer as holds them."""
    call = "select text_to_image(%s, %s, '1', num_inference_steps => %s, guidance_scale => %s, guidance_rescale => %s, backend => 'numpy')"
    for guidance in (3.5, 3):
        row = loaded.execute(call, ["a moth", 3, 1, guidance, 0.25]).fetchone()
        assert row is not None
        assert np.shape(row[0]) == (3, 16, 16)


def test_the_configurations_are_plain_json(pipelines: dict[str, Any]) -> None:
    """What the tests insert is what a checkpoint has: nothing that only Python knows."""
    for pipeline in pipelines.values():
        json.dumps(dict(pipeline.scheduler.config))
