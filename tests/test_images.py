"""Pictures: PNGs decoded by Pillow and by our own decoder, against diffusers' pictures; character art read back."""

from __future__ import annotations

import heapq
import io
import operator
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from diffusers.image_processor import VaeImageProcessor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest_plugins = ["numpy_server"]

DOC = Path(__file__).parent.parent / "doc"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
RAMP = " .-,:~;!*+|c7JyoeXmKg8@M"

many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one_row(connection: psycopg.Connection, query: str, arguments: Any = None) -> tuple[Any, ...]:
    (row,) = connection.execute(query, arguments).fetchall()
    return row


def decode(png: bytes) -> np.ndarray:
    """A PNG of 8 bits a sample and no row filters, read by the specification alone: (height, width, channels)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = [], 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        name, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", png, place + 8 + length)
        assert checksum == zlib.crc32(name + data)
        chunks.append((name, data))
        place += 12 + length
    assert [name for name, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[2][1] == b""
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, compression, filtering, interlace) == (8, 0, 0, 0)
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, 1 + width * channels)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def diffusers_bytes(image: np.ndarray) -> np.ndarray:
    """The pixels of the picture that a pipeline of diffusers makes of an image: (height, width, channels)."""
    image = np.clip(image, 0, 1).transpose(1, 2, 0)
    if (
        image.shape[2] == 2 or 1 in image.shape[:2]
    ):  # diffusers has no case for two channels, and squeezes gray pictures
        return (image * 255).round().astype(np.uint8)
    (picture,) = VaeImageProcessor.numpy_to_pil(image[None])
    return np.asarray(picture).reshape(image.shape)


def random_image(seed: int, channels: int, height: int, width: int) -> np.ndarray:
    """Values on both sides of 0..1, and many that lie half way between two levels or beside it."""
    random = np.random.default_rng(seed)
    values = random.uniform(-0.2, 1.2, (channels, height, width)).astype(np.float32)
    halves = ((random.integers(0, 255, values.shape) + 0.5) / 255).astype(np.float32)
    halves = np.nextafter(
        halves,
        random.choice([-1, 2], values.shape).astype(np.float32),
        where=random.random(values.shape) < 0.5,
        out=halves,
    )
    return np.where(random.random(values.shape) < 0.5, values, halves)


images = st.builds(random_image, st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20))


def image_png(connection: psycopg.Connection, image: np.ndarray, scale: int = 1, compression: int = 0) -> bytes:
    return one_row(connection, "select image_png(%s::real[], %s, %s)", (image.tolist(), scale, compression))[0]


@many
@given(image=images, scale=st.integers(1, 5))
def test_png(connection: psycopg.Connection, image: np.ndarray, scale: int) -> None:
    expected = diffusers_bytes(image).repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_array_equal(decode(image_png(connection, image, scale)), expected)
    for compression in (0, 6):
        png = image_png(connection, image, scale, compression)
        with Image.open(io.BytesIO(png)) as picture:
            picture.verify()  # the checksums
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.format == "PNG"
            assert picture.mode == MODES[image.shape[0]]
            np.testing.assert_array_equal(np.asarray(picture).reshape(expected.shape), expected)


def test_png_of_many_blocks(connection: psycopg.Connection) -> None:
    """A stored block holds at most 65535 bytes; here are several, and one full to the byte, one more and one less."""
    for height, width in [(3, 65534), (1, 65534), (1, 65535), (1, 65533), (257, 254), (200, 700)]:
        image = random_image(height * width, 1, height, width)
        np.testing.assert_array_equal(decode(image_png(connection, image)), diffusers_bytes(image))


@many
@given(data=st.data())
def test_compressed_lines(connection: psycopg.Connection, data: st.DataObject) -> None:
    """Runs of every length, few and many different bytes, lines that come again: what zlib reads is what went in."""
    runs = st.lists(
        st.tuples(st.integers(0, data.draw(st.sampled_from([0, 1, 3, 255]))), st.integers(1, 600)),
        min_size=1,
        max_size=60,
    )
    line = [byte for byte, times in data.draw(runs) for _ in range(times)]
    lines = [line, line[::-1], [255 - byte for byte in line]][: data.draw(st.integers(1, 3))]
    repeats = data.draw(st.lists(st.integers(1, 9), min_size=len(lines), max_size=len(lines)))
    (stream,) = one_row(connection, "select sql_diffusion.zlib_compress(%s::int[], %s::int[])", (lines, repeats))
    assert zlib.decompress(stream) == b"".join(bytes(line) * times for line, times in zip(lines, repeats, strict=True))


@many
@given(frequencies=st.lists(st.integers(0, 10**6), min_size=2, max_size=286).filter(lambda f: np.count_nonzero(f) > 1))
def test_prefix_codes(connection: psycopg.Connection, frequencies: list[int]) -> None:
    """Complete, no longer than allowed, and as short as a heap of nodes makes them, where these are none too long."""
    (lengths,) = one_row(connection, "select sql_diffusion.huffman_lengths(%s::int[], 15)", (frequencies,))
    assert [length > 0 for length in lengths] == [frequency > 0 for frequency in frequencies]
    assert sum(2.0**-length for length in lengths if length) == 1
    assert max(lengths) <= 15
    weights = [frequency for frequency in frequencies if frequency]
    if min(weights) * (4000 - len(weights)) >= sum(weights):
        total = 0
        heapq.heapify(weights)
        while len(weights) > 1:
            weight = heapq.heappop(weights) + heapq.heappop(weights)
            total += weight
            heapq.heappush(weights, weight)
        assert sum(map(operator.mul, lengths, frequencies)) == total


def test_prefix_codes_of_fibonacci_numbers(connection: psycopg.Connection) -> None:
    """The frequencies of the longest words there can be."""
    numbers = [1, 1]
    while len(numbers) < 40:
        numbers.append(numbers[-1] + numbers[-2])
    for most, count in [(15, 40), (7, 19)]:
        query = "select sql_diffusion.huffman_lengths(%s::int[], %s)"
        (lengths,) = one_row(connection, query, (numbers[:count], most))
        assert max(lengths) <= most
        assert sum(2.0**-length for length in lengths) == 1


def test_a_picture_made_larger_is_compressed(numpy_connection: psycopg.Connection) -> None:
    """No larger than what zlib makes of the plain rows, by either backend."""
    small = np.asarray(Image.open(DOC / "butterflies-default.png").convert("RGB"))[:64, :64]
    image = small.transpose(2, 0, 1).astype(np.float32) / 255
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    plain = len(zlib.compress(b"".join(b"\0" + row.tobytes() for row in large)))
    for backend in ("sql", "numpy"):
        query = "select image_png(%s::real[], 8, backend => %s), image_png(%s::real[], 8, 0, %s)"
        png, stored = one_row(numpy_connection, query, (image.tolist(), backend) * 2)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), large)
        assert len(png) < plain + 100
        assert len(stored) == 787072
        np.testing.assert_array_equal(decode(stored), large)


def test_every_level(connection: psycopg.Connection) -> None:
    """x / 255 gives x, for every x of a byte."""
    image = (np.arange(256, dtype=np.float32) / 255).reshape(1, 16, 16)
    np.testing.assert_array_equal(decode(image_png(connection, image)).reshape(-1), np.arange(256))


@many
@given(data=st.one_of(st.binary(max_size=200), st.binary(min_size=1000, max_size=3000)))
def test_checksums(connection: psycopg.Connection, data: bytes) -> None:
    crc32, adler32, stored = one_row(
        connection,
        "select sql_diffusion.crc32(%(data)s), sql_diffusion.adler32(%(data)s), sql_diffusion.zlib_stored(%(data)s)",
        {"data": data},
    )
    assert crc32 == zlib.crc32(data)
    assert adler32 == zlib.adler32(data)
    assert zlib.decompress(stored) == data


def test_checksums_of_large_data(connection: psycopg.Connection) -> None:
    data = np.random.default_rng().bytes(1_000_003)
    row = one_row(connection, "select sql_diffusion.crc32(%(data)s), sql_diffusion.adler32(%(data)s)", {"data": data})
    assert row == (zlib.crc32(data), zlib.adler32(data))


def luma(image: np.ndarray) -> np.ndarray:
    """Brightness and cover, both 0..1, (height, width): ITU-R BT.601, as Pillow's mode L."""
    levels = np.clip(image, 0, 1).astype(np.float64)
    bright = levels[0] if len(image) < 3 else np.tensordot([0.299, 0.587, 0.114], levels[:3], 1)
    return np.stack([bright, levels[-1] if len(image) in (2, 4) else np.ones_like(bright)])


@many
@given(image=images, dark=st.booleans())
def test_ascii_of_single_pixels(connection: psycopg.Connection, image: np.ndarray, dark: bool) -> None:
    """Columns twice the width, so that one letter is one pixel's left or right half."""
    lines = [
        line
        for (line,) in connection.execute(
            "select image_ascii(%s::real[], %s, %s)", (image.tolist(), 2 * image.shape[2], dark)
        )
    ]
    assert [len(line) for line in lines] == [2 * image.shape[2]] * image.shape[1]
    bright, cover = luma(image)
    ink = cover * (bright if dark else 1 - bright)
    shown = np.array([[RAMP.index(letter) for letter in line[::2]] for line in lines]) / (len(RAMP) - 1)
    assert [line[::2] for line in lines] == [line[1::2] for line in lines]
    assert np.abs(shown - ink).max() <= 0.5 / (len(RAMP) - 1) + 1 / 255


def test_ascii_averages_the_pixels_of_a_letter(connection: psycopg.Connection) -> None:
    image = np.random.default_rng().random((3, 32, 48), dtype=np.float32)
    lines = [line for (line,) in connection.execute("select image_ascii(%s::real[], 12)", (image.tolist(),))]
    means = luma(image)[0].reshape(4, 8, 12, 4).mean(axis=(1, 3))
    shown = np.array([[RAMP.index(letter) for letter in line] for line in lines]) / (len(RAMP) - 1)
    assert np.abs(shown - means).max() <= 0.5 / (len(RAMP) - 1) + 1 / 255


@pytest.mark.parametrize(
    ("height", "width", "columns", "expected"),
    [
        (64, 64, None, (32, 64)),
        (64, 128, None, (20, 80)),
        (1, 9, None, (1, 9)),
        (64, 64, 128, (64, 128)),
        (7, 5, 1, (1, 1)),
    ],
)
def test_ascii_size(
    connection: psycopg.Connection, height: int, width: int, columns: int | None, expected: tuple[int, int]
) -> None:
    image = np.zeros((1, height, width)).tolist()
    lines = [line for (line,) in connection.execute("select image_ascii(%s::real[], %s)", (image, columns))]
    assert (len(lines), len(lines[0])) == expected
    assert set("".join(lines)) == {" "}


def terminal(lines: list[str]) -> list[list[tuple[int, int, int] | None]]:
    """Draws half blocks as a terminal does: two rows of pixels a line, None for the terminal's own ground."""
    rows = []
    for line in lines:
        assert line.endswith("\x1b[0m")
        upper: list[tuple[int, int, int] | None] = []
        lower: list[tuple[int, int, int] | None] = []
        ink = ground = None
        for codes, letter in re.findall(r"\x1b\[([0-9;]*)m|([^\x1b])", line):
            if letter:
                assert letter == "▀"
                upper.append(ink)
                lower.append(ground)
                continue
            numbers = [int(code) for code in codes.split(";")]
            while numbers:
                match numbers:
                    case [0, *numbers]:
                        ink = ground = None
                    case [38, 2, red, green, blue, *numbers]:
                        ink = (red, green, blue)
                    case [48, 2, red, green, blue, *numbers]:
                        ground = (red, green, blue)
                    case [49, *numbers]:
                        ground = None
                    case _:
                        raise AssertionError(codes)
        rows += [upper, lower]
    return rows


@many
@given(image=images, scale=st.integers(1, 3))
def test_ansi(connection: psycopg.Connection, image: np.ndarray, scale: int) -> None:
    lines = [line for (line,) in connection.execute("select image_ansi(%s::real[], %s)", (image.tolist(), scale))]
    levels = diffusers_bytes(image).astype(np.float64)
    if image.shape[0] in (2, 4):  # alpha fades to black
        levels = levels[..., :-1] * levels[..., -1:] / 255
    expected = np.broadcast_to(levels, (*levels.shape[:2], 3)).repeat(scale, axis=0).repeat(scale, axis=1)
    rows = terminal(lines)
    if len(expected) % 2:
        assert set(rows.pop()) == {None}
    assert np.abs(np.array(rows) - expected).max() <= 0.5


@pytest.mark.parametrize("function", ["image_png", "image_ascii", "image_ansi"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("'{}'", "image is empty"),
        ("'{1,2}'", "image has shape {2}, expected 3 dimensions (channels, height, width)"),
        ("'{{{{1}}}}'", "image has shape {1,1,1,1}, expected 3 dimensions (channels, height, width)"),
        ("'[0:0][1:1][1:1]={{{1}}}'", "image has the bounds [0:0][1:1][1:1], expected subscripts that begin at 1"),
        ("'{{{1,NULL}}}'", "image holds null elements"),
        ("'{{{NaN}}}'", "image holds NaN or infinite values"),
        ("'{{{-Infinity}}}'", "image holds NaN or infinite values"),
        ("array_fill(1, '{5,2,2}')", "image has 5 channels, expected 1 to 4"),
    ],
)
def test_wrong_images(connection: psycopg.Connection, function: str, image: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        connection.execute(f"select {function}(({image})::real[])")
    assert error.value.diag.message_primary == f"{function}: {message}"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("image_png('{{{1}}}', 0)", "image_png: scale is 0, expected at least 1"),
        ("image_png('{{{1}}}', -1)", "image_png: scale is -1, expected at least 1"),
        (
            "image_png('{{{1}}}', 2147483647)",
            "image_png: scale 2147483647 makes a picture of 4611686014132420609 values, expected at most 50000000",
        ),
        ("image_png('{{{1}}}', compression => 10)", "image_png: compression is 10, expected 0 to 9"),
        ("image_png('{{{1}}}', compression => -1)", "image_png: compression is -1, expected 0 to 9"),
        ("image_ansi('{{{1}}}', 0)", "image_ansi: scale is 0, expected 1 to 100"),
        ("image_ansi('{{{1}}}', 101)", "image_ansi: scale is 101, expected 1 to 100"),
        ("image_ascii('{{{1}}}', 0)", "image_ascii: width is 0, expected 1 to 1000 columns"),
        ("image_ascii('{{{1}}}', 1001)", "image_ascii: width is 1001, expected 1 to 1000 columns"),
        ("image_ascii('{{{1}}}', dark => null)", "image_ascii: dark is null, expected true or false"),
        ("image_ascii(null)", "image_ascii: image is null"),
    ],
)
def test_wrong_arguments(connection: psycopg.Connection, call: str, message: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        connection.execute(f"select {call}")
    assert error.value.diag.message_primary == message


def test_null_gives_null(connection: psycopg.Connection) -> None:
    assert one_row(connection, "select image_png(null), image_png('{{{1}}}', null)") == (None, None)
    assert connection.execute("select image_ansi(null)").fetchall() == []
