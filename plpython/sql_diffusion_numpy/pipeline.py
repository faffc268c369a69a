"""The pipelines: noise, then the network and one update of the sampler for each step of the schedule."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from . import random
from .layers.modules import Network
from .network import run
from .schedulers import ScheduleStep, add_noise, scaled, scheduler_step
from .threads import get_count, parallel, share


def denormalize(sample: np.ndarray) -> np.ndarray:
    """A picture (values 0 to 1) of a finished sample (values -1 to 1)."""
    return np.clip(sample / np.float32(2) + np.float32(0.5), np.float32(0), np.float32(1))


# Red, green and blue of the four channels of Stable Diffusion's latents, a linear fit.
_COLORS = np.array(
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]]
)


def latent_preview(latent: np.ndarray) -> np.ndarray:
    """(channels, height, width) -> (3, height, width), values 0 to 1: a cheap look at a latent."""
    channels = latent.astype(np.float64)
    if len(latent) == 4:
        image = np.tensordot(_COLORS.T, channels, 1) / 2 + 0.5
    else:
        image = channels[[min(color, len(latent) - 1) for color in range(3)]]
        low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
        image = np.divide(image - low, high - low, out=np.full_like(image, 0.5), where=high > low)
    clipped: np.ndarray = np.clip(image, 0, 1).astype(np.float32)
    return clipped


def sample_latent(moments: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A latent from a distribution, the means and after them the logarithms of the variances, with normal noise."""
    mean, variance = np.split(moments.astype(np.float64), 2, axis=-3)
    return (mean + np.exp(np.clip(variance, -30, 20) / 2) * noise).astype(np.float32)


def binary_mask(mask: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(channels, height, width), and its grey levels -> (1, height, width): 1 where it is white, 0 elsewhere.

    The grey of colours is Pillow's, in 65536ths of levels; alpha counts for nothing.
    """
    if len(mask) > 2:
        white = np.tensordot(np.array([19595, 38470, 7471]), levels[:3].astype(np.int64), 1)[None] >= 8355840
    else:
        white = mask[:1] >= 0.5
    return white.astype(np.float32)


class Condition(NamedTuple):
    """What a U-Net is given beside samples and timestep, the same in every step: inputs by name, each (batch, ...)."""

    inputs: Mapping[str, np.ndarray]
    uncondition: Mapping[str, np.ndarray] | None = None  # what to guide away from
    guidance_scale: float = 1.0
    guidance_rescale: float = 0.0


NOTHING = Condition({})


def guidance(output: np.ndarray, scale: float, rescale: float) -> np.ndarray:
    """Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598, equation 6) of a batch (2 * batch, ...) whose
    first half is without the condition; rescale is the share brought back to its spread (arXiv:2305.08891, section 3.4).
    """
    unconditional, conditional = np.split(output, 2)
    guided: np.ndarray = unconditional + np.float32(scale) * (conditional - unconditional)
    if rescale > 0:
        axes = tuple(range(1, guided.ndim))
        wanted, spread = (np.std(x, axis=axes, ddof=1, keepdims=True, dtype=np.float64) for x in (conditional, guided))
        factor = np.divide(wanted, spread, out=np.ones_like(spread), where=spread > 0).astype(np.float32)
        guided = np.float32(rescale) * (guided * factor) + np.float32(1 - rescale) * guided
    return guided


def predict(
    network: Network, sample: np.ndarray, timestep: float, condition: Condition, between: Callable[[], None]
) -> np.ndarray:
    """What a U-Net says of samples (batch, channels, height, width); guidance is one pass of twice the batch."""
    inputs = {"sample": sample, "timestep": np.array([timestep], np.float32), **condition.inputs}
    if condition.uncondition is None:
        return run(network, inputs, between)["sample"]
    inputs["sample"] = np.concatenate([sample, sample])
    for name, value in condition.inputs.items():
        inputs[name] = np.concatenate([condition.uncondition[name], value])
    output = run(network, inputs, between)["sample"]
    return guidance(output, condition.guidance_scale, condition.guidance_rescale)


class Streams:
    """The noise of several pictures, each from its own stream, in the order of diffusers."""

    def __init__(self, seeds: list[int]) -> None:
        self.generators = [random.manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int]) -> np.ndarray:
        """(batch, *shape)"""
        noise = np.empty((len(self.generators), *shape), np.float32)
        parts = share(len(noise), get_count())

        def work(part: int) -> None:
            for number in range(*parts[part]):
                noise[number], self.generators[number] = random.randn(self.generators[number], list(shape))

        parallel(work, len(parts))
        return noise


class Beginning(NamedTuple):
    """How the steps of a schedule begin; of what comes after streams, None for what there is not."""

    sample: np.ndarray  # (batch, channels, height, width), the first one
    streams: Streams
    shown: np.ndarray | None = None  # (batch, channels, height, width), what the U-Net sees beside the sample
    scales_shown: bool = False  # by input_scale, as the sample
    original: np.ndarray | None = None  # (batch, channels, height, width), put back, with noise, where the mask is 0
    noise: np.ndarray | None = None
    mask: np.ndarray | None = None  # (1, height, width)


def begin_with_noise(seeds: list[int], shape: Sequence[int], step: ScheduleStep) -> Beginning:
    streams = Streams(seeds)
    return Beginning(scaled(streams.draw(shape), step.initial_noise), streams)


def sample_steps(
    network: Network,
    schedule: list[ScheduleStep],
    beginning: Beginning,
    between: Callable[[ScheduleStep], None],
    condition: Condition = NOTHING,
) -> Iterator[tuple[ScheduleStep, np.ndarray, np.ndarray]]:
    """Sampling, a step at a time: -> step, samples and guesses of the finished ones.

    Both are (batch, channels, height, width). between is called after each layer.
    """
    sample, memory = beginning.sample, None
    for step, following in itertools.zip_longest(schedule, schedule[1:]):
        shown = scaled(sample, step.input_scale)
        if beginning.shown is not None:
            beside = scaled(beginning.shown, step.input_scale) if beginning.scales_shown else beginning.shown
            shown = np.concatenate([shown, beside], axis=1)
        model_output = predict(network, shown, step.timestep, condition, functools.partial(between, step))
        noise = beginning.streams.draw(sample.shape[1:]) if step.draws_noise else None
        sample, original, memory = scheduler_step(model_output, sample, noise, step, memory)
        if beginning.mask is not None and beginning.original is not None and beginning.noise is not None:
            kept = beginning.original
            if following is not None:
                kept = add_noise(kept, beginning.noise, following)
            sample = (1 - beginning.mask) * kept + beginning.mask * sample
        yield step, sample, original
