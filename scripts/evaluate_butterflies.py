"""How close a model's butterflies are to drawn ones, in numbers.

    python scripts/evaluate_butterflies.py --schedule ddpm:20 --schedule ddpm:1000
    python scripts/evaluate_butterflies.py --grid doc/butterflies-default.png

Distances are taken in a feature space that needs no download: the answers of a small convolutional network with weights
that are random, orthogonal and fixed by a seed. Three layers of 3x3 convolutions with stride 2, each followed by the
absolute value, have 16, 16 and 8 channels. The means of the first two layers' channels over the picture, and those of
the third over each quarter of it, are 64 features, each scaled to mean 0 and variance 1 on the drawn training pictures.
Random features know nothing of butterflies, but they answer to colours, edges, texture, noise and place.

frechet     Frechet distance of two normal distributions (Heusel et al. 2017, arXiv:1706.08500, eq. 6), lower is better.
            It depends on the number of pictures: compare only rows of the same count.
kernel      squared maximum mean discrepancy with the kernel (x.y/d + 1)^3 (Binkowski et al. 2018, arXiv:1801.01401,
            eq. 4), unbiased: about 0, and now and then below, when both sides are alike.
asymmetry   mean difference of a picture from its mirror image, in grey levels of 255.
frame       mean darkness of the outermost pixels, in grey levels: 0 is a clean white background.

Row one is held-out drawings, so it is what a perfect model would get.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from draw_butterflies import draw_butterflies, grid_picture
from sample_butterflies import SCHEDULES, load_pipeline, parse_schedule, sample

HELD_OUT_SEED = 1_000_000  # training draws the seeds from 0

Floats = NDArray[np.float64]


class FeatureSpace(NamedTuple):
    mean: Floats  # (64,)
    deviation: Floats  # (64,)


def random_features(pictures: NDArray[np.uint8], seed: int = 0) -> Floats:
    """Random convolutional features (N, 64) of pictures (N, H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1  # (N, 3, H, W)
    means = []
    for channels_in, channels_out, places in ((3, 16, 1), (16, 16, 1), (16, 8, 2)):
        weight = torch.empty(channels_out, channels_in, 3, 3)
        torch.nn.init.orthogonal_(weight, gain=math.sqrt(2), generator=generator)
        x = torch.nn.functional.conv2d(x, weight, stride=2, padding=1).abs()
        means.append(torch.nn.functional.adaptive_avg_pool2d(x, places).flatten(1))
    features: Floats = torch.cat(means, dim=1).double().numpy()
    return features


def fit_space(pictures: NDArray[np.uint8]) -> FeatureSpace:
    features = random_features(pictures)
    return FeatureSpace(features.mean(axis=0), features.std(axis=0))


def embed(space: FeatureSpace, pictures: NDArray[np.uint8]) -> Floats:
    """Scaled features (N, 64)."""
    return (random_features(pictures) - space.mean) / space.deviation


def frechet_distance(a: Floats, b: Floats) -> float:
    """|mean difference|^2 + trace(A + B - 2 sqrt(A B)) of the two covariance matrices."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # A B is similar to a symmetric positive matrix: its eigenvalues are real, and their roots sum to the trace
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0, None))
    difference = a.mean(axis=0) - b.mean(axis=0)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def kernel_distance(a: Floats, b: Floats) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel."""

    def kernel(x: Floats, y: Floats) -> Floats:
        cubed: Floats = (x @ y.T / x.shape[1] + 1) ** 3
        return cubed

    def mean_of_pairs(x: Floats) -> float:
        table = kernel(x, x)
        return float((table.sum() - np.trace(table)) / (len(x) * (len(x) - 1)))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * float(kernel(a, b).mean())


def asymmetry(pictures: NDArray[np.uint8]) -> float:
    return float(np.abs(pictures.astype(np.float64) - pictures[:, :, ::-1]).mean())


def frame_darkness(pictures: NDArray[np.uint8]) -> float:
    darkness = 255.0 - pictures.mean(axis=3)  # (N, H, W)
    rows, columns = darkness[:, [0, -1], :], darkness[:, :, [0, -1]]
    return float(np.concatenate([rows.ravel(), columns.ravel()]).mean())


def cut_grid(path: Path, size: int) -> NDArray[np.uint8]:
    """The pictures (N, size, size, 3) of a grid, row by row: what `grid_picture` put together."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    height, width, _ = sheet.shape
    if height % size or width % size:
        raise typer.BadParameter(f"{path} has {width}x{height} pixels, expected multiples of the pictures' {size}")
    return sheet.reshape(height // size, size, width // size, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)


def main(
    model: Annotated[Path, typer.Argument(help="Diffusers pipeline folder.")] = Path("models/butterflies"),
    schedule: Annotated[list[str], typer.Option(help=f"{SCHEDULES}; may be given many times.")] = [],  # noqa: B006 typer copies it
    grid: Annotated[
        list[Path], typer.Option(help="Grid of pictures made before, without gaps; may be given many times.")
    ] = [],  # noqa: B006
    count: Annotated[int, typer.Option(help="Samples a schedule, and held-out drawings.", min=2)] = 64,
    grids: Annotated[Path | None, typer.Option(help="Folder for a grid of each schedule's pictures.")] = None,
    drawn: Annotated[int, typer.Option(help="Training drawings to compare with.", min=2)] = 2000,
) -> None:
    """Print a Markdown table of distances between drawn butterflies and a model's, for each schedule and each grid."""
    console = Console()
    real = draw_butterflies(drawn)
    size = load_pipeline(model).unet.config.sample_size
    assert size == real.shape[1], f"the model makes pictures of {size} pixels, the drawn ones have {real.shape[1]}"
    space = fit_space(real)
    real_features = embed(space, real)

    def report(name: str, pictures: NDArray[np.uint8]) -> None:
        features = embed(space, pictures)
        numbers = (
            frechet_distance(real_features, features),
            kernel_distance(real_features, features),
            asymmetry(pictures),
            frame_darkness(pictures),
        )
        cells = [name, str(len(pictures)), *(f"{number:.3f}" for number in numbers)]
        console.print("| " + " | ".join(cells) + " |", highlight=False)

    console.print("| pictures | count | frechet | kernel | asymmetry | frame |")
    console.print("| --- | ---: | ---: | ---: | ---: | ---: |")
    report("held-out drawings", draw_butterflies(count, HELD_OUT_SEED))
    pipeline = load_pipeline(model)
    for entry in schedule:
        parsed = parse_schedule(entry, model)
        pictures = sample(pipeline, parsed, range(count))
        report(str(parsed), pictures)
        if grids:
            grid_picture(pictures, 8).save(grids / f"butterflies-{entry.replace(':', '-')}.png")
    for path in grid:
        report(path.name, cut_grid(path, size))


if __name__ == "__main__":
    typer.run(main)
