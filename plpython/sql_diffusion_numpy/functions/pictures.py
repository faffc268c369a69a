"""Pictures as files, and of other sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import session
from ..boundary import boundary
from ..errors import fail
from ..images import image_from_png as png_reader
from ..images import image_png as png_writer
from ..images import image_resize as resizing
from ..tensors import check_size, check_values, tensor


def picture_array(value: Any, name: str) -> np.ndarray:
    array = tensor(value, name, "channels, height, width")
    check_values(array, name, value)
    if len(array) > 4:
        fail(
            f"{name} has {len(array)} channels, expected 1 to 4",
            "An image is channels first: real[channels][height][width].",
        )
    return array


@boundary
def image_png(plpy: Any, image: Any, scale: int, compression: int) -> bytes:
    array = picture_array(image, "image_png: image")
    if scale < 1:
        fail(f"image_png: scale is {scale}, expected at least 1")
    if scale**2 * array.size > 50000000:
        fail(f"image_png: scale {scale} makes a picture of {scale**2 * array.size} values, expected at most 50000000")
    if not 0 <= compression <= 9:
        fail(f"image_png: compression is {compression}, expected 0 to 9")
    return png_writer.image_png(array, scale, compression)


@boundary
def image_from_png(plpy: Any, png: bytes) -> Any:
    return png_reader.image_from_png(png, lambda: session.cancel_point(plpy))


@boundary
def image_resize(plpy: Any, image: Any, height: int, width: int, method: str) -> Any:
    array = picture_array(image, "image_resize: image")
    if height < 1 or width < 1:
        fail(f"image_resize: height is {height} and width is {width}, expected at least 1")
    if method not in ("nearest", "bilinear", "bicubic", "lanczos"):
        fail(f'image_resize: method is "{method}", expected nearest, bilinear, bicubic or lanczos')
    check_size([len(array), height, width], "image_resize: output")
    return resizing.image_resize(array, height, width, method, lambda: session.cancel_point(plpy))
