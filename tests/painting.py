"""What is to be painted by others than who asks: a database with models, a table of wanted pictures, and what became of it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from PIL import Image

from databases import new_database
from reference import insert_model, random_unet
from text_pipelines import insert_pipeline

QUERY = "select id, seed from wanted where picture is null order by id"
UPDATE = "update wanted set picture = %(png)s, painted = painted + 1 where id = %(id)s"
SLOW = 30  # steps, so that there is a middle


@contextmanager
def new_painters(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[str]:
    """A database with a model of prompts, words, one of classes, and a plain one, which is the one that is used where none is named."""
    with new_database("sql_diffusion_numpy") as name, psycopg.connect(dbname=name, autocommit=True) as own:
        rng = np.random.default_rng(5)
        insert_pipeline(own, "words", pipelines["1"], folders)
        insert_model(own, "classes", random_unet(rng, num_class_embeds=5))
        insert_model(own, "plain", random_unet(rng))
        yield name


def make_wanted(own: psycopg.Connection) -> None:
    """A new table of wanted pictures, and none in it."""
    own.execute("drop table if exists wanted")
    own.execute(
        "create table wanted (id int primary key, seed bigint, prompt text, negative_prompt text, class_label int, model text, "
        "notes jsonb, picture bytea, painter int, painted int not null default 0)"
    )


def want(own: psycopg.Connection, count: int, rng: np.random.Generator) -> None:
    """So many rows with a seed each."""
    first = int(rng.integers(2**40))
    own.execute("insert into wanted (id, seed) select i, %s::bigint + i from generate_series(1, %s) i", [first, count])


def different(own: psycopg.Connection, call: str) -> list[Any]:
    """The rows that were not painted exactly once, or whose picture is more than a grey level off what the verb paints alone."""
    rows = own.execute(f"select id, painted, picture, image_png({call}) from wanted order by id".encode()).fetchall()
    return [(key, painted) for key, painted, ours, alone in rows if painted != 1 or grey_levels(ours, alone) > 1]


def grey_levels(one: bytes, other: bytes) -> int:
    """How far two PNGs are apart."""
    pixels = [np.asarray(Image.open(io.BytesIO(png)), int) for png in (one, other)]
    return int(np.abs(pixels[0] - pixels[1]).max())


def plain(steps: int) -> str:
    return f"ddpm_generate(seed, model => 'plain', num_inference_steps => {steps})"


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that has to come."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def count(own: psycopg.Connection, condition: str) -> int:
    row = own.execute(f"select count(*) from wanted where {condition}".encode()).fetchone()
    assert row is not None
    return int(row[0])
