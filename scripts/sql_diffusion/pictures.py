"""Picture files: PNGs that say how they were made, grids, and animations of the steps."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from .errors import USAGE, Problem
from .tensors import Float32Array

STILL = {".png": "PNG"}
MOVING = {".gif": "GIF", ".png": "PNG", ".apng": "PNG", ".webp": "WEBP"}
MOST_FRAMES = 100  # of a longer run, evenly spaced ones are taken
PLAYING_TIME = 4.0  # seconds from noise to picture
LAST_FRAME = 2000  # milliseconds that the finished picture stands


def to_image(sample: Float32Array, scale: int = 1) -> Image.Image:
    """(channels, height, width), -1..1, as a picture; rounded as diffusers and image_png do."""
    pixels: NDArray[np.uint8] = np.round(np.clip(sample / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
    channels, height, width = pixels.shape
    if channels not in (1, 3, 4):
        raise Problem(
            f"the model draws {channels} channels, and a picture has 1, 3 or 4",
            "Read the array itself with: select ddpm_generate(...)",
        )
    image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    return image.resize((width * scale, height * scale), Image.Resampling.NEAREST) if scale != 1 else image


def read_image(path: Path, mode: str, size: tuple[int, int] | None) -> Float32Array:
    """A picture file as (channels, height, width), 0..1: in grey (L) or in colours (RGB), of this width and height."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert(mode)
    except OSError as error:
        raise Problem(
            f"{path} cannot be read as a picture: {error.strerror or error}", "Give a PNG or JPEG.", USAGE
        ) from error
    if size is not None:
        image = image.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(image, np.float32) / np.float32(255)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def save_png(image: Image.Image, path: Path, text: dict[str, str]) -> None:
    """Saves with text chunks: what `file`, exiftool and Pillow's image.text show."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_itxt(key, value) if not value.isascii() else chunks.add_text(key, value)
    with writing(path):
        image.save(path, format="PNG", pnginfo=chunks)


def make_grid(images: list[Image.Image]) -> Image.Image:
    """Side by side, as square as can be, row by row."""
    columns = ceil(sqrt(len(images)))
    rows = ceil(len(images) / columns)
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * width, rows * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % columns * width, number // columns * height))
    return grid


def choose_frames(count: int) -> list[int]:
    """Which of so many steps become frames: all, or evenly spaced ones with the first and the last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, MOST_FRAMES))})


def save_animation(frames: list[Image.Image], path: Path, text: dict[str, str]) -> None:
    """An animated GIF, PNG or WebP, by the file's suffix; it repeats for ever and rests on the finished picture."""
    frame_time = max(20, int(1000 * PLAYING_TIME / len(frames)))
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    kind = MOVING[path.suffix.lower()]
    options: dict[str, dict[str, Any]] = {
        "PNG": {"pnginfo": chunks},
        "WEBP": {"lossless": True},
        "GIF": {"comment": json.dumps(text).encode()},
    }
    with writing(path):
        frames[0].save(
            path,
            format=kind,
            save_all=True,
            append_images=frames[1:],
            duration=[frame_time] * (len(frames) - 1) + [LAST_FRAME],
            loop=0,
            **options[kind],
        )


def check_output(path: Path | None, kinds: dict[str, str]) -> None:
    """Says before anything is generated whether such a file can be written there."""
    if path is None:
        return
    if path.suffix.lower() not in kinds:
        raise Problem(f"{path} is not a kind of file that is written", f"Let it end in {', '.join(kinds)}.", USAGE)
    if not path.parent.is_dir():
        raise Problem(f"{path} cannot be written: there is no folder {path.parent}", "Make it first.", USAGE)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        raise Problem(f"{path} cannot be written: {error.strerror or error}", "Choose another file.", USAGE) from error
