"""DDPM and DDIM against diffusers: schedules, timesteps and updates."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from psycopg import Connection

from reference import insert_model, random_unet, relative_error

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["leading", "trailing", "linspace"]


def as_json(config: dict[str, Any]) -> str:
    return json.dumps({"_class_name": "DDPMScheduler", **config})


@pytest.mark.parametrize("kind", SCHEDULES)
def test_noise_schedule(connection: Connection, rng: np.random.Generator, kind: str) -> None:
    for steps in (1000, int(rng.integers(2, 400)), 1):
        config = {
            "beta_schedule": kind,
            "num_train_timesteps": steps,
            "beta_start": float(rng.uniform(1e-5, 1e-3)),
            "beta_end": float(rng.uniform(1e-2, 5e-2)),
        }
        theirs = DDPMScheduler(**config)
        rows = connection.execute(
            "select beta, alpha_cumprod from sql_diffusion.noise_schedule(%s) order by timestep", [as_json(config)]
        ).fetchall()
        assert relative_error([row[0] for row in rows], theirs.betas) < 1e-6
        np.testing.assert_allclose([row[1] for row in rows], theirs.alphas_cumprod.numpy(), rtol=2e-6)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps(connection: Connection, rng: np.random.Generator, spacing: str) -> None:
    for _ in range(15):
        train_steps = int(rng.integers(10, 1500))
        steps = int(rng.integers(1, train_steps + 1))
        config = {"num_train_timesteps": train_steps, "timestep_spacing": spacing}
        for scheduler, name in ((DDPMScheduler(**config), "ddpm"), (DDIMScheduler(**config), "ddim")):
            scheduler.set_timesteps(steps)
            theirs = scheduler.timesteps.tolist()
            if len(theirs) != steps or min(theirs) < 0:
                continue  # numpy.arange rounded itself one element too far, which diffusers does not notice
            ours = connection.execute(
                "select array_agg(timestep order by step) from sql_diffusion.scheduler_timesteps(%s, %s, %s)",
                [as_json(config), name, steps],
            ).fetchone()[0]
            assert ours == theirs, f"{train_steps} training steps, {steps} steps"


def run_update(
    connection: Connection,
    config: dict[str, Any],
    sampler: str,
    steps: list[int] | int,
    eta: float,
    rng: np.random.Generator,
) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray, list[Any], list[Any]]]:
    """Every update of a schedule on fresh inputs: timestep, the three inputs, and our two outputs."""
    row = {"steps": None, "timesteps": steps} if isinstance(steps, list) else {"steps": steps, "timesteps": None}
    schedule = connection.execute(
        "select step, timestep from sql_diffusion.scheduler_timesteps(%(config)s, %(sampler)s, %(steps)s, %(timesteps)s, %(eta)s::real) order by step",
        {"config": as_json(config), "sampler": sampler, "eta": eta, **row},
    ).fetchall()
    results = []
    for step, timestep in schedule:
        # with a variance that is learned, the network gives it behind the output
        channels = [4 if config.get("variance_type") == "learned_range" else 2, 2, 2]
        output, sample, noise = (rng.standard_normal((count, 3, 5)).astype(np.float32) for count in channels)
        previous, original = connection.execute(
            """select u.prev_sample, u.pred_original_sample
               from sql_diffusion.scheduler_timesteps(%(config)s, %(sampler)s, %(steps)s, %(timesteps)s, %(eta)s::real) s,
                    sql_diffusion.scheduler_step(%(output)s::real[], %(sample)s::real[], %(noise)s::real[], s) u
               where s.step = %(step)s""",
            {
                "config": as_json(config),
                "sampler": sampler,
                "eta": eta,
                "step": step,
                "output": output.tolist(),
                "sample": sample.tolist(),
                "noise": noise.tolist(),
                **row,
            },
        ).fetchone()
        assert timestep == int(timestep)  # diffusers' tables have a place for each
        results.append((int(timestep), output, sample, noise, previous, original))
    return results


class GivenNoise:
    """Stands where diffusers draws its noise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.noise = torch.empty(0)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *args, **kwargs: self.noise)


@pytest.mark.parametrize(
    ("variance_type", "prediction_type"),
    list(itertools.product(["fixed_small", "fixed_small_log", "fixed_large", "learned_range"], PREDICTIONS)),
)
def test_ddpm_updates(
    connection: Connection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    variance_type: str,
    prediction_type: str,
) -> None:
    given = GivenNoise(monkeypatch)
    for schedule, clip, steps in (
        ("linear", True, 5),
        ("scaled_linear", False, [500, 250, 125, 60]),
        ("squaredcos_cap_v2", True, 4),
        ("sigmoid", False, [999, 1, 0]),
    ):
        config = {
            "variance_type": variance_type,
            "prediction_type": prediction_type,
            "beta_schedule": schedule,
            "clip_sample": clip,
            "clip_sample_range": float(rng.uniform(0.5, 2)),
            "steps_offset": int(rng.integers(3)),
        }
        scheduler = DDPMScheduler(**config)
        if isinstance(steps, list):
            scheduler.set_timesteps(timesteps=steps)
        else:
            scheduler.set_timesteps(steps)
        for timestep, output, sample, noise, previous, original in run_update(
            connection, config, "ddpm", steps, 0, rng
        ):
            given.noise = torch.from_numpy(noise)
            theirs = scheduler.step(torch.from_numpy(output)[None], timestep, torch.from_numpy(sample)[None])
            assert relative_error(previous, theirs.prev_sample[0]) < 1e-5, (config, timestep)
            assert relative_error(original, theirs.pred_original_sample[0]) < 1e-5, (config, timestep)


def test_fixed_large_log_is_fixed_large(connection: Connection) -> None:
    """diffusers takes the square root of this variance's logarithm, which is no number; Ho et al. mean its exponential."""
    scheduler = DDPMScheduler(variance_type="fixed_large_log")
    scheduler.set_timesteps(10)
    assert torch.isnan(scheduler._get_variance(500) ** 0.5)
    large, large_log = (
        connection.execute(
            "select array_agg(noise_coefficient order by step) from sql_diffusion.scheduler_timesteps(%s, 'ddpm', 10)",
            [as_json({"variance_type": variance_type})],
        ).fetchone()
        for variance_type in ("fixed_large", "fixed_large_log")
    )
    assert large == large_log


@pytest.mark.parametrize(
    ("prediction_type", "eta", "set_alpha_to_one"), list(itertools.product(PREDICTIONS, [0, 0.3, 1], [True, False]))
)
def test_ddim_updates(
    connection: Connection, rng: np.random.Generator, prediction_type: str, eta: float, set_alpha_to_one: bool
) -> None:
    for schedule, clip, spacing, steps in (
        ("linear", True, "leading", 7),
        ("scaled_linear", False, "trailing", 3),
        ("squaredcos_cap_v2", True, "linspace", 4),
    ):
        config = {
            "prediction_type": prediction_type,
            "set_alpha_to_one": set_alpha_to_one,
            "beta_schedule": schedule,
            "timestep_spacing": spacing,
            "clip_sample": clip,
            "clip_sample_range": float(rng.uniform(0.5, 2)),
            "steps_offset": int(rng.integers(2)) if spacing == "leading" else 0,
        }
        scheduler = DDIMScheduler(**config)
        scheduler.set_timesteps(steps)
        for timestep, output, sample, noise, previous, original in run_update(
            connection, config, "ddim", steps, eta, rng
        ):
            theirs = scheduler.step(
                torch.from_numpy(output),
                timestep,
                torch.from_numpy(sample),
                eta=eta,
                variance_noise=torch.from_numpy(noise) if eta > 0 else None,
            )
            assert relative_error(previous, theirs.prev_sample) < 1e-5, (config, timestep)
            assert relative_error(original, theirs.pred_original_sample) < 1e-5, (config, timestep)


def test_forward_process(connection: Connection, rng: np.random.Generator) -> None:
    config = {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    insert_model(connection, "random", random_unet(rng), config)
    scheduler = DDPMScheduler.from_config(config)
    original, noise = (rng.standard_normal((3, 4, 6)).astype(np.float32) for _ in range(2))
    for timestep in (0, int(rng.integers(1, 999)), 999):
        ours, guess = connection.execute(
            """select sql_diffusion.add_noise(%(original)s::real[], %(noise)s::real[], %(timestep)s, 'random'),
                      sql_diffusion.predict_original_sample(%(noise)s::real[], %(original)s::real[], %(timestep)s, 'random')""",
            {"original": original.tolist(), "noise": noise.tolist(), "timestep": timestep},
        ).fetchone()
        x, e = torch.from_numpy(original), torch.from_numpy(noise)
        assert relative_error(ours, scheduler.add_noise(x, e, torch.tensor(timestep))) < 1e-6
        assert relative_error(guess, scheduler.step(e, timestep, x).pred_original_sample) < 1e-5


REFUSED: dict[str, tuple[str, str]] = {
    "no steps": ("'{}', 'ddpm', 0", "num_inference_steps is 0, expected from 1 to 1000"),
    "negative steps": ("'{}', 'ddpm', -3", "num_inference_steps is -3"),
    "too many steps": ("'{}', 'ddpm', 1001", "num_inference_steps is 1001, expected from 1 to 1000"),
    "both": ("'{}', 'ddpm', 10, '{1}'", "both given"),
    "neither": ("'{}', 'ddpm'", "both null"),
    "ascending": ("'{}', 'ddpm', null, '{1,2}'", "timesteps is {1,2}, expected descending"),
    "repeated": ("'{}', 'ddpm', null, '{5,5}'", "expected descending"),
    "empty": ("'{}', 'ddpm', null, '{}'", "timesteps has 0 dimensions"),
    "matrix": ("'{}', 'ddpm', null, '{{5},{4}}'", "timesteps has 2 dimensions"),
    "null among them": ("'{}', 'ddpm', null, '{5,null}'", "timesteps has a null element"),
    "beyond training": ("'{}', 'ddpm', null, '{1000,5}'", "timesteps has 1000, expected from 0 to 999"),
    "below zero": ("'{}', 'ddpm', null, '{5,-1}'", "timesteps has -1"),
    "unknown scheduler": (
        "'{}', 'nosuch', 5",
        "scheduler is 'nosuch', expected ddim, ddpm, dpmsolver, dpmsolver++, euler",
    ),
    "unknown setting": (
        """'{}', '{"_class_name": "LMSDiscreteScheduler", "eta": 1}', 5""",
        "LMSDiscreteScheduler has no setting eta",
    ),
    "eta that is not used": ("'{}', 'euler', 5, eta => 0.5", "eta is 0.5, but the scheduler euler does not use it"),
    "timesteps twice": (
        """'{}', '{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}', timesteps => '{5}'""",
        "because use_karras_sigmas",
    ),
    "timesteps of pndm": ("'{}', 'pndm', timesteps => '{5,3}'", "timesteps are given, expected num_inference_steps"),
    "few steps of pndm": ("'{}', 'pndm', 3", "num_inference_steps is 3, expected at least 4"),
    "many steps of lcm": ("'{}', 'lcm', 51", "num_inference_steps is 51, expected at most 50"),
    "no strength": ("'{}', 'ddim', 5, strength => 0.1", "strength is 0.1, expected from 0.200 to 1"),
    "eta": ("'{}', 'ddim', 5, null, 1.5", "eta is 1.5, expected from 0 to 1"),
    "eta not a number": ("'{}', 'ddim', 5, null, 'NaN'", "eta is NaN"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_steps_are_refused(connection: Connection, arguments: str, message: str) -> None:
    arguments = arguments.replace("'{}'", """'{"_class_name": "DDPMScheduler"}'""", 1)
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        connection.execute(f"select * from sql_diffusion.scheduler_timesteps({arguments})")
    assert message in str(error.value)


UNSUPPORTED: dict[str, Any] = {
    "_class_name": "DEISMultistepScheduler",
    "beta_schedule": "laplace",
    "trained_betas": [0.1],
    "variance_type": "learned",
    "prediction_type": "flow",
    "thresholding": "yes",
    "timestep_spacing": "karras",
    "rescale_betas_zero_snr": 1,
    "num_train_timesteps": 0,
    "beta_end": 1.5,
    "clip_sample_range": "1",
}


@pytest.mark.parametrize(("setting", "value"), UNSUPPORTED.items())
def test_unsupported_settings_are_refused_by_name(connection: Connection, setting: str, value: Any) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=setting):
        connection.execute(
            "insert into sql_diffusion.models (name, pipeline, scheduler) values ('refused', 'DDPMPipeline', %s)",
            [as_json({setting: value})],
        )


def test_another_pipeline_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="KandinskyPipeline"):
        connection.execute(
            "insert into sql_diffusion.models (name, pipeline, scheduler) values ('refused', 'KandinskyPipeline', %s)",
            [as_json({})],
        )
