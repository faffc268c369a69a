"""PNGs read, by both backends: every kind there is, against the pixels that went in and Pillow; damaged ones; bombs.

SQL_DIFFUSION_STRESS=1 damages 2000 files.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

pytest_plugins = ["numpy_server"]

DAMAGED = 2000 if os.environ.get("SQL_DIFFUSION_STRESS") == "1" else 150
SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)]  # fmt: skip
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


@pytest.fixture(scope="module")
def session(numpy_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        own.execute("set statement_timeout = '5min'")  # what hangs is an error
        yield own


# ---- PNGs, written by the specification


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def predicted(kind: int, left: int, above: int, corner: int) -> int:
    """What filter kind expects of a byte."""
    if kind == 4:
        guess = left + above - corner
        return min((abs(guess - left), 0, left), (abs(guess - above), 1, above), (abs(guess - corner), 2, corner))[2]
    return (0, left, above, (left + above) // 2)[kind]


def filtered(rows: list[bytes], step: int, kinds: Iterator[int]) -> bytes:
    out = bytearray()
    above = bytes(len(rows[0]))
    for row in rows:
        kind = next(kinds)
        out.append(kind)
        for place, byte in enumerate(row):
            left, corner = (row[place - step], above[place - step]) if place >= step else (0, 0)
            out.append((byte - predicted(kind, left, above[place], corner)) & 255)
        above = row
    return bytes(out)


def packed(row: np.ndarray, depth: int) -> bytes:
    """A row's samples, the first in the highest bits."""
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, 8 - depth :]
    return np.packbits(bits.ravel()).tobytes()


def raw_data(samples: np.ndarray, depth: int, interlace: int, kinds: Iterator[int]) -> bytes:
    count = samples.shape[2]
    out = b""
    for x, y, step_x, step_y in ADAM7 if interlace else [(0, 0, 1, 1)]:
        part = samples[y::step_y, x::step_x]
        if part.size:
            rows = [packed(row.ravel(), depth) for row in part]
            out += filtered(rows, max(1, depth * count // 8), kinds)
    return out


def png_of(
    samples: np.ndarray, colour: int, depth: int, interlace: int = 0, data: bytes | None = None,
    palette: np.ndarray | None = None, transparency: bytes | None = None, pieces: int = 1
) -> bytes:  # fmt: skip
    height, width, _ = samples.shape
    if data is None:
        data = zlib.compress(raw_data(samples, depth, interlace, itertools.cycle([4, 0, 3, 1, 2])))
    cuts = [len(data) * piece // pieces for piece in range(pieces + 1)]
    return b"".join(
        [
            SIGNATURE,
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)),
            chunk(b"tEXt", b"Comment\0of no account"),
            chunk(b"PLTE", palette.astype(np.uint8).tobytes()) if palette is not None else b"",
            chunk(b"tRNS", transparency) if transparency is not None else b"",
            *(chunk(b"IDAT", data[start:end]) for start, end in itertools.pairwise(cuts)),
            chunk(b"IEND", b""),
        ]
    )


def read(session: psycopg.Connection, png: bytes, backend: str) -> np.ndarray:
    row = session.execute("select image_from_png(%s, %s)", (png, backend)).fetchone()
    assert row is not None
    return np.array(row[0], np.float32)


def check(session: psycopg.Connection, png: bytes, expected: np.ndarray) -> None:
    for backend in ("sql", "numpy"):
        image = read(session, png, backend)
        assert image.shape == expected.shape, backend
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-7, err_msg=backend)


def by_pillow(png: bytes, channels: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(png)).convert({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    return pixels.transpose(2, 0, 1) / np.float32(255)


@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize(("colour", "depth"), KINDS)
def test_every_kind(
    session: psycopg.Connection, rng: np.random.Generator, colour: int, depth: int, interlace: int
) -> None:
    """Every colour type, depth and interlacing, with transparency and without; sizes from one pixel on."""
    for height, width in [(1, 1), (int(rng.integers(1, 9)), int(rng.integers(1, 9))), (13, 19)]:
        shape = (height, width, SAMPLES[colour])
        palette = rng.integers(0, 256, (int(rng.integers(1, 2**depth + 1)), 3)) if colour == 3 else None
        most = 2**depth - 1 if palette is None else len(palette) - 1
        samples = rng.integers(0, most + 1, shape)
        expected = samples / most if palette is None else palette[samples[:, :, 0]] / 255
        png = png_of(samples, colour, depth, interlace, palette=palette, pieces=int(rng.integers(1, 4)))
        check(session, png, expected.transpose(2, 0, 1))
        if depth <= 8:
            np.testing.assert_allclose(expected.transpose(2, 0, 1), by_pillow(png, expected.shape[2]), atol=1e-6)
        if colour in (4, 6):
            continue
        if palette is None:  # one colour of the picture
            key = samples[0, 0]
            transparency = key.astype(">u2").tobytes()
            alpha = (samples != key).any(axis=2)[:, :, None]
        else:
            table = rng.integers(0, 256, int(rng.integers(1, len(palette) + 1)))
            transparency = table.astype(np.uint8).tobytes()
            alpha = np.append(table, np.full(len(palette) - len(table), 255))[samples] / 255
        png = png_of(samples, colour, depth, interlace, palette=palette, transparency=transparency)
        expected = np.concatenate([expected, alpha], axis=2)
        check(session, png, expected.transpose(2, 0, 1))
        if depth == 8:
            np.testing.assert_allclose(expected.transpose(2, 0, 1), by_pillow(png, expected.shape[2]), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_what_pillow_writes(session: psycopg.Connection, rng: np.random.Generator, mode: str, level: int) -> None:
    steps = rng.integers(0, 9, (24, 30, 4)).cumsum(axis=1).astype(np.uint8)
    if mode == "I;16":
        numbers = (steps[:, :, 0].astype(np.uint16) << 8) + steps[:, :, 1]
        picture, expected = Image.fromarray(numbers), numbers[None] / 65535
    else:
        picture = Image.fromarray(steps).convert("RGB").convert(mode)
        if mode in ("LA", "RGBA"):
            picture = Image.fromarray(steps[:, :, : len(mode)])
        shown = picture.convert({"1": "L", "P": "RGB"}.get(mode, mode))
        expected = np.asarray(shown).reshape(24, 30, -1).transpose(2, 0, 1) / 255
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=level)
    check(session, file.getvalue(), expected)


STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_every_block_of_deflate(
    session: psycopg.Connection, rng: np.random.Generator, strategy: int, level: int
) -> None:
    """Stored, fixed and dynamic blocks, several of them, empty ones between; text, noise, runs and nothing."""
    contents = [
        b"",
        b"a",
        rng.bytes(700),
        bytes(3000),
        b"".join(b"picture %d of %d, " % (number, number * number) for number in range(150)),
        bytes(rng.choice(4, 2000, p=[0.9, 0.05, 0.03, 0.02]).astype(np.uint8)),
        rng.bytes(40) + bytes(33000) + rng.bytes(40),
    ]
    for content in contents:
        compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
        half = len(content) // 2
        stream = compressor.compress(content[:half]) + compressor.flush(zlib.Z_FULL_FLUSH)
        stream += compressor.compress(content[half:]) + compressor.flush(zlib.Z_SYNC_FLUSH) + compressor.flush()
        query = "select sql_diffusion.zlib_decompress(%s, %s)"
        row = session.execute(query, (stream, len(content))).fetchone()
        assert row is not None
        assert row[0] is None if not content else bytes(row[0]) == content


def test_streams_that_zlib_refuses(session: psycopg.Connection, rng: np.random.Generator) -> None:
    """Random bits behind the head of each kind of block: what zlib takes is taken, what it refuses is refused."""
    taken = 0
    for number in range(400):
        first = (number % 3) << 1 | 1
        body = bytes([int(rng.integers(0, 32)) << 3 | first]) + rng.bytes(int(rng.integers(1, 90)))
        if number % 3 == 0:
            body = struct.pack("<BHH", first, len(body), len(body) ^ 65535 ^ int(rng.integers(0, 2))) + body
        decompressor = zlib.decompressobj(-15)
        try:
            content = decompressor.decompress(body)
            whole = decompressor.eof
        except zlib.error:
            content, whole = b"", False
        used = body[: len(body) - len(decompressor.unused_data)] if whole else body
        stream = b"\x78\x9c" + used + struct.pack(">I", zlib.adler32(content))
        query = "select sql_diffusion.zlib_decompress(%s, %s)"
        row = session.execute(query, (stream, len(content))).fetchone()
        assert row is not None
        assert row[0] is None if not (whole and content) else bytes(row[0]) == content, stream.hex()
        taken += whole
    assert taken > 20


def test_what_image_png_writes(session: psycopg.Connection, rng: np.random.Generator) -> None:
    for channels, backend, compression in itertools.product((1, 2, 3, 4), ("sql", "numpy"), (0, 6)):
        levels = rng.integers(0, 256, (channels, 9, 7))
        query = "select image_png(%s::real[], 2, %s, %s)"
        row = session.execute(query, ((levels / 255).tolist(), compression, backend)).fetchone()
        assert row is not None
        check(session, row[0], levels.repeat(2, axis=1).repeat(2, axis=2) / 255)


def outcome(session: psycopg.Connection, png: bytes, backend: str) -> tuple[str, Any]:
    try:
        return "image", read(session, png, backend)
    except psycopg.Error as error:
        return error.sqlstate or "?", error.diag.message_primary


def damaged(png: bytes, rng: np.random.Generator) -> bytes:
    bytes_ = bytearray(png)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(bytes_)))
        match int(rng.integers(0, 5)):
            case 0 | 1:
                bytes_[at] ^= 1 << int(rng.integers(0, 8))
            case 2:
                bytes_[at] = int(rng.integers(0, 256))
            case 3:
                del bytes_[at : at + int(rng.integers(1, 9))]
            case _:
                bytes_[at:at] = rng.bytes(int(rng.integers(1, 9)))
        bytes_ = bytes_ or bytearray(b"\0")
    return bytes(bytes_)


def with_checksums(png: bytes) -> bytes:
    """The same chunks with checksums that fit, so that what is wrong is found further on."""
    out, at = bytearray(png), 8
    while at + 12 <= len(out):
        (size,) = struct.unpack_from(">I", out, at)
        if at + 12 + size > len(out):
            break
        struct.pack_into(">I", out, at + 8 + size, zlib.crc32(bytes(out[at + 4 : at + 8 + size])))
        at += 12 + size
    return bytes(out)


def test_damaged_files(session: psycopg.Connection, rng: np.random.Generator) -> None:
    """The picture or a clear error, the same by both backends, at once; with checksums that fit, anything that both take."""
    refused = 0
    for number in range(DAMAGED):
        colour, depth = KINDS[number % len(KINDS)]
        palette = rng.integers(0, 256, (2**depth, 3)) if colour == 3 else None
        samples = rng.integers(0, 2**depth, (5, 6, SAMPLES[colour]))
        png = png_of(samples, colour, depth, int(rng.integers(0, 2)), palette=palette, pieces=2)
        broken = damaged(png, rng)
        if number % 2:
            broken = with_checksums(broken)
        in_sql, in_numpy = (outcome(session, broken, backend) for backend in ("sql", "numpy"))
        assert in_sql[0] == in_numpy[0], (in_sql, in_numpy, broken.hex())
        if in_sql[0] == "image":
            np.testing.assert_array_equal(in_sql[1], in_numpy[1])
            if not number % 2:
                expected = samples / (2**depth - 1) if palette is None else palette[samples[:, :, 0]] / 255
                np.testing.assert_allclose(in_sql[1], expected.transpose(2, 0, 1), atol=1e-6)
        else:
            refused += 1
            assert in_sql[0] in ("22023", "54000"), (in_sql, broken.hex())
            assert in_sql[1].startswith("image_from_png: png "), in_sql
            assert in_sql == in_numpy, broken.hex()
    assert refused > DAMAGED / 2


GRAY = np.zeros((2, 2, 1), int)
GOOD = png_of(GRAY, 0, 8)
HEAD = GOOD[:33]


def header(*fields: int) -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)) + chunk(b"IEND", b"")


DATA = chunk(b"IDAT", zlib.compress(bytes(6)))
END = chunk(b"IEND", b"")
WRONG = [
    (b"", "22023", "png does not begin with the signature of a PNG"),
    (b"\xff\xd8\xff\xe0" + bytes(60), "22023", "png does not begin with the signature of a PNG"),
    (GOOD[:20], "22023", "png ends after 20 bytes, within its header"),
    (SIGNATURE + chunk(b"IHDR", bytes(12)) + END, "22023", "png does not begin with the chunk IHDR of 13 bytes"),
    (GOOD[:16] + b"\1" + GOOD[17:], "22023", "png is damaged: the checksum of the chunk IHDR at byte 8 does not fit"),
    (header(0, 2, 8, 0, 0, 0, 0), "22023", "png has the width 0 and the height 2, expected 1 to 2147483647"),
    (header(2, 2**31, 8, 0, 0, 0, 0), "22023", "png has the width 2 and the height 2147483648, expected 1 to 2147483647"),
    (header(2, 2, 4, 2, 0, 0, 0), "22023", "png has the colour type 2 with 4 bits a sample, expected 0 with 1, 2, 4, 8 or 16, 3 with 1, 2, 4 or 8, or 2, 4 or 6 with 8 or 16"),
    (header(2, 2, 8, 0, 1, 2, 3), "22023", "png has the methods 1, 2 and 3 of compression, filters and interlacing, expected 0, 0 and 0 or 1"),
    (header(50000, 50000, 1, 0, 0, 0, 0), "54000", "png is a picture of 50000 x 50000 pixels and 1 channels, expected at most 16777216 values"),
    (header(2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 1), "54000", "png is a picture of 2147483647 x 2147483647 pixels and 4 channels, expected at most 16777216 values"),
    (HEAD + b"\0\0\0\0ID\0T" + bytes(4), "22023", "png has no chunk at byte 33, expected a name of four letters"),
    (GOOD[:-20], "22023", "png ends within the chunk IDAT at byte 66"),
    (HEAD + DATA, "22023", "png ends without the chunk IEND"),
    (HEAD + END, "22023", "png has the chunk IEND at byte 33, where none can be"),
    (HEAD + chunk(b"ABCD", b"") + DATA + END, "22023", "png has the chunk ABCD at byte 33, which is not known, and without which a picture cannot be read"),
    (HEAD + chunk(b"PLTE", bytes(3)) + DATA + END, "22023", "png has the chunk PLTE at byte 33, where none can be"),
    (HEAD + DATA + chunk(b"tEXt", b"") + DATA + END, "22023", f"png has the chunk IDAT at byte {45 + len(DATA)}, where none can be"),
    (HEAD + chunk(b"tRNS", b"") + DATA + END, "22023", "png has 0 bytes in the chunk tRNS at byte 33, which it cannot have"),
    (png_of(GRAY, 3, 8), "22023", "png has the chunk IDAT at byte 66, where none can be"),
    (png_of(GRAY, 3, 8, palette=np.zeros(4)), "22023", "png has 4 bytes in the chunk PLTE at byte 66, which it cannot have"),
    (png_of(GRAY + 2, 3, 8, palette=np.zeros(6)), "22023", "png has the colour 2 of its palette, expected at most 1"),
    (png_of(GRAY, 0, 8, data=zlib.compress(bytes(5))), "22023", "png is damaged: its chunks IDAT hold no zlib stream of 6 bytes"),
    (png_of(GRAY, 0, 8, data=zlib.compress(bytes(7))), "22023", "png is damaged: its chunks IDAT hold no zlib stream of 6 bytes"),
    (png_of(GRAY, 0, 8, data=zlib.compress(bytes(6))[:-1] + b"\7"), "22023", "png is damaged: its chunks IDAT hold no zlib stream of 6 bytes"),
    (png_of(GRAY, 0, 8, data=zlib.compress(bytes(6)) + b"more"), "22023", "png is damaged: its chunks IDAT hold no zlib stream of 6 bytes"),
    (png_of(GRAY, 0, 8, data=zlib.compress(b"\0ab\5cd")), "22023", "png has a row with the filter 5, expected 0 to 4"),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(("png", "state", "message"), WRONG)
def test_wrong_files(session: psycopg.Connection, png: bytes, state: str, message: str, backend: str) -> None:
    assert outcome(session, png, backend) == (state, f"image_from_png: {message}")


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_a_stream_that_goes_on(session: psycopg.Connection, backend: str) -> None:
    """A hundred megabytes of zeros in a hundred kilobytes, behind a header that says four pixels."""
    stream = zlib.compress(bytes(100_000_000), 9)
    state, message = outcome(session, png_of(GRAY, 0, 8, data=stream), backend)
    assert (state, message) == (
        "22023",
        "image_from_png: png is damaged: its chunks IDAT hold no zlib stream of 6 bytes",
    )


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_a_large_picture(session: psycopg.Connection, rng: np.random.Generator, backend: str) -> None:
    """More than one block of a stream, and copies from far back."""
    steps = rng.integers(-2, 3, (90, 120, 3)).cumsum(axis=0).cumsum(axis=1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.vstack([steps, steps])).save(file, "PNG")
    expected = np.vstack([steps, steps]).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(read(session, file.getvalue(), backend), expected, atol=1e-6)


def test_null_gives_null(session: psycopg.Connection) -> None:
    assert session.execute("select image_from_png(null), image_from_png(null, 'sql')").fetchall() == [(None, None)]
