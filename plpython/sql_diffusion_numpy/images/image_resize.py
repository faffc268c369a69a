"""A picture in another size, as Pillow's Image.resize makes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SUPPORT = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


def resizes_columns_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow (13) resizes a picture along its columns first, and along its rows then."""
    return height > new_height and height - new_height > 2 * (width - new_width)


def image_resize(
    image: np.ndarray, height: int, width: int, method: str, cancel_point: Callable[[], None]
) -> np.ndarray:
    """An image (channels, height, width) in another height and width."""
    values = np.clip(image, 0, 1).astype(np.float64)
    if method == "nearest":
        return values[:, _nearest(values.shape[1], height)][:, :, _nearest(values.shape[2], width)].astype(np.float32)
    covers = len(values) in (2, 4)  # colours count as much as they cover
    if covers:
        values[:-1] *= values[-1]
    columns_first = resizes_columns_first(values.shape[1], values.shape[2], height, width)
    for axis in (1, 2) if columns_first else (2, 1):
        size = (0, height, width)[axis]
        if values.shape[axis] != size:
            lines = np.moveaxis(values, axis, -1)
            values = np.moveaxis(_resize_last(lines, size, method, cancel_point), -1, axis)
    if covers:
        seen = np.broadcast_to(values[-1] > 0, values[:-1].shape)
        colours = np.divide(values[:-1], values[-1], out=np.zeros_like(values[:-1]), where=seen)
        values[:-1] = np.minimum(1, colours)
    return values.astype(np.float32)


def _nearest(size: int, output: int) -> np.ndarray:
    """The pixels that hold the centres; these are added up as Pillow does, which decides where one lies between two."""
    steps = np.full(output, size / output)
    steps[0] *= 0.5
    return np.minimum(size - 1, np.cumsum(steps).astype(np.int64))


def _filter(x: np.ndarray, method: str) -> np.ndarray:
    """The weight of a pixel at distance x."""
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(0, 1 - x)
    if method == "bicubic":  # Keys (1981), a = -1/2
        near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))
    return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)


def _resize_last(values: np.ndarray, output: int, method: str, cancel_point: Callable[[], None]) -> np.ndarray:
    """The last dimension in another size. Where it gets smaller the filter gets as much wider: every pixel counts."""
    size = values.shape[-1]
    stretch = max(1.0, size / output)
    support = SUPPORT[method] * stretch
    centers = (np.arange(output) + 0.5) * size / output
    first = np.maximum(0, np.trunc(centers - support + 0.5)).astype(np.int64)
    last = np.minimum(size, np.trunc(centers + support + 0.5)).astype(np.int64)
    taps = int((last - first).max())
    resized = np.zeros((*values.shape[:-1], output))
    if taps > output:  # few pixels of many
        for place in range(output):
            cancel_point()
            source = np.arange(first[place], last[place])
            weights = _filter((source - centers[place] + 0.5) / stretch, method)
            resized[..., place] = values[..., source] @ (weights / weights.sum())
    else:
        total = np.zeros(output)
        for tap in range(taps):
            cancel_point()
            source = first + tap
            weights = np.where(source < last, _filter((source - centers + 0.5) / stretch, method), 0)
            total += weights
            resized += values[..., np.minimum(source, size - 1)] * weights
        resized /= total
    return np.clip(resized, 0, 1)
