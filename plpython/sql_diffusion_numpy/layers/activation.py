"""Activations: what layers hand to each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .group_norm import Statistics, channel_statistics, merge_statistics


class Piece(NamedTuple):
    """Some channels of an activation. An activation is a list of pieces: to concatenate is to append."""

    values: np.ndarray  # (batch, height, width, channels)
    statistics: Statistics | None


Activation = list[Piece]


def extent(activation: Activation) -> tuple[int, int, int, int]:
    batch, height, width, _ = activation[0].values.shape
    return batch, height, width, sum(piece.values.shape[3] for piece in activation)


def statistics_of(activation: Activation) -> Statistics:
    """Of all pieces side by side; taken now where a piece has none."""
    means, deviations = [], []
    for values, statistics in activation:
        if statistics is None:
            channels = values.shape[3]
            statistics = merge_statistics([channel_statistics(picture.reshape(1, -1, channels)) for picture in values])
        means.append(statistics.mean)
        deviations.append(statistics.deviation)
    if len(activation) == 1:
        return Statistics(means[0], deviations[0])
    return Statistics(np.concatenate(means, axis=1), np.concatenate(deviations, axis=1))


def joined(activation: Activation) -> np.ndarray:
    """The pieces of an activation in one array, (batch, height, width, channels)."""
    if len(activation) == 1:
        return activation[0].values
    return np.concatenate([piece.values for piece in activation], axis=3)
