"""Rows of a table."""

from __future__ import annotations

import numpy as np


def embedding(input_ids: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(...), (number, features) -> (..., features)"""
    return weight[input_ids]
