"""The pipelines: noise, then the network and one update of the sampler for each step of the schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from . import random
from .layers.modules import Network
from .network import run
from .schedulers import ScheduleStep, scaled, scheduler_step


def denormalize(sample: np.ndarray) -> np.ndarray:
    """A picture (values 0 to 1) of a finished sample (values -1 to 1)."""
    return np.clip(sample / np.float32(2) + np.float32(0.5), np.float32(0), np.float32(1))


def sample_latent(moments: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A latent from a distribution, the means and after them the logarithms of the variances, with normal noise."""
    mean, variance = np.split(moments.astype(np.float64), 2, axis=-3)
    return (mean + np.exp(np.clip(variance, -30, 20) / 2) * noise).astype(np.float32)


def sample_steps(
    network: Network,
    schedule: list[ScheduleStep],
    seeds: list[int],
    shape: list[int],
    between: Callable[[ScheduleStep], None],
) -> Iterator[tuple[ScheduleStep, np.ndarray, np.ndarray]]:
    """Sampling, a step at a time, of one picture a seed: -> step, samples and guesses of the finished ones.

    Both are (batch, channels, height, width). Each seed's noise comes from its own stream, in the order of diffusers.
    between is called after each layer.
    """
    generators = [random.manual_seed(seed) for seed in seeds]

    def draw() -> np.ndarray:
        noise = np.empty((len(seeds), *shape), np.float32)
        for number, generator in enumerate(generators):
            noise[number], generators[number] = random.randn(generator, shape)
        return noise

    sample, memory = scaled(draw(), schedule[0].initial_noise), None
    for step in schedule:
        inputs = {"sample": scaled(sample, step.input_scale), "timestep": np.array([step.timestep], np.float32)}
        model_output = run(network, inputs, functools.partial(between, step))["sample"]
        noise = draw() if step.draws_noise else None
        sample, original, memory = scheduler_step(model_output, sample, noise, step, memory)
        yield step, sample, original
