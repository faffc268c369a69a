"""Kinds of checkpoints that people have: loaded by the command, and drawn in both backends as diffusers draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import psycopg
import pytest
import torch
from diffusers import UNet2DModel
from psycopg.types.json import Jsonb

import helper_command as command
from reference import random_unet, relative_error

pytest_plugins = ["numpy_server"]

Make = Callable[[UNet2DModel], Any]
STEPS = 3


def pipeline(name: str, scheduler: str, **settings: Any) -> Make:
    return lambda unet: getattr(diffusers, name)(unet, getattr(diffusers, scheduler)(**settings))


DDPM = pipeline("DDPMPipeline", "DDPMScheduler")
LEARNED: dict[str, Any] = {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2"}
CHECKPOINTS: dict[str, tuple[dict[str, Any], Make]] = {
    "gelu": ({"act_fn": "gelu"}, DDPM),
    "five channels": ({"in_channels": 5, "out_channels": 5}, DDPM),
    "improved diffusion": (
        {"out_channels": 6, "resnet_time_scale_shift": "scale_shift"},
        pipeline("DDPMPipeline", "DDPMScheduler", **LEARNED),
    ),
    "pndm": ({}, pipeline("PNDMPipeline", "PNDMScheduler", skip_prk_steps=True)),
    "thresholding": ({}, pipeline("DDPMPipeline", "DDPMScheduler", thresholding=True, dynamic_thresholding_ratio=0.9)),
    "trained betas": ({}, pipeline("DDPMPipeline", "DDPMScheduler", trained_betas=np.linspace(0.001, 0.03, 1000).tolist())),
    "no signal at the end": (
        {},
        pipeline(
            "DDPMPipeline", "DDPMScheduler",
            rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing",
        ),
    ),
    "resnets that resample": ({"downsample_type": "resnet", "upsample_type": "resnet"}, DDPM),
}  # fmt: skip


@pytest.mark.parametrize(("network", "make"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_the_picture_is_that_of_diffusers(
    numpy_database: str, rng: np.random.Generator, tmp_path: Path, network: dict[str, Any], make: Make
) -> None:
    theirs = make(random_unet(rng, **network))
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "checkpoint")
    seed = int(rng.integers(2**40))
    generator = torch.Generator().manual_seed(seed)
    expected = theirs(generator=generator, num_inference_steps=STEPS, output_type="np").images[0].transpose(2, 0, 1)
    assert expected.min() < expected.max()
    command.succeed(numpy_database, "load", tmp_path / "checkpoint", "--replace")
    with psycopg.connect(dbname=numpy_database) as own:
        for backend in ("sql", "numpy"):
            query = "select ddpm_generate(%s, 'checkpoint', %s, backend => %s)"
            row = own.execute(query.encode(), [seed, STEPS, backend]).fetchone()
            assert row is not None
            assert np.abs(np.array(row[0]) - expected).max() < 1 / 255, backend


def test_a_learned_variance_is_for_ddpm_alone(numpy_database: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """The other samplers go by the first half of what the network gives, as improved diffusion's own ddim."""
    unet = random_unet(rng, out_channels=6)
    pipeline("DDPMPipeline", "DDPMScheduler", **LEARNED)(unet).save_pretrained(tmp_path / "checkpoint")
    command.succeed(numpy_database, "load", tmp_path / "checkpoint", "--replace")
    scheduler = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(STEPS)
    with psycopg.connect(dbname=numpy_database) as own, torch.no_grad():
        for backend in ("sql", "numpy"):
            query = "select sample from ddpm_steps(7, 'checkpoint', %s, scheduler => %s, backend => %s) order by step desc limit 1"
            sample = torch.randn((1, 3, 8, 8), generator=torch.Generator().manual_seed(7))
            for timestep in scheduler.timesteps:
                sample = scheduler.step(unet(sample, timestep).sample[:, :3], timestep, sample).prev_sample
            row = own.execute(query.encode(), [STEPS, "ddim", backend]).fetchone()
            assert row is not None
            assert relative_error(row[0], sample[0]) < 1e-4
            # and the solver whose configuration may say so in diffusers
            own.execute(query.encode(), [STEPS, "dpmsolver++", backend])


def test_a_pipeline_makes_its_scheduler(numpy_database: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """DDIMPipeline and PNDMPipeline sample their way, whatever scheduler was saved beside the network."""
    pipeline("DDPMPipeline", "DDPMScheduler")(random_unet(rng)).save_pretrained(tmp_path / "checkpoint")
    index = tmp_path / "checkpoint/model_index.json"
    saved = index.read_text()
    for name, scheduler in (("DDIMPipeline", diffusers.DDIMScheduler), ("PNDMPipeline", diffusers.PNDMScheduler)):
        index.write_text(saved.replace("DDPMPipeline", name))
        command.succeed(numpy_database, "load", tmp_path / "checkpoint", "--replace")
        theirs = scheduler.from_config(diffusers.DDPMScheduler().config)
        theirs.set_timesteps(50)
        with psycopg.connect(dbname=numpy_database) as own:
            rows = own.execute(
                "select timestep from sql_diffusion.generation_schedule('checkpoint') order by step"
            ).fetchall()
        assert [row[0] for row in rows] == theirs.timesteps.tolist()


def test_channels_that_no_pipeline_fills(numpy_database: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """A network of six channels and three loads and runs; a picture is refused before anything is computed, in the same words."""
    unet = random_unet(rng, in_channels=6)
    unet.save_pretrained(tmp_path / "checkpoint")
    command.succeed(numpy_database, "load", tmp_path / "checkpoint", "--replace")
    sample = torch.randn(6, 8, 8)
    with torch.no_grad():
        expected = unet(sample[None], 10).sample[0]
    said = set()
    for backend, schema in (("sql", "sql_diffusion"), ("numpy", "sql_diffusion_numpy")):
        with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
            row = own.execute(
                f"select {schema}.unet(%s::real[], 10, 'checkpoint')".encode(), [sample.tolist()]
            ).fetchone()
            assert row is not None
            assert relative_error(row[0], expected) < 1e-4
            with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
                own.execute("select ddpm_generate(1, 'checkpoint', 2, backend => %s)", [backend])
            message = str(refused.value.diag.message_primary).removeprefix("sql_diffusion: ")
            said.add((message, refused.value.diag.message_hint))
    assert len(said) == 1
    message, hint = said.pop()
    assert "takes 6 channels and gives 3" in message and "sql_diffusion.unet" in str(hint)


@pytest.mark.parametrize(
    "name",
    ["ScoreSdeVePipeline", "KarrasVePipeline", "RePaintPipeline", "ConsistencyModelPipeline"],
)  # fmt: skip
def test_pipelines_that_are_not_run_say_why(
    numpy_database: str, rng: np.random.Generator, tmp_path: Path, name: str
) -> None:
    """By name, with the way out: the network, which loads."""
    pipeline("DDPMPipeline", "DDPMScheduler")(random_unet(rng)).save_pretrained(tmp_path / "checkpoint")
    index = tmp_path / "checkpoint/model_index.json"
    index.write_text(index.read_text().replace("DDPMPipeline", name))
    said = command.fail(numpy_database, 4, "load", tmp_path / "checkpoint")
    assert f"is a {name}; " in said and "Its U-Net alone may load" in said
    command.succeed(numpy_database, "load", tmp_path / "checkpoint/unet", "--name", name)


def test_a_network_that_is_told_the_noise(numpy_database: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """It takes the logarithm of its timestep: of 0 diffusers makes a black picture, and nothing is drawn here."""
    random_unet(rng, time_embedding_type="fourier").save_pretrained(tmp_path / "checkpoint")
    command.succeed(numpy_database, "load", tmp_path / "checkpoint", "--replace")
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        for backend in ("sql", "numpy"):
            with pytest.raises(
                psycopg.errors.InvalidParameterValue, match="unet: time_proj takes the logarithm"
            ) as refused:
                own.execute("select ddpm_generate(1, 'checkpoint', 1, backend => %s)", [backend])
            assert "timesteps => '{900,600,300}'" in str(refused.value.diag.message_hint)
            own.execute("select ddpm_generate(1, 'checkpoint', timesteps => '{900}', backend => %s)", [backend])


def test_schedulers_that_are_not_there_are_named(numpy_database: str) -> None:
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        for name in ("ScoreSdeVeScheduler", "KarrasVeScheduler", "CMStochasticIterativeScheduler", "RePaintScheduler"):
            with pytest.raises(psycopg.errors.FeatureNotSupported, match=name):
                own.execute("select sql_diffusion.check_scheduler(%s)", [Jsonb({"_class_name": name})])
