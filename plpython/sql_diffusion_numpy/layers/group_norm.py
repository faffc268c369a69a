"""Group normalisation (Wu and He 2018, arXiv:1803.08494, equations 1 to 5).

An activation carries the mean and the sum of squared deviations of each of its channels, taken by the layer that made
it while the values were in the cache. A norm needs no pass of its own, then: the statistics of a group follow from
those of its channels, and what is left, one multiplication and one addition a value, is done by the layer that reads
it.
"""

from __future__ import annotations

import functools
import math
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


def repeated(vector: np.ndarray, times: int) -> np.ndarray:
    """(channels) as often as there are pixels in a row, float32."""
    row = workspace("vector", times, len(vector))
    row[...] = vector
    return row.reshape(-1)


def channel_statistics(values: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """(pixels, channels) -> pixels, mean and sum of squared deviations of each channel."""
    pixels, channels = values.shape
    times = pixels_a_row(values)
    long = values.reshape(-1, times * channels)
    ones = _ones(len(long))
    # What few channels have is summed in several sums, which are as much more accurate.
    mean = np.add.reduce(np.matmul(ones, long).reshape(times, channels), dtype=np.float64) / pixels
    centered = workspace("even", *long.shape)
    np.subtract(long, repeated(mean, times), out=centered)
    np.multiply(centered, centered, out=centered)
    return pixels, mean, np.add.reduce(np.matmul(ones, centered).reshape(times, channels), dtype=np.float64)


def merge_statistics(parts: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The statistics of pixels that were taken in parts (Chan, Golub and LeVeque 1979)."""
    if len(parts) == 1:
        return parts[0][1], parts[0][2]
    counts = np.array([part[0] for part in parts], np.float64)
    means = np.array([part[1] for part in parts])
    mean = counts @ means / np.add.reduce(counts)
    deviation = np.add.reduce([part[2] for part in parts]) + counts @ (means - mean) ** 2
    return mean, deviation


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
