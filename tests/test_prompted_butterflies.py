"""The bundled model that takes a prompt: diffusers' pictures of its folder, and that they show what the prompt says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from psycopg import Connection

from text_pipelines import grey_levels

pytest_plugins = ["numpy_server"]

FOLDER = Path(__file__).parent.parent / "models" / "prompted-butterflies"
PROMPT = "a blue butterfly with orange eyespots on a leaf"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    """diffusers', in single precision, with the sampler that the model is generated with by default."""
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, variant="fp16", torch_dtype=torch.float32)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: Any, seed: int, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return pipeline(PROMPT, generator=generator, output_type="np", **settings).images[0].transpose(2, 0, 1)


def test_the_picture_of_diffusers(numpy_connection: Connection, pipeline: Any, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**40))
    defaults = json.loads((FOLDER / "sql_diffusion.json").read_text())
    assert defaults.pop("scheduler") == "dpmsolver++"
    row = numpy_connection.execute("select text_to_image(%s, %s, backend => 'numpy')", [PROMPT, seed]).fetchone()
    assert row is not None
    assert grey_levels(row[0], theirs(pipeline, seed, **defaults)) <= 1


def test_the_picture_of_diffusers_in_sql(numpy_connection: Connection, pipeline: Any, rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**40))
    row = numpy_connection.execute(
        "select text_to_image(%s, %s, num_inference_steps => 2, guidance_scale => 2, backend => 'sql')", [PROMPT, seed]
    ).fetchone()
    assert row is not None
    assert grey_levels(row[0], theirs(pipeline, seed, num_inference_steps=2, guidance_scale=2.0)) <= 1


COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "white": (1, 1, 1)}


def test_wings_have_the_colour_that_the_prompt_says(numpy_connection: Connection, rng: np.random.Generator) -> None:
    """Of the middle of the pictures, where the wings are, each channel is brighter where the colour has it than where not."""
    seeds = [int(seed) for seed in rng.integers(2**40, size=3)]
    prompts = [f"a {colour} butterfly at night" for colour in COLOURS]
    rows = numpy_connection.execute(
        "select image from text_to_image(%s::text[], %s::bigint[], backend => 'numpy') with ordinality order by ordinality",
        [[prompt for prompt in prompts for _ in seeds], seeds * len(prompts)],
    ).fetchall()
    images = np.array([row[0] for row in rows]).reshape(len(prompts), len(seeds), 3, 128, 128)
    means = images[..., 32:96, 24:104].mean(axis=(1, 3, 4))
    for channel in range(3):
        has = [bool(colour[channel]) for colour in COLOURS.values()]
        assert means[has, channel].min() > means[np.logical_not(has), channel].max()


def test_it_is_the_one_where_there_is_a_prompt(numpy_connection: Connection) -> None:
    """A call without a prompt has the other's butterfly, one with a prompt has this model's."""
    own = numpy_connection
    picture = "array_fill(0.5::real, '{3,128,128}')"
    assert own.execute("select array_dims(ddpm_generate(1, num_inference_steps => 1))").fetchone() == (
        "[1:3][1:64][1:64]",
    )
    for call in (
        "text_to_image('a moth', 1, num_inference_steps => 1)",
        f"image_to_image({picture}, 'a moth', 1, num_inference_steps => 2)",
        f"inpaint({picture}, {picture}, 'a moth', 1, num_inference_steps => 2)",
    ):
        assert own.execute(f"select array_dims({call})").fetchone() == ("[1:3][1:128][1:128]",), call
