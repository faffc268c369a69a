"""Other sizes against Pillow, by both backends; grids against what slices make."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from PIL import Image

pytest_plugins = ["numpy_server"]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resized(
    connection: psycopg.Connection, image: np.ndarray, size: tuple[int, int], method: str, backend: str
) -> np.ndarray:
    query = "select image_resize(%s::real[], %s, %s, %s, %s)"
    row = connection.execute(query, (image.tolist(), *size, method, backend)).fetchone()
    assert row is not None
    return np.array(row[0], np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("method", METHODS)
def test_as_pillow(numpy_connection: psycopg.Connection, rng: np.random.Generator, method: str, channels: int) -> None:
    """Noise, and black and white, whose edges run over: larger, smaller, both, one pixel, the same."""
    sizes = [((7, 9), (7, 9)), ((1, 1), (3, 2)), ((16, 9), (1, 1)), ((24, 5), (6, 11)), ((20, 20), (9, 19))]
    sizes += [(tuple(rng.integers(1, 30, 2)), tuple(rng.integers(1, 30, 2))) for _ in range(6)]
    for number, ((height, width), (new_height, new_width)) in enumerate(sizes):
        levels = rng.integers(0, 256, (height, width, channels)).astype(np.uint8)
        if number % 2:
            levels = np.where(levels < 128, 0, 255).astype(np.uint8)
        picture = Image.fromarray(levels[:, :, 0] if channels == 1 else levels, MODES[channels])
        made = picture.resize((int(new_width), int(new_height)), METHODS[method])
        expected = np.asarray(made).reshape(new_height, new_width, channels).transpose(2, 0, 1).astype(float)
        image = levels.transpose(2, 0, 1) / np.float32(255)
        in_sql, in_numpy = (
            resized(numpy_connection, image, (int(new_height), int(new_width)), method, backend)
            for backend in ("sql", "numpy")
        )
        np.testing.assert_allclose(in_sql, in_numpy, rtol=0, atol=1e-6)
        ours = np.rint(in_sql * 255.0)
        if channels in (2, 4) and method != "nearest":  # colours as far as they are seen; Pillow rounds these, too
            np.testing.assert_allclose(ours[-1], expected[-1], atol=1)
            ours, expected = ours[:-1] * ours[-1:] / 255, expected[:-1] * expected[-1:] / 255
            np.testing.assert_allclose(
                ours, expected, atol=4
            )  # of two passes, of alpha, of the colours divided by it again
        else:
            np.testing.assert_allclose(ours, expected, atol=1 if method != "nearest" else 0)


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1)])
@pytest.mark.parametrize("method", METHODS)
def test_few_pixels_of_many(
    numpy_connection: psycopg.Connection, rng: np.random.Generator, method: str, height: int, width: int
) -> None:
    levels = rng.integers(0, 256, (height, width)).astype(np.uint8)
    size = (min(height, 3), min(width, 3))
    made = np.asarray(Image.fromarray(levels).resize(size[::-1], METHODS[method])).astype(float)
    for backend in ("sql", "numpy"):
        ours = resized(numpy_connection, levels[None] / np.float32(255), size, method, backend)[0]
        np.testing.assert_allclose(np.rint(ours * 255.0), made, atol=1 if method != "nearest" else 0)


def test_lanczos_unless_told_otherwise(numpy_connection: psycopg.Connection) -> None:
    row = numpy_connection.execute(
        "select image_resize('{{{0,1},{1,0}}}', 3, 3) = image_resize('{{{0,1},{1,0}}}', 3, 3, 'lanczos'), "
        "image_resize('{{{0,1},{1,0}}}', 3, null), image_resize(null, 3, 3)"
    ).fetchone()
    assert row == (True, None, None)


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(
    ("call", "state", "message"),
    [
        ("'{{{1}}}', 0, 1, 'lanczos'", "22023", "height is 0 and width is 1, expected at least 1"),
        ("'{{{1}}}', 1, -5, 'lanczos'", "22023", "height is 1 and width is -5, expected at least 1"),
        ("'{{{1}}}', 1, 1, 'cubic'", "22023", 'method is "cubic", expected nearest, bilinear, bicubic or lanczos'),
        ("'{1,2}', 1, 1, 'nearest'", "22023", "image has shape {2}, expected 3 dimensions (channels, height, width)"),
        ("'{{{1,NaN}}}', 1, 1, 'nearest'", "22023", "image holds NaN or infinite values"),
        ("'{{{1}}}', 65536, 65536, 'nearest'", "54000", "output has shape {1,65536,65536}, expected at most 67108864 elements"),
    ],
)  # fmt: skip
def test_wrong_arguments(
    numpy_connection: psycopg.Connection, call: str, state: str, message: str, backend: str
) -> None:
    with pytest.raises(psycopg.Error) as error:
        numpy_connection.execute(f"select image_resize({call}, '{backend}')")
    assert (error.value.sqlstate, error.value.diag.message_primary) == (state, f"image_resize: {message}")


# ---- grids


def by_hand(images: np.ndarray, columns: int) -> np.ndarray:
    number, channels, height, width = images.shape
    rows = -(-number // columns)
    sheet = np.zeros((channels, rows * height, columns * width), np.float32)
    for place, image in enumerate(images):
        y, x = place // columns * height, place % columns * width
        sheet[:, y : y + height, x : x + width] = image
    return sheet


@pytest.mark.parametrize(
    ("number", "columns", "expected"), [(1, None, 1), (4, None, 2), (5, None, 3), (6, 4, 4), (3, 9, 3), (5, 1, 1), (7, 7, 7)]
)  # fmt: skip
def test_grid(
    connection: psycopg.Connection, rng: np.random.Generator, number: int, columns: int | None, expected: int
) -> None:
    for channels in (1, 2, 3, 4):
        images = rng.random((number, channels, 3, 5), dtype=np.float32)
        row = connection.execute("select image_grid(%s::real[], %s)", (images.tolist(), columns)).fetchone()
        assert row is not None
        np.testing.assert_array_equal(np.array(row[0], np.float32), by_hand(images, expected))


def test_grid_of_rows(connection: psycopg.Connection) -> None:
    """As it is meant to be used: images of an aggregate, in a stated order."""
    row = connection.execute(
        "select image_grid(array_agg(image order by number), 2) "
        "from (values (2, '{{{0.5}}}'::real[]), (1, '{{{1}}}'), (3, '{{{0.25}}}')) pictures (number, image)"
    ).fetchone()
    assert row == ([[[1, 0.5], [0.25, 0]]],)


@pytest.mark.parametrize(
    ("call", "state", "message"),
    [
        ("null", "22023", "images is null"),
        ("'{}'", "22023", "images is empty"),
        ("'{{{1}}}'", "22023", "images has shape {1,1,1}, expected 4 dimensions (images, channels, height, width)"),
        ("'{{{{NULL}}}}'", "22023", "images holds null elements"),
        ("array_fill(0, '{1,5,1,1}')::real[]", "22023", "images have 5 channels, expected 1 to 4"),
        ("'{{{{1}}}}', 0", "22023", "columns is 0, expected at least 1"),
    ],
)
def test_wrong_grids(connection: psycopg.Connection, call: str, state: str, message: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        connection.execute(f"select image_grid({call})")
    assert (error.value.sqlstate, error.value.diag.message_primary) == (state, f"image_grid: {message}")
