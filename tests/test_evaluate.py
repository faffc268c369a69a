"""The distances of scripts/evaluate_butterflies.py, against scipy and against what they must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer

pytest.importorskip("torch")
pytest.importorskip("diffusers")
linalg = pytest.importorskip("scipy.linalg")

from draw_butterflies import draw_butterfly, grid_picture  # noqa: E402
from evaluate_butterflies import (  # noqa: E402
    cut_grid,
    embed,
    fit_space,
    frame_darkness,
    frechet_distance,
    kernel_distance,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_frechet_distance_is_what_scipy_gives(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(200, 8)), rng.normal(0.3, 2, size=(150, 8)) @ rng.normal(size=(8, 8))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_is_its_definition(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))

    def mean(x: list[np.ndarray], y: list[np.ndarray], same: bool) -> float:
        pairs = [(u @ v / 3 + 1) ** 3 for i, u in enumerate(x) for j, v in enumerate(y) if not (same and i == j)]
        return float(np.mean(pairs))

    expected = mean([*a], [*a], True) + mean([*b], [*b], True) - 2 * mean([*a], [*b], False)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_worse_pictures_are_further_away(rng: np.random.Generator) -> None:
    first = int(rng.integers(2**31))
    drawn = np.stack([draw_butterfly(first + i) for i in range(160)])
    real, held_out = drawn[:80], drawn[80:]
    noisy = np.clip(held_out + rng.normal(0, 40, held_out.shape), 0, 255).astype(np.uint8)
    space = fit_space(real)
    real_features, held_out_features, noisy_features = (embed(space, each) for each in (real, held_out, noisy))
    assert kernel_distance(real_features, held_out_features) < kernel_distance(real_features, noisy_features)
    assert frechet_distance(real_features, held_out_features) < frechet_distance(real_features, noisy_features)
    assert frame_darkness(held_out) == 0 < frame_darkness(noisy)


def test_a_grid_is_cut_into_the_pictures_it_was_made_of(rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    grid_picture(pictures, 3).save(tmp_path / "grid.png")
    assert np.array_equal(cut_grid(tmp_path / "grid.png", 8), pictures)
    with pytest.raises(typer.BadParameter, match="24x16 pixels, expected multiples"):
        cut_grid(tmp_path / "grid.png", 7)
