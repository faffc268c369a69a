"""Generates pictures step by step, as ddpm_steps gives them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from psycopg import sql

from .database import Connection, extension_schema, function
from .errors import MODEL, Problem
from .models import settings
from .tensors import Float32Array

# What a diffusers pipeline does when it is not told.
PIPELINE_STEPS = {"DDPMPipeline": 1000, "DDIMPipeline": 50}


class Step(NamedTuple):
    """One step of the sampler, done."""

    step: int
    timestep: int
    sample: Float32Array  # (channels, height, width), -1..1 when it is finished


class Settings(NamedTuple):
    """What ddpm_generate and ddpm_steps take besides the seed; None leaves it to the model."""

    model: str | None = None
    num_inference_steps: int | None = None
    timesteps: list[int] | None = None
    scheduler: str | None = None
    eta: float | None = None
    backend: str | None = None


def model_name(connection: Connection, model: str | None) -> str:
    """The model that is meant where none is named: the setting sql_diffusion.model, else the bundled one."""
    if model is not None:
        return model
    row = connection.execute(
        "select coalesce(nullif(pg_catalog.current_setting('sql_diffusion.model', true), ''), "
        "(select m.name from sql_diffusion.models m where m.bundled order by m.name limit 1))"
    ).fetchone()
    if row is None or row[0] is None:
        raise Problem("no model was named and none is bundled", "Give --model NAME: sql-diffusion list", MODEL)
    return str(row[0])


def step_count(connection: Connection, request: Settings) -> int:
    """How many steps a picture takes: what was asked for, else the model's default."""
    if request.timesteps:
        return len(request.timesteps)
    if request.num_inference_steps:
        return request.num_inference_steps
    name = model_name(connection, request.model)
    defaults = settings(connection, name)["defaults"]
    if defaults.get("timesteps"):
        return len(defaults["timesteps"])
    if defaults.get("num_inference_steps"):
        return int(defaults["num_inference_steps"])
    row = connection.execute("select m.pipeline from sql_diffusion.models m where m.name = %s", [name]).fetchone()
    ddim = request.scheduler == "ddim" or (request.scheduler is None and row and row[0] == "DDIMPipeline")
    return PIPELINE_STEPS["DDIMPipeline" if ddim else "DDPMPipeline"]


def steps(connection: Connection, seed: int, request: Settings) -> Iterator[Step]:
    """The steps of one picture, each as soon as the server has done it; the last one's sample is the picture."""
    arguments = {"seed": seed, **{key: value for key, value in request._asdict().items() if value is not None}}
    types = {"seed": "bigint", "timesteps": "int[]", "num_inference_steps": "int", "eta": "real"}
    # In the select list the function's rows come one by one; in FROM the server would gather them all first.
    query = sql.SQL(
        "select (s.row).step, (s.row).timestep, (s.row).sample from (select {function}({arguments}) as row) s"
    ).format(
        function=function(extension_schema(connection), "ddpm_steps"),
        arguments=sql.SQL(", ").join(
            sql.SQL("{} => {}::{}").format(sql.Identifier(key), sql.Literal(value), sql.SQL(types.get(key, "text")))
            for key, value in arguments.items()
        ),
    )
    with connection.transaction(), connection.cursor("steps") as cursor:
        cursor.itersize = 1
        cursor.execute(query, binary=True)
        for row in cursor:
            yield Step(*row)


def ansi_lines(connection: Connection, sample: Float32Array, scale: int = 1) -> list[str]:
    """The picture in the colours of the terminal, by the extension's own image_ansi."""
    query: Any = sql.SQL("select {}(image => %b, scale => %s)").format(
        function(extension_schema(connection), "image_ansi")
    )
    image = (sample / 2 + 0.5).clip(0, 1)  # (channels, height, width), 0..1
    return [row[0] for row in connection.execute(query, [image, scale]).fetchall()]
