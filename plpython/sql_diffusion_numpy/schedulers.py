"""Schedulers, apart from networks: the schedule as rows of coefficients, one update a step.

Ho et al. 2020 (arXiv:2006.11239) for DDPM, Song et al. 2020 (arXiv:2010.02502) for DDIM. Coefficients are computed in
single precision, operation by operation as torch does: near the end of a schedule 1 - alpha_cumprod keeps few digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .errors import fail

Config = dict[str, Any]
F = np.float32


class ScheduleStep(NamedTuple):
    """The columns of sql_diffusion.schedule_step, where each is explained."""

    step: int
    timestep: int
    previous_timestep: int
    original_from_sample: float
    original_from_output: float
    clip_range: float | None
    original_coefficient: float
    sample_coefficient: float
    output_coefficient: float
    noise_coefficient: float
    draws_noise: bool


def linspace(first: float, last: float, steps: int) -> np.ndarray:
    """torch.linspace in single precision: the upper half is counted from the end."""
    i = np.arange(steps)
    width = (F(last) - F(first)) / F(steps - 1) if steps > 1 else F(0)
    upward = F(first) + width * i.astype(F)
    downward = F(last) - width * (steps - 1 - i).astype(F)
    return np.where((i == 0) | (i < steps // 2), upward, downward)


def noise_schedule(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """beta and alpha_cumprod of each timestep (equations 2 and 4), of a configuration that is complete."""
    steps, kind = int(config["num_train_timesteps"]), config["beta_schedule"]
    start, end = config["beta_start"], config["beta_end"]
    if kind == "linear":
        betas = linspace(start, end, steps)
    elif kind == "scaled_linear":
        betas = linspace(start**0.5, end**0.5, steps) ** 2
    elif kind == "squaredcos_cap_v2":  # Nichol and Dhariwal 2021 (arXiv:2102.09672), equation 17
        t = np.arange(steps + 1) / steps
        bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(F)
    else:  # sigmoid; GeoDiff (arXiv:2203.02923)
        line = linspace(-6, 6, steps).astype(np.float64)
        betas = (1 / (1 + np.exp(-line))).astype(F) * F(end - start) + F(start)
    return betas, np.cumprod((F(1) - betas).astype(np.float64)).astype(F)


def inference_timesteps(config: Config, count: int) -> list[int]:
    """The timesteps that count steps of sampling visit, highest first, by the configuration's timestep_spacing."""
    train, spacing = int(config["num_train_timesteps"]), config["timestep_spacing"]
    i = np.arange(count)
    if spacing == "leading":
        times = (count - 1 - i) * (train // count) + int(config["steps_offset"])
    elif spacing == "linspace":
        times = np.round((count - 1 - i) * ((train - 1) / max(count - 1, 1)))
    else:  # trailing
        ratio = train / count
        times = np.round(train + i * (train - ratio - train)) - 1
    return [int(time) for time in times]


def scheduler_timesteps(
    config: Config, sampler: str, num_inference_steps: int | None, timesteps: list[int] | None, eta: float
) -> list[ScheduleStep]:
    """The schedule of ddpm or ddim, of a configuration that is complete and arguments that were checked."""
    train = int(config["num_train_timesteps"])
    alpha_cumprod = noise_schedule(config)[1]
    if timesteps is not None:
        times = list(timesteps)
    else:
        assert num_inference_steps is not None
        times = inference_timesteps(config, num_inference_steps)
    clip_range = float(F(config["clip_sample_range"])) if config["clip_sample"] else None
    prediction, variance_type, share = config["prediction_type"], config["variance_type"], F(eta)
    rows = []
    for number, time in enumerate(times):
        if time >= train:
            fail(f"scheduler: steps_offset leads to timestep {time}, expected at most {train - 1}", sqlstate="0A000")
        if sampler == "ddim" and timesteps is None:
            assert num_inference_steps is not None
            previous = time - train // num_inference_steps
        else:
            previous = times[number + 1] if number + 1 < len(times) else -1
        alpha_prod = alpha_cumprod[time]
        if previous >= 0:
            alpha_prod_prev = alpha_cumprod[previous]
        else:
            alpha_prod_prev = alpha_cumprod[0] if sampler == "ddim" and not config["set_alpha_to_one"] else F(1)
        beta_prod, beta_prod_prev = F(1) - alpha_prod, F(1) - alpha_prod_prev
        alpha = alpha_prod / alpha_prod_prev
        beta = F(1) - alpha
        root, root_beta, root_prev = np.sqrt(alpha_prod), np.sqrt(beta_prod), np.sqrt(alpha_prod_prev)
        variance = beta_prod_prev / beta_prod * beta  # of the posterior, Ho et al. equation 7
        sigma = share * np.sqrt(variance)
        length = np.sqrt(max(beta_prod_prev - sigma * sigma, F(0)))  # Song et al. equation 12
        # Ho et al. equation 15; Salimans and Ho 2022 (arXiv:2202.00512), appendix D, for v.
        from_sample, from_output = {
            "epsilon": (F(1) / root, -root_beta / root),
            "sample": (F(0), F(1)),
            "v_prediction": (root, -root_beta),
        }[prediction]
        if sampler == "ddpm":
            coefficients = (root_prev * beta / beta_prod, np.sqrt(alpha) * beta_prod_prev / beta_prod, F(0))
            if time == 0:
                noise = F(0)
            elif variance_type.startswith("fixed_small"):
                noise = np.sqrt(max(variance, F(1e-20)))
            else:
                noise = np.sqrt(beta)
            draws_noise = time > 0
        else:
            coefficients = {
                "epsilon": (root_prev, F(0), length),
                "sample": (root_prev, length / root_beta, -length * root / root_beta),
                "v_prediction": (root_prev, length * root_beta, length * root),
            }[prediction]
            noise, draws_noise = sigma, eta > 0
        original_coefficient, sample_coefficient, output_coefficient = (float(value) for value in coefficients)
        rows.append(
            ScheduleStep(
                number + 1, time, previous, float(from_sample), float(from_output), clip_range,
                original_coefficient, sample_coefficient, output_coefficient, float(noise), draws_noise,
            )
        )  # fmt: skip
    return rows


def scheduler_step(
    model_output: np.ndarray, sample: np.ndarray, noise: np.ndarray | None, step: ScheduleStep
) -> tuple[np.ndarray, np.ndarray]:
    """One update: -> prev_sample and pred_original_sample, of the sample's shape; noise where the step draws it."""
    original = step.original_from_sample * sample.astype(np.float64) + step.original_from_output * model_output
    if step.clip_range is not None:
        np.clip(original, -step.clip_range, step.clip_range, out=original)
    previous = step.original_coefficient * original + step.sample_coefficient * sample.astype(np.float64)
    previous += step.output_coefficient * model_output.astype(np.float64)
    if step.draws_noise and noise is not None:
        previous += step.noise_coefficient * noise.astype(np.float64)
    return previous.astype(F), original.astype(F)
