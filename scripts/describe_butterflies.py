"""Choose how butterflies look, and say it in English: captions for the model that takes a prompt.

    python scripts/describe_butterflies.py --count 12000 described.npz   # pictures, looks and captions
    python scripts/describe_butterflies.py --grid 6 described.png        # a look at them; the captions are printed

A caption need not say everything, and says it in words and an order of its own. `named_by` tells what it named, so that
a classifier of captions learns what can be known from one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from draw_butterflies import EYES, GROUNDS, WINGS, Look, draw_butterfly, grid_picture

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "orange", "bright orange"),
    "yellow": ("yellow", "yellow", "yellow", "golden", "lemon yellow"),
    "green": ("green", "green", "green", "emerald"),
    "blue": ("blue", "blue", "blue", "azure", "cobalt blue"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose"),
    "white": ("white", "white", "white", "ivory"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "white": ("on white", "on a white background", "on white paper", "on a plain white ground", "white background"),
    "sky": ("in the sky", "against the sky", "on a sky blue background", "in front of a clear sky", "sky background"),
    "leaf": ("on a leaf", "on a green leaf", "on leaf green", "on a green background", "green background"),
    "night": ("at night", "in the night", "on a dark background", "against the night sky", "in the dark"),
}
MARKS: dict[str, tuple[str, ...]] = {
    "band": ("a pale band", "a white band", "pale bands", "a light stripe", "white stripes", "bands"),
    "border": ("a dark border", "black borders", "dark edges", "a black edge", "black-edged wings"),
    "spots": ("white spots", "a row of pale spots", "spotted edges", "spots along the edge", "spots"),
    "tails": ("tails", "long tails", "a tail on each hind wing", "swallowtails"),
}
EYE_WORDS = ("eyespots", "eyespots", "eye spots", "eyes on the wings", "eye-spots", "ocelli")

# the classes of each attribute; 0 is what a caption leaves open
CLASSES: dict[str, tuple[str | bool | None, ...]] = {
    "fore": tuple(WINGS),
    "hind": tuple(WINGS),
    "ground": tuple(GROUNDS),
    "eyes": (None, *EYES),
    "band": (False, True),
    "border": (False, True),
    "spots": (False, True),
    "tails": (False, True),
}


class Described(NamedTuple):
    caption: str
    named: dict[str, str | bool | None]  # what the caption says, by attribute


def choose_look(rng: np.random.Generator) -> Look:
    """A look at random: two in five have hind wings of another colour; spots are on a border."""
    colours = list(WINGS)
    fore = colours[rng.integers(len(colours))]
    hind = colours[rng.integers(len(colours))] if rng.random() < 0.4 else fore
    spots = rng.random() < 0.35
    return Look(
        fore=fore,
        hind=hind,
        ground=list(GROUNDS)[rng.integers(len(GROUNDS))],
        eyes=list(EYES)[rng.integers(len(EYES))] if rng.random() < 0.5 else None,
        band=bool(rng.random() < 0.35),
        border=bool(spots or rng.random() < 0.4),
        spots=bool(spots),
        tails=bool(rng.random() < 0.35),
    )


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def listed(rng: np.random.Generator, parts: Sequence[str]) -> str:
    """a, b and c."""
    if len(parts) < 2:
        return "".join(parts)
    joint = pick(rng, (" and ", " and ", " and ", ", "))
    return ", ".join(parts[:-1]) + joint + parts[-1]


def describe(look: Look, rng: np.random.Generator, share: float = 0.75) -> Described:
    """A caption of a look; it names each mark and the ground with probability `share`, and the colours nearly always."""
    chance = rng.random
    named: dict[str, str | bool | None] = {}
    fore, hind = (pick(rng, SYNONYMS[colour]) for colour in (look.fore, look.hind))
    noun = pick(rng, ("butterfly",) * 6 + ("moth",))
    article = pick(rng, ("a ", "a ", "a ", "", "one ", "the ", "drawing of a ", "a picture of a ", "a small "))
    wings, adjective = "", ""
    if look.fore == look.hind and chance() < 0.95:
        named |= {"fore": look.fore, "hind": look.hind}
        if chance() < 0.7:
            adjective = fore + " "
        else:
            wings = pick(rng, ("{} wings", "{} fore and hind wings", "wings of {}", "all wings {}")).format(fore)
    elif look.fore != look.hind and chance() < 0.95:
        named |= {"fore": look.fore, "hind": look.hind}
        first = pick(rng, ("{} fore wings", "{} forewings", "{} front wings", "{} upper wings", "fore wings of {}"))
        second = pick(rng, ("{} hind wings", "{} hindwings", "{} back wings", "{} lower wings", "hind wings of {}"))
        pair = [first.format(fore), second.format(hind)]
        wings = " and ".join(pair if chance() < 0.75 else pair[::-1])
    marks = []
    if look.eyes and chance() < share:
        named["eyes"] = look.eyes
        marks.append(f"{pick(rng, SYNONYMS[look.eyes][:4])} {pick(rng, EYE_WORDS)}")
    elif not look.eyes and chance() < 0.15:
        named["eyes"] = None
        marks.append(f"no {pick(rng, EYE_WORDS[:3])}")
    for mark, words in MARKS.items():
        if getattr(look, mark) and chance() < share:
            named[mark] = True
            marks.append(pick(rng, words))
    if named.get("spots"):
        named["border"] = True
    rng.shuffle(marks)
    parts = ([wings] if wings else []) + marks
    place = ""
    if chance() < share:
        named["ground"] = look.ground
        place = pick(rng, PLACES[look.ground])
    form = chance()
    if form < 0.2:  # a list of words
        bits = [(adjective + noun).strip(), *parts, *([place] if place else [])]
        if chance() < 0.3:
            rng.shuffle(bits)
        caption = ", ".join(bits)
    else:
        caption = article + adjective + noun
        if parts:
            caption += pick(rng, (" with ", " with ", " with ", ", ", " that has ")) + listed(rng, parts)
        if place:
            caption = f"{place}, {caption}" if chance() < 0.2 else f"{caption}{pick(rng, (' ', ' ', ', '))}{place}"
    caption = caption.replace("a emerald", "an emerald").replace("a azure", "an azure").replace("a orange", "an orange")
    if chance() < 0.2:
        caption = caption[0].upper() + caption[1:] + "."
    return Described(caption, named)


def encode_look(look: Look) -> list[int]:
    """The number of its class for each attribute, from 0."""
    return [CLASSES[name].index(value) for name, value in look._asdict().items()]


def encode_named(named: dict[str, str | bool | None]) -> list[int]:
    """As encode_look, plus one; 0 for what is left open."""
    return [CLASSES[name].index(named[name]) + 1 if name in named else 0 for name in CLASSES]


def decode_look(numbers: Sequence[int]) -> Look:
    return Look(*(classes[number] for classes, number in zip(CLASSES.values(), numbers, strict=True)))  # type: ignore[arg-type]


def draw_described(seed: int, size: int = 128) -> tuple[NDArray[np.uint8], list[int]]:
    """The picture of a seed (size, size, 3), and its look as numbers."""
    look = choose_look(np.random.default_rng([seed, 1]))
    return draw_butterfly(seed, size, look, supersampling=2), encode_look(look)


def main(
    output: Annotated[Path, typer.Argument(help="A .npz file, or a .png file with --grid.")],
    count: Annotated[int, typer.Option(help="How many butterflies.", min=1)] = 12000,
    first_seed: Annotated[int, typer.Option(help="Seed of the first; the others follow it.", min=0)] = 0,
    size: Annotated[int, typer.Option(help="Width and height in pixels.", min=8)] = 128,
    grid: Annotated[int, typer.Option(help="Draw a grid of so many by so many instead.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes that draw.", min=1)] = 1,
) -> None:
    """Draw described butterflies into a NumPy file: pictures (uint8) and looks (the numbers of their classes)."""
    seeds = range(first_seed, first_seed + (grid * grid or count))
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(draw_described, seeds, [size] * len(seeds), chunksize=16))
    pictures = np.stack([picture for picture, _ in drawn])
    looks = np.array([look for _, look in drawn], dtype=np.uint8)
    if grid:
        grid_picture(pictures, grid).save(output)
        for seed, look in zip(seeds, looks, strict=True):
            print(seed, describe(decode_look(look), np.random.default_rng([seed, 2])).caption)
    else:
        np.savez(output, pictures=pictures, looks=looks)


if __name__ == "__main__":
    typer.run(main)
