"""One update of a sampler. The schedule itself, rows of coefficients, is SQL's: sql/schedule.sql tells what they mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

F = np.float32


class ScheduleStep(NamedTuple):
    """The columns of sql_diffusion.schedule_step, where each is explained."""

    step: int
    timestep: float
    previous_timestep: float
    input_scale: float
    original_from_sample: float
    original_from_output: float
    clip_range: float | None
    threshold_ratio: float | None
    threshold_max: float | None
    original_coefficient: float
    sample_coefficient: float
    output_coefficient: float
    noise_coefficient: float
    draws_noise: bool
    memory_coefficients: list[float]
    memory_update: list[list[float]]
    initial_noise: float
    added_original: float
    added_noise: float
    least_log_noise: float | None
    greatest_log_noise: float | None


def scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """A tensor times a number."""
    return array if factor == 1 else (factor * array.astype(np.float64)).astype(F)


def scheduler_step(
    model_output: np.ndarray,
    sample: np.ndarray,
    noise: np.ndarray | None,
    step: ScheduleStep,
    memory: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One update: -> prev_sample and pred_original_sample, (batch, ...) as the sample is, and what to remember.

    model_output may have twice the channels: the output, and behind it how much noise each value is to get, from -1 to 1.
    noise is there where the step draws it. memory is (tensors, batch, ...), what the step before gave to remember, None at first.
    """
    pictures = [slice(number, number + 1) for number in range(len(sample))]  # one at a time, which the cache holds
    updates = [
        _update(
            model_output[one],
            sample[one],
            None if noise is None else noise[one],
            step,
            None if memory is None else memory[:, one],
        )
        for one in pictures
    ]
    previous, original, kept = zip(*updates, strict=True)
    return np.concatenate(previous), np.concatenate(original), np.concatenate(kept, 1) if step.memory_update else None


def _update(
    model_output: np.ndarray,
    sample: np.ndarray,
    noise: np.ndarray | None,
    step: ScheduleStep,
    memory: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    model_output, variance = model_output[:, : sample.shape[1]], model_output[:, sample.shape[1] :]
    x, output = sample.astype(np.float64), model_output.astype(np.float64)
    original = step.original_from_sample * x + step.original_from_output * model_output
    if step.threshold_ratio is not None:
        original = _threshold(original, step.threshold_ratio, step.threshold_max or 1)
    elif step.clip_range is not None:
        np.clip(original, -step.clip_range, step.clip_range, out=original)
    remembered = np.empty((0,)) if memory is None else memory.astype(np.float64)
    previous = step.original_coefficient * original + step.sample_coefficient * x
    previous += step.output_coefficient * output
    if step.draws_noise and noise is not None:
        previous += _noise_coefficient(step, variance) * noise.astype(np.float64)
    for coefficient, tensor in zip(step.memory_coefficients, remembered, strict=False):
        if coefficient:
            previous += coefficient * tensor
    kept = [
        sum(coefficient * tensor for coefficient, tensor in zip(row, (original, x, output, *remembered), strict=False))
        for row in step.memory_update
    ]
    return previous.astype(F), original.astype(F), np.array(kept, F)


def _noise_coefficient(step: ScheduleStep, variance: np.ndarray) -> np.ndarray | float:
    """How much noise is added, of each value where the network says it: Nichol and Dhariwal (arXiv:2102.09672), equation 15."""
    if step.least_log_noise is None or step.greatest_log_noise is None:
        return step.noise_coefficient
    share = variance.astype(np.float64)
    return np.exp(np.clip((step.least_log_noise * (1 - share) + step.greatest_log_noise * (1 + share)) / 2, -700, 700))


def _threshold(original: np.ndarray, ratio: float, most: float) -> np.ndarray:
    """Dynamic thresholding of each picture (batch, ...): Imagen (arXiv:2205.11487), section 2.3."""
    pictures = np.abs(original).reshape(len(original), -1)
    bound = np.minimum(np.maximum(np.quantile(pictures, ratio, axis=1), 1), most)
    bound = bound.reshape(-1, *[1] * (original.ndim - 1))
    return np.clip(original, -bound, bound) / bound


def add_noise(original: np.ndarray, noise: np.ndarray, step: ScheduleStep) -> np.ndarray:
    """A picture with as much noise as sampling that begins at this step expects."""
    noised: np.ndarray = step.added_original * original.astype(np.float64) + step.added_noise * noise.astype(np.float64)
    return noised.astype(F)
