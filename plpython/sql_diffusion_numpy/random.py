"""Random numbers: the stream of torch's generator on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .errors import fail


class Generator(NamedTuple):
    """torch.Generator: the 624 words of MT19937, the next word to be read (1 .. 625), a normal left over."""

    words: Any
    position: int
    next_normal: float | None


def manual_seed(seed: int) -> Generator:
    """At the start of the stream of this seed; MT19937 takes its lower 32 bits."""
    words = np.empty(624, np.uint64)
    word = seed & 0xFFFFFFFF
    for k in range(624):  # init_genrand
        words[k] = word
        word = (1812433253 * (word ^ (word >> 30)) + k + 1) & 0xFFFFFFFF
    return Generator(words, 625, None)


def check_generator(generator: Any) -> Generator:
    """A generator of what PostgreSQL passes, a dictionary."""
    words, position, next_normal = generator["words"], generator["position"], generator["next_normal"]
    if (
        position is None
        or not 1 <= position <= 625
        or words is None
        or len(words) != 624
        or not all(isinstance(word, int) and 0 <= word <= 0xFFFFFFFF for word in words)
        or (next_normal is not None and not np.isfinite(next_normal))
    ):
        fail(
            "randn: generator is not the state of a generator",
            "Take what sql_diffusion.manual_seed(seed) or an earlier call of randn gave back.",
        )
    return Generator(words, position, next_normal)


def random_words(generator: Generator, count: int) -> tuple[np.ndarray, Generator]:
    """The next count words of 32 bits."""
    mersenne = np.random.MT19937()
    key = np.asarray(generator.words, np.uint32)
    mersenne.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": generator.position - 1}}
    words = np.asarray(mersenne.random_raw(count), np.uint64)
    state: Any = mersenne.state
    return words, Generator(state["state"]["key"], int(state["state"]["pos"]) + 1, generator.next_normal)


def _blocks(words: np.ndarray) -> np.ndarray:
    """(..., 16) words -> (..., 16) normals, by Box and Muller: eight cosines, then eight sines."""
    uniform = (words & np.uint64(0xFFFFFF)).astype(np.float64) / 16777216
    radius = np.sqrt(-2 * np.log(1 - uniform[..., :8]).astype(np.float32))
    # The angle is rounded before its cosine is taken, as torch does it.
    angle = (np.float32(6.2831855) * uniform[..., 8:].astype(np.float32)).astype(np.float64)
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    return np.concatenate([radius * cosine, radius * sine], axis=-1)


def _pairs(words: np.ndarray) -> np.ndarray:
    """4 words a pair -> 2 normals a pair; the first two words give the angle by 53 bits, the last two the radius."""
    first, second, third, fourth = words.reshape(-1, 4).T
    angle = 2 * np.pi * (((first & np.uint64(0x1FFFFF)) << np.uint64(32)) + second) / 2.0**53
    radius = np.sqrt(-2 * np.log(1 - (((third & np.uint64(0x1FFFFF)) << np.uint64(32)) + fourth) / 2.0**53))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def randn(generator: Generator, shape: list[int]) -> tuple[np.ndarray, Generator]:
    """Standard normal numbers as torch.randn draws them in float32, and the generator after them."""
    count = int(np.prod(shape, dtype=np.float64))
    if count > 67108864:
        fail(f"randn: shape is {'{' + ','.join(map(str, shape)) + '}'}, expected at most 67108864 elements")
    if count < 16:
        left = [] if generator.next_normal is None else [generator.next_normal]
        pairs = (count + 1 - len(left)) // 2
        words, after = random_words(generator, 4 * pairs)
        normals = np.concatenate([left, _pairs(words)])
        rest = float(normals[count]) if len(normals) > count else None
        return normals[:count].astype(np.float32).reshape(shape), after._replace(next_normal=rest)
    tail = 16 if count % 16 else 0  # the last 16 values are then drawn again, from words of their own
    words, after = random_words(generator, count + tail)
    whole = count - count % 16
    normals = np.empty(count, np.float32)
    normals[:whole] = _blocks(words[:whole].reshape(-1, 16)).ravel()
    if tail:
        normals[-16:] = _blocks(words[-16:])
    return normals.reshape(shape), after
