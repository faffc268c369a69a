"""Draw butterflies: the pictures from which the bundled model learns.

A butterfly is a handful of random numbers. `draw_butterfly(seed)` turns them into a 64x64 RGB picture:
mirror-symmetric fore and hind wings with smooth outlines, gradients, bands, veins, dark borders, rows of spots and eye
spots, a body with antennae, a small rotation, on white. The same seed gives the same picture.

Each wing is described in its own polar coordinates: `theta` is the direction from the wing's root, and `rho` is the
distance from it as a fraction of the distance to the outline, so 0 is the root and 1 is the edge. A border is then
`rho > 0.85`, a vein is a `theta`, a band is a range of `rho`, and every marking follows the shape of its wing.

    python scripts/draw_butterflies.py --count 8000 butterflies.npy     # uint8, shape (8000, 64, 64, 3)
    python scripts/draw_butterflies.py --grid 10 butterflies.png         # a look at a hundred of them

Given a `Look`, what it names is drawn so, and the seed decides the rest: colours of fore and hind wings, ground, border,
spots, band, eye spots, tails. `describe_butterflies.py` chooses looks and writes captions for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

Floats = NDArray[np.float32]

SUPERSAMPLING = 4  # the picture is drawn this many times larger, then averaged: that is the anti-aliasing

# (inner wing, outer wing, border and veins, spots), sRGB
PALETTES: tuple[tuple[str, str, str, str], ...] = (
    ("#f5a03c", "#e2641e", "#221510", "#fff6e6"),  # monarch
    ("#3c8ff0", "#1b4fc4", "#0d1230", "#e8f4ff"),  # morpho
    ("#ffe873", "#f7c62f", "#1d1a14", "#4d86d8"),  # swallowtail
    ("#b5351f", "#8f2318", "#2a1412", "#f6d36b"),  # peacock
    ("#fff0b8", "#f2e06a", "#8a7a2c", "#f39a35"),  # brimstone
    ("#f6e4ec", "#eaa9c6", "#7a2f58", "#ffffff"),  # rose
    ("#7fd3c4", "#2d9c97", "#0f3b40", "#f3ffd8"),  # lagoon
    ("#9a6ad6", "#5b34a8", "#1f1238", "#f2e4ff"),  # purple emperor
    ("#c79a63", "#8b5a33", "#3a2413", "#ffe9c0"),  # ringlet
    ("#a8d86a", "#4f9e3a", "#173a1a", "#fdf6b0"),  # birdwing
    ("#8fc6f2", "#6fa2e6", "#2c3f72", "#ffffff"),  # holly blue
    ("#e84a4a", "#b3202f", "#1b1114", "#ffffff"),  # postman
    ("#dfe3ea", "#a9b4c6", "#39404f", "#f2a23c"),  # apollo
    ("#f8b95a", "#d9543a", "#40201c", "#7fc4f0"),  # tortoiseshell
)


# What a caption can name: the colour of a wing at its root and at its edge, of an eye spot's ring, of the ground.
WINGS: dict[str, tuple[str, str]] = {
    "red": ("#e84a4a", "#c01f2e"),
    "orange": ("#f9a13c", "#ee7a1e"),
    "yellow": ("#ffe873", "#f7d02f"),
    "green": ("#8fd06a", "#3f9e3a"),
    "blue": ("#4c98f5", "#1f55d0"),
    "purple": ("#9a6ad6", "#6a38b4"),
    "pink": ("#f8c0da", "#ee8fbb"),
    "white": ("#fdfcf8", "#e9ebf0"),
}
EYES: dict[str, str] = {"orange": "#f39a35", "yellow": "#f9e05a", "blue": "#5a9bea"}
GROUNDS: dict[str, str] = {"white": "#ffffff", "sky": "#aedcf8", "leaf": "#7fb35c", "night": "#1a2148"}


class Look(NamedTuple):
    """What a caption can say about a butterfly; the names are keys of WINGS, EYES and GROUNDS."""

    fore: str
    hind: str
    ground: str
    eyes: str | None  # the colour of the eye spots' rings
    band: bool  # a pale band across the wings
    border: bool  # dark
    spots: bool  # pale, on the border
    tails: bool


class Wing(NamedTuple):
    """Polar coordinates of every pixel about the wing's root, and the distances that markings need."""

    x: Floats  # (H, W) offsets from the root, mirrored so that x >= 0 is the outward side
    y: Floats
    theta: Floats  # degrees, 0 outwards, 90 towards the head
    rho: Floats  # 0 at the root, 1 on the outline
    radius: Callable[[float], float]  # outline's distance from the root in a direction


def rgb(colour: str) -> Floats:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=np.float32)


def smooth_outline(knots: Sequence[tuple[float, float]], softness: float) -> Floats:
    """Radii for each of 720 half degrees from -180: the knots joined by lines, then blurred into a smooth curve."""
    degrees = np.arange(-180.0, 180.0, 0.5)
    directions, distances = np.array(sorted(knots)).T
    radii = np.interp(degrees, directions, distances, left=0.0, right=0.0)
    taps = np.arange(-60, 61) * 0.5
    kernel = np.exp(-0.5 * (taps / softness) ** 2)
    return np.convolve(radii, kernel / kernel.sum(), mode="same").astype(np.float32)


def mix(picture: Floats, colour: Floats, amount: Floats) -> None:
    """Paint `colour` over the picture, in place; `amount` in 0..1, shape (H, W)."""
    picture += amount[..., None] * (colour - picture)


def ramp(low: float, high: float, values: Floats) -> Floats:
    """0 below `low`, 1 above `high`, smooth between."""
    t: Floats = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def jitter(rng: np.random.Generator, colour: Floats, amount: float = 0.06) -> Floats:
    return np.clip(colour + rng.normal(0, amount, 3), 0, 1).astype(np.float32)


def draw_butterfly(
    seed: int, size: int = 64, look: Look | None = None, supersampling: int = SUPERSAMPLING
) -> NDArray[np.uint8]:
    """One butterfly as uint8, shape (size, size, 3). The seed decides everything that the look leaves open."""
    rng = np.random.default_rng(seed)
    uniform = rng.uniform

    # --- outlines ---------------------------------------------------------------------------------------------------
    tip, span = uniform(30, 52), uniform(0.80, 1.0)
    fore = smooth_outline(
        [
            (-40, 0.0),
            (-32, span * uniform(0.35, 0.5)),
            (-12, span * uniform(0.58, 0.72)),
            (tip - 20, span * uniform(0.70, 0.9)),
            (tip, span * uniform(0.98, 1.08)),
            (tip + 14, span * uniform(0.74, 0.9)),
            (tip + 34, 0.0),
        ],
        softness=uniform(5, 9),
    )
    depth = uniform(0.58, 0.82)
    hind_knots = [
        (48, 0.0),
        (34, depth * uniform(0.5, 0.8)),
        (5, depth * uniform(0.8, 1.0)),
        (-28, depth * uniform(0.9, 1.1)),
        (-58, depth * uniform(0.85, 1.1)),
        (-78, depth * uniform(0.6, 0.75)),
        (-92, 0.0),
    ]
    hind = smooth_outline(hind_knots, softness=uniform(6, 10))
    degrees = np.arange(-180.0, 180.0, 0.5)
    swallowtail = rng.random() < 0.3
    if look.tails if look else swallowtail:
        tail = uniform(-68, -56)
        hind += uniform(0.25, 0.45) * np.exp(-0.5 * ((degrees - tail) / uniform(3.5, 5)) ** 2).astype(np.float32)
    if rng.random() < 0.4:  # a scalloped edge
        hind *= (1 + uniform(0.02, 0.05) * np.cos(np.deg2rad(degrees * rng.integers(10, 16)))).astype(np.float32)
    fore_root, hind_root = (0.03, 0.10), (0.03, -0.06)
    body_top, body_end = 0.20, -uniform(0.30, 0.45)
    antenna_x, antenna_y = uniform(0.16, 0.30), body_top + uniform(0.34, 0.48)

    # --- the pixels' places in the butterfly's own frame, which is scaled to fill the picture ------------------------
    cosines, sines = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    right = np.concatenate([fore_root[0] + fore * cosines, hind_root[0] + hind * cosines, [antenna_x, 0.0]])
    height = np.concatenate([fore_root[1] + fore * sines, hind_root[1] + hind * sines, [antenna_y, body_end]])
    centre = (height.max() + height.min()) / 2
    upright = max(right.max(), height.max() - centre) / uniform(0.84, 0.93)
    angle = np.float32(np.deg2rad(np.clip(rng.normal(0, 4), -10, 10)))
    # both wings' points, as complex numbers, turned: none may leave the picture
    turned = np.concatenate([right, -right]) + 1j * (np.concatenate([height, height]) - centre)
    turned = turned * np.exp(1j * angle)
    reach = max(upright, np.abs(turned.real).max() / 0.95, np.abs(turned.imag).max() / 0.95)
    fine = size * supersampling
    grid = ((np.arange(fine) + 0.5) / fine * 2 - 1).astype(np.float32) * np.float32(reach)
    across, down = grid[None, :], grid[:, None]
    x = np.abs(np.cos(angle) * across - np.sin(angle) * down)
    y = np.float32(centre) - (np.sin(angle) * across + np.cos(angle) * down)
    pixel = 2 * reach / size

    def wing(root: tuple[float, float], outline: Floats) -> Wing:
        dx, dy = x - np.float32(root[0]), y - np.float32(root[1])
        theta = np.rad2deg(np.arctan2(dy, dx))
        # the table is fine enough (half a degree) to be read without interpolation
        radius = outline[np.rint((theta + 180) * 2).astype(np.int32) % 720]
        rho = np.sqrt(dx * dx + dy * dy) / np.maximum(radius, 1e-3)
        return Wing(dx, dy, theta, rho, lambda direction: float(outline[round((direction + 180) * 2)]))

    # --- colours ----------------------------------------------------------------------------------------------------
    inner, outer, dark, light = (jitter(rng, rgb(c)) for c in PALETTES[rng.integers(len(PALETTES))])
    if rng.random() < 0.3:  # hind wings in another colour
        hind_inner, hind_outer = (jitter(rng, rgb(c)) for c in PALETTES[rng.integers(len(PALETTES))][:2])
    else:
        hind_inner, hind_outer = jitter(rng, inner, 0.03), jitter(rng, outer, 0.03)

    border = uniform(0.08, 0.28) if rng.random() < 0.75 else 0.0
    scallops, scallop_depth = rng.integers(8, 14), uniform(0, 0.04)
    veins = uniform(0.25, 0.9) if rng.random() < 0.6 else 0.0
    vein_step, vein_bend = uniform(12, 18), uniform(-12, 12)
    band = uniform(0.45, 0.65) if rng.random() < 0.35 else 0.0
    band_width = uniform(0.06, 0.13)
    band_colour = light if rng.random() < 0.7 else dark
    dots = border > 0.13 and rng.random() < 0.6
    fore_eye, hind_eye = rng.random() < 0.35, rng.random() < 0.4
    eye_iris = jitter(rng, rgb(("#4d86d8", "#f6d36b", "#f39a35", "#e8f4ff")[rng.integers(4)]))
    dark_tip = rng.random() < 0.3
    ground, dot_share = rgb("#ffffff"), 0.26
    if look:
        inner, outer = (jitter(rng, rgb(colour), 0.025) for colour in WINGS[look.fore])
        hind_inner, hind_outer = (jitter(rng, rgb(colour), 0.025) for colour in WINGS[look.hind])
        dark, light = jitter(rng, rgb("#1d1714"), 0.03), jitter(rng, rgb("#fff6e6"), 0.02)
        border = (uniform(0.2, 0.28) if look.spots else uniform(0.14, 0.24)) if look.border else 0.0
        dots, dot_share = look.spots, 0.34
        veins *= 0.5
        band, band_colour = (uniform(0.42, 0.52) if look.band else 0.0), light
        fore_eye = hind_eye = look.eyes is not None
        if look.eyes:
            eye_iris = jitter(rng, rgb(EYES[look.eyes]), 0.03)
        if look.ground != "white":
            ground = jitter(rng, rgb(GROUNDS[look.ground]), 0.02)

    picture = np.ones((fine, fine, 3), dtype=np.float32)
    picture *= ground

    def disc(wing: Wing, theta: float, rho: float, size: float) -> Floats:
        """Distance from a place on the wing, in units of `size`."""
        r = rho * wing.radius(theta)
        cx, cy = r * np.cos(np.deg2rad(theta)), r * np.sin(np.deg2rad(theta))
        distance: Floats = np.hypot(wing.x - np.float32(cx), wing.y - np.float32(cy))
        return distance / np.float32(size)

    def paint_wing(wing: Wing, inner: Floats, outer: Floats, is_fore: bool) -> None:
        inside = (wing.rho < 1).astype(np.float32)
        layer = np.empty_like(picture)
        layer[:] = inner
        mix(layer, outer, ramp(0.15, 0.95, wing.rho))
        if band:
            mix(layer, band_colour, 1 - ramp(band_width * 0.6, band_width, np.abs(wing.rho - np.float32(band))))
        if veins:
            swept = wing.theta + vein_bend * wing.rho
            nearest = np.abs((swept + vein_step / 2) % vein_step - vein_step / 2)
            width = np.deg2rad(nearest) * wing.rho * wing.radius(30 if is_fore else -30)
            mix(layer, dark, veins * (1 - ramp(0.3 * pixel, 0.75 * pixel, width)) * ramp(0.1, 0.3, wing.rho))
        edge = border * (1.0 if is_fore else 0.85)
        if edge:
            wavy = edge + scallop_depth * np.cos(np.deg2rad(wing.theta * scallops))
            if is_fore and dark_tip:
                wavy = wavy + 0.25 * np.exp(-0.5 * ((wing.theta - tip) / 14) ** 2)
            mix(layer, dark, ramp(-0.02, 0.02, wing.rho - 1 + wavy))
        mix(layer, dark, 0.85 * ramp(0.93, 0.98, wing.rho))  # a thin line around the wing
        if dots:
            first, last = (-24, tip + 4) if is_fore else (-72, 24)
            for theta in np.arange(first, last, vein_step):
                mix(layer, light, 1 - ramp(0.7, 1.1, disc(wing, theta, 1 - edge * 0.5, edge * dot_share)))
        if fore_eye if is_fore else hind_eye:
            theta, rho = (tip - 14, 0.62) if is_fore else (-32, 0.60)
            away = disc(wing, theta, rho, eye_size)
            mix(layer, dark, 1 - ramp(0.93, 1.05, away))
            mix(layer, eye_iris, 1 - ramp(0.68, 0.8, away))
            mix(layer, dark, 1 - ramp(0.36, 0.46, away))
        picture[:] = picture + inside[..., None] * (layer - picture)

    eye_size = uniform(0.10, 0.16)
    paint_wing(wing(hind_root, hind), hind_inner, hind_outer, is_fore=False)
    paint_wing(wing(fore_root, fore), inner, outer, is_fore=True)

    # --- body and antennae --------------------------------------------------------------------------------------------
    brown = jitter(rng, rgb("#2b211c"), 0.03)
    girth = uniform(0.045, 0.06)
    along = np.clip((y - np.float32(body_end)) / np.float32(body_top - body_end), 0, 1)
    half_width = girth * np.sqrt(np.clip(4 * along * (1 - along), 0, 1)) * (0.75 + 0.35 * along)
    body = np.maximum(x < half_width, np.hypot(x, y - np.float32(body_top)) < girth * 0.95)
    mix(picture, brown, body.astype(np.float32))
    rise = np.clip((y - np.float32(body_top)) / np.float32(antenna_y - body_top), 0, 1)
    stalk = np.abs(x - np.float32(antenna_x) * rise**1.5) < 0.42 * pixel
    stalk &= (y > body_top) & (y < antenna_y)
    club = np.hypot(x - np.float32(antenna_x), y - np.float32(antenna_y)) < 0.9 * pixel
    mix(picture, brown, (stalk | club).astype(np.float32))

    shrunk: Floats = picture.reshape(size, supersampling, size, supersampling, 3).mean(axis=(1, 3))
    return np.rint(shrunk * 255).astype(np.uint8)


def draw_butterflies(count: int, first_seed: int = 0, size: int = 64) -> NDArray[np.uint8]:
    """The butterflies of `count` successive seeds: uint8, shape (count, size, size, 3). Uses every core."""
    with ProcessPoolExecutor() as workers:
        drawn = workers.map(partial(draw_butterfly, size=size), range(first_seed, first_seed + count), chunksize=16)
        return np.stack(list(track(drawn, "drawing", total=count, transient=True)))


def grid_picture(pictures: NDArray[np.uint8], columns: int, zoom: int = 1) -> Image.Image:
    """Pictures (N, H, W, 3) side by side, row by row."""
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height, width, 3), 255, dtype=np.uint8)
    sheet[:count] = pictures
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    return Image.fromarray(sheet).resize((columns * width * zoom, rows * height * zoom), Image.Resampling.NEAREST)


def main(
    output: Annotated[Path, typer.Argument(help="A .npy file for the pictures, or a .png file with --grid.")],
    count: Annotated[int, typer.Option(help="How many butterflies.", min=1)] = 8000,
    first_seed: Annotated[int, typer.Option(help="Seed of the first; the others follow it.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Width and height in pixels.", min=8)] = 64,
    grid: Annotated[int, typer.Option(help="Draw a grid of so many by so many instead, as one picture.", min=0)] = 0,
) -> None:
    """Draw butterflies into a NumPy file, or as one picture to look at."""
    if grid:
        grid_picture(draw_butterflies(grid * grid, first_seed, size), grid).save(output)
    else:
        np.save(output, draw_butterflies(count, first_seed, size))


if __name__ == "__main__":
    typer.run(main)
