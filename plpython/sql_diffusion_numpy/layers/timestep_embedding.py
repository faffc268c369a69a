"""The position of a timestep as sines and cosines (Vaswani et al. 2017, section 3.5; Ho et al. 2020)."""

from __future__ import annotations

import math

import numpy as np


def timestep_embedding(
    timestep: float,
    embedding_dim: int,
    flip_sin_to_cos: bool = False,
    downscale_freq_shift: float = 1.0,
    max_period: float = 10000.0,
) -> np.ndarray:
    """-> (embedding_dim), float32; frequencies fall from 1 to about 1 / max_period. An odd dimension ends in a zero."""
    half = embedding_dim // 2
    # In float32 where PyTorch is: at an angle of 1000 its rounding is 6e-5, and the checkpoint was trained with it.
    exponent = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    exponent /= np.float32(half - downscale_freq_shift)
    frequency = np.exp(np.clip(exponent, -80, 80).astype(np.float64)).astype(np.float32)
    angle = (np.float32(timestep) * frequency).astype(np.float64)
    waves = [np.cos(angle), np.sin(angle)] if flip_sin_to_cos else [np.sin(angle), np.cos(angle)]
    return np.concatenate([*waves, np.zeros(embedding_dim % 2)]).astype(np.float32)
