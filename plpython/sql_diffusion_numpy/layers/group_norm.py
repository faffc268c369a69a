"""Group normalisation (Wu and He 2018, arXiv:1803.08494, equations 1 to 5).

An activation carries the mean and the sum of squared deviations of each of its channels, taken by the layer that made
it while the values were in the cache. A norm needs no pass of its own, then: the statistics of a group follow from
those of its channels, and what is left, one multiplication and one addition a value, is done by the layer that reads
it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..threads import workspace
from .silu import silu


class Statistics(NamedTuple):
    """Of each channel of each picture, over the pixels: (batch, channels), float64."""

    mean: np.ndarray
    deviation: np.ndarray  # sum of squared deviations from the mean


class Norm(NamedTuple):
    """What is left of a norm when the statistics are known: value * scale + shift, then perhaps SiLU."""

    scale: np.ndarray  # (batch, channels)
    shift: np.ndarray
    silu: bool


@functools.lru_cache(maxsize=64)
def _ones(count: int) -> np.ndarray:
    return np.ones((1, count), np.float32)


def pixels_a_row(values: np.ndarray) -> int:
    """How many pixels of (pixels, channels) make a row that is worth a loop of NumPy's, where a pixel has few channels."""
    pixels, channels = values.shape
    return math.gcd(pixels, 32) if channels < 128 and values.flags.c_contiguous else 1


def repeated(vectors: np.ndarray, times: int) -> np.ndarray:
    """(..., channels) as often as there are pixels in a row, (..., times * channels), float32."""
    row = workspace("vector", *vectors.shape[:-1], times, vectors.shape[-1])
    row[...] = vectors[..., None, :]
    return row.reshape(*vectors.shape[:-1], -1)


Taken = tuple[
    int, np.ndarray, np.ndarray
]  # of some pixels: how many, mean and sum of squared deviations of each channel


def channel_statistics(values: np.ndarray) -> list[Taken]:
    """(parts, pixels, channels) -> of each part."""
    parts, pixels, channels = values.shape
    times = pixels_a_row(values[0])
    long = values.reshape(parts, -1, times * channels)
    ones = _ones(long.shape[1])
    # What few channels have is summed in several sums, which are as much more accurate.
    sums = np.matmul(ones, long).reshape(parts, times, channels)
    mean = np.add.reduce(sums, axis=1, dtype=np.float64) / pixels
    centered = workspace("even", *long.shape)
    np.subtract(long, repeated(mean, times)[:, None], out=centered)
    np.multiply(centered, centered, out=centered)
    sums = np.matmul(ones, centered).reshape(parts, times, channels)
    deviation = np.add.reduce(sums, axis=1, dtype=np.float64)
    return [(pixels, *each) for each in zip(mean, deviation, strict=True)]


def merge_statistics(pictures: Sequence[Sequence[Taken]]) -> Statistics:
    """The statistics of pixels that were taken in parts, of each picture (Chan, Golub and LeVeque 1979)."""
    counts = [[part[0] for part in parts] for parts in pictures]
    if any(each != counts[0] for each in counts):
        alone = [merge_statistics([parts]) for parts in pictures]
        return Statistics(
            np.concatenate([each.mean for each in alone]), np.concatenate([each.deviation for each in alone])
        )
    shape = len(pictures), len(counts[0]), -1
    means, deviations = (
        np.array([part[kind] for parts in pictures for part in parts]).reshape(shape) for kind in (1, 2)
    )
    if len(counts[0]) == 1:
        return Statistics(means[:, 0], deviations[:, 0])
    weights = np.array(counts[0], np.float64)
    mean = weights @ means / np.add.reduce(weights)  # (pictures, channels)
    deviation = np.add.reduce(deviations, axis=1) + weights @ (means - mean[:, None]) ** 2
    return Statistics(mean, deviation)


def prepare_norm(
    statistics: Statistics, pixels: int, num_groups: int, eps: float, weight: np.ndarray, bias: np.ndarray, silu: bool
) -> Norm:
    """Scale and shift of each channel: group_norm(x) * weight + bias == x * scale + shift."""
    batch, channels = statistics.mean.shape
    size = channels // num_groups
    channel_mean = statistics.mean.reshape(batch, num_groups, size)
    mean = np.add.reduce(channel_mean, axis=2, keepdims=True) / size
    off = channel_mean - mean
    squares = statistics.deviation.reshape(batch, num_groups, size) + pixels * off * off
    variance = np.add.reduce(squares, axis=2, keepdims=True) / (pixels * size)  # of the population
    scale = weight.reshape(num_groups, size) / np.sqrt(variance + eps)
    shift = bias.reshape(num_groups, size) - mean * scale
    return Norm(scale.reshape(batch, channels), shift.reshape(batch, channels), silu)


def apply_norm(values: np.ndarray, norm: Norm) -> np.ndarray:
    """(batch, height, width, channels), normalised: what the layers otherwise do in passing."""
    scale, shift = (x.astype(np.float32)[:, None, None, :] for x in (norm.scale, norm.shift))
    affine = values * scale + shift
    return silu(affine) if norm.silu else affine


def group_norm(
    input: np.ndarray, num_groups: int, weight: np.ndarray | None, bias: np.ndarray | None, eps: float
) -> np.ndarray:
    """(channels, ...), by population variance, as torch.nn.functional.group_norm."""
    x = input.astype(np.float64).reshape(num_groups, -1)
    x -= x.mean(axis=1, keepdims=True)
    x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    x = x.reshape(len(input), -1)
    if weight is not None:
        x *= weight[:, None]
    if bias is not None:
        x += bias[:, None]
    return x.astype(np.float32).reshape(input.shape)
