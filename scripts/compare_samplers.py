"""The bundled butterflies by every sampler at several numbers of steps: a sheet of pictures, and a table of distances.

    scripts/private-cluster python scripts/compare_samplers.py sheet doc/samplers.png
    scripts/private-cluster python scripts/compare_samplers.py table --count 64

Both need the extension sql_diffusion_numpy, and make a database of their own for the time. The table's numbers are Frechet
distances to drawn butterflies (scripts/evaluate_butterflies.py): they depend on the count, so compare only what was made with
the same. The first rows are held-out drawings, and the schedule that the model comes with.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import psycopg
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from psycopg import sql

from draw_butterflies import draw_butterflies
from evaluate_butterflies import HELD_OUT_SEED, embed, fit_space, frechet_distance

STEPS = (4, 8, 15, 30)
KARRAS = '{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}'
SAMPLERS = {
    "ddpm": "ddpm",
    "ddim": "ddim",
    "pndm": "pndm",
    "euler": "euler",
    "euler_ancestral": "euler_ancestral",
    "heun": "heun",
    "lms": "lms",
    "dpmsolver++": "dpmsolver++",
    "dpmsolver++, karras": KARRAS,
    "sde-dpmsolver++": "sde-dpmsolver++",
    "unipc": "unipc",
    "lcm": "lcm",
    "tcd": "tcd",
}
SIZE = 64
MARGIN = 130  # of the sheet, for names

app = typer.Typer(help=__doc__)


@contextmanager
def database() -> Iterator[psycopg.Connection]:
    """A new database with both extensions, dropped at the end."""
    name = sql.Identifier(f"compare_samplers_{secrets.token_hex(4)}")
    with psycopg.connect(autocommit=True) as server:
        server.execute(sql.SQL("create database {}").format(name))
        try:
            with psycopg.connect(dbname=name.as_string(server).strip('"'), autocommit=True) as own:
                own.execute("set client_min_messages to warning")
                own.execute("create extension sql_diffusion_numpy cascade")
                own.execute("set sql_diffusion.progress to off")
                own.execute("set sql_diffusion.threads to 1")
                yield own
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(name))


def pictures(
    connection: psycopg.Connection, seeds: Sequence[int], sampler: str | None = None, steps: int | None = None
) -> NDArray[np.uint8]:
    """(N, height, width, 3), one a seed."""
    rows = connection.execute(
        "select image_png(g.image, compression => 1) from ddpm_generate(%s::bigint[], null, %s, null, %s) g",
        [list(seeds), steps, sampler],
    ).fetchall()
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for (png,) in rows])


def passes(connection: psycopg.Connection, sampler: str | None = None, steps: int | None = None) -> int:
    """How often the network is asked."""
    row = connection.execute(
        "select count(*) from sql_diffusion.generation_schedule('butterflies', %s, null, %s)", [steps, sampler]
    ).fetchone()
    assert row is not None
    return int(row[0])


@app.command()
def sheet(output: Path, seed: int = 42) -> None:
    """Write a PNG: a row a sampler, a column a number of steps, each picture with its passes of the network below."""
    cell = SIZE + 12
    image = Image.new("RGB", (MARGIN + cell * len(STEPS), 14 + cell * len(SAMPLERS)), "white")
    pen = ImageDraw.Draw(image)
    for column, steps in enumerate(STEPS):
        pen.text((MARGIN + column * cell + SIZE // 2, 1), f"{steps} steps", "black", anchor="ma")
    with database() as connection:
        for row, (name, sampler) in enumerate(SAMPLERS.items()):
            top = 14 + row * cell
            pen.text((MARGIN - 8, top + SIZE // 2), name, "black", anchor="rm")
            for column, steps in enumerate(STEPS):
                [made] = pictures(connection, [seed], sampler, steps)
                image.paste(Image.fromarray(made), (MARGIN + column * cell, top))
                count = str(passes(connection, sampler, steps))
                pen.text((MARGIN + column * cell + SIZE // 2, top + SIZE), count, "grey", anchor="ma")
    image.quantize(128).save(output, optimize=True)


@app.command()
def table(
    count: Annotated[int, typer.Option(help="Pictures a cell.", min=2)] = 64,
    drawn: Annotated[int, typer.Option(help="Drawings to compare with.", min=2)] = 2000,
    sampler: Annotated[list[str], typer.Option(help="Only this row; may be given many times.")] = [],  # noqa: B006 typer copies it
) -> None:
    """Print a Markdown table: the Frechet distance of each sampler's pictures, and in brackets the passes of the network."""
    real = draw_butterflies(drawn)
    space = fit_space(real)
    features = embed(space, real)

    def distance(made: NDArray[np.uint8]) -> str:
        return f"{frechet_distance(features, embed(space, made)):.1f}"

    seeds = range(count)
    typer.echo("| sampler | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |")
    typer.echo("| --- |" + " ---: |" * len(STEPS))
    with database() as connection:
        typer.echo(f"held-out drawings: {distance(draw_butterflies(count, HELD_OUT_SEED))}", err=True)
        own = distance(pictures(connection, seeds))
        typer.echo(f"the model's own schedule: {own} ({passes(connection)})", err=True)
        for name in sampler or SAMPLERS:
            cells = [
                f"{distance(pictures(connection, seeds, SAMPLERS[name], steps))} ({passes(connection, SAMPLERS[name], steps)})"
                for steps in STEPS
            ]
            typer.echo(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    app()
