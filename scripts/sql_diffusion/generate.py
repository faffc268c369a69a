"""Generates pictures step by step, as ddpm_steps gives them, of a prompt text_to_image_steps, or redraw_steps where they
begin with a picture."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import numpy as np
from psycopg import sql

from . import __version__
from .database import Connection, backend_schema, extension_schema, function
from .errors import MODEL, USAGE, Problem
from .tensors import Float32Array


class Step(NamedTuple):
    """One step of the sampler, done."""

    step: int
    timestep: float
    sample: Float32Array  # (channels, height, width), -1..1 when it is finished; of a prompt a latent


class Drawn(NamedTuple):
    """One picture, and how it came about."""

    timesteps: list[float]  # all that were visited
    samples: list[Float32Array]  # the pictures of the steps that were to be kept, -1..1


class Settings(NamedTuple):
    """What the functions of steps take besides the seed, image and mask; None leaves it to the model."""

    model: str
    num_inference_steps: int | None = None
    timesteps: list[int] | None = None
    scheduler: str | None = None
    eta: float | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    strength: float | None = None
    noise_level: int | None = None
    class_label: int | None = None


class Pictures(NamedTuple):
    """What a picture begins with."""

    task: str  # image_to_image, inpaint or upscale
    image: Float32Array  # (channels, height, width), 0..1
    mask: Float32Array | None


UPSCALING = ("StableDiffusionUpscalePipeline", "LDMSuperResolutionPipeline")
SCHEDULE = ("model", "num_inference_steps", "timesteps", "scheduler", "eta", "strength")


def model_name(connection: Connection, model: str | None, has_prompt: bool = False) -> str:
    """The model that is meant where none is named: the setting sql_diffusion.model, else a bundled one, which takes a prompt
    where there is one."""
    default = "default_text_model" if has_prompt else "default_model"
    row: Any = connection.execute(f"select coalesce(%s, sql_diffusion.{default}())", [model]).fetchone()
    if row[0] is None:
        raise Problem("no model was named and none is bundled", "Give --model NAME: sql-diffusion list", MODEL)
    return str(row[0])


def task_of(connection: Connection, model: str, has_mask: bool) -> str:
    """What a model does with a picture."""
    row: Any = connection.execute("select pipeline from sql_diffusion.models where name = %s", [model]).fetchone()
    if row is not None and row[0] in UPSCALING:
        return "upscale"
    return "inpaint" if has_mask else "image_to_image"


def takes_prompt(connection: Connection, model: str) -> bool | None:
    """Whether a model is told in words what to draw; None where there is none of that name."""
    row = connection.execute(
        """select exists (select from sql_diffusion.plan(m.name) p where p.operation = 'input' and p.key = 'encoder_hidden_states')
           from sql_diffusion.models m
           where m.name = %s""",
        [model],
    ).fetchone()
    return None if row is None else bool(row[0])


def check_prompt(connection: Connection, model: str, prompt: str | None) -> None:
    """A model that takes a prompt has to be given one, and another not. One that does not exist the server refuses."""
    takes = takes_prompt(connection, model)
    if takes and prompt is None:
        raise Problem(f'model "{model}" takes a prompt', "Give one: --prompt TEXT", USAGE)
    if takes is False and prompt is not None:
        raise Problem(
            f'model "{model}" takes no prompt', "Leave --prompt out, or name a model: sql-diffusion list", USAGE
        )


def is_grey(connection: Connection, model: str) -> bool:
    """Whether a model's pictures have one channel."""
    row: Any = connection.execute(
        """select 1 = coalesce((select p.in_channels
                                from sql_diffusion.decoder(%(model)s) d, sql_diffusion.plan(%(model)s, d.component) p
                                where p.operation = 'input' and p.key = 'image'),
                               (sql_diffusion.network_config(sql_diffusion.component_config(%(model)s)) ->> 'out_channels')::int)""",
        {"model": model},
    ).fetchone()
    return bool(row[0])


def with_strength(connection: Connection, request: Settings, pictures: Pictures) -> Settings:
    """The request with the strength, where the task has one, and the guidance that it comes to. The server refuses pictures
    that it cannot take."""
    shapes = [list(pictures.image.shape), None if pictures.mask is None else list(pictures.mask.shape)]
    row: Any = connection.execute(
        "select (s).strength, (s).guidance_scale from sql_diffusion.redraw_settings(%s, %s::int[], %s::int[], %s, %s::real, %s::real, %s) s",
        [pictures.task, *shapes, request.model, request.strength, request.guidance_scale, request.noise_level],
    ).fetchone()
    strength, guidance_scale = row
    return request._replace(strength=None if pictures.task == "upscale" else strength, guidance_scale=guidance_scale)


def step_count(connection: Connection, request: Settings) -> int:
    """How many steps a picture takes. The server refuses settings that cannot be, before anything is generated."""
    query = sql.SQL("select count(*) from sql_diffusion.generation_schedule({})").format(arguments(request, SCHEDULE))
    row: Any = connection.execute(query).fetchone()
    return int(row[0])


def steps(
    connection: Connection, seed: int, backend: str | None, request: Settings, pictures: Pictures | None = None
) -> Generator[Step]:
    """The steps of one picture, each as soon as the server has done it; the last one's sample is the picture."""
    # In the select list the function's rows come one by one; in FROM the server would gather them all first. For the
    # same reason the backend's own function is called, and not the verb that chooses between the two.
    name = "ddpm_steps" if request.prompt is None else "text_to_image_steps"
    rest: sql.Composable = arguments(request)
    begun: sql.Composable = sql.SQL("")
    values: list[Any] | None = None
    if pictures is not None:
        # What is left to a default has to be said where it stands before the seed. Literals are not to look like placeholders.
        name, values = "redraw_steps", [pictures.image, pictures.mask]
        prompt = sql.SQL("prompt => null, " if request.prompt is None else "")
        begun = sql.SQL("task => {}, image => %b, mask => %b, {}").format(sql.Literal(pictures.task), prompt)
        rest = sql.SQL(rest.as_string(connection).replace("%", "%%"))
    query = sql.SQL(
        "select (s.row).step, (s.row).timestep, (s.row).sample "
        "from (select {function}({begun}seed => {seed}, {rest}) as row) s"
    ).format(
        function=function(backend_schema(connection, backend), name),
        begun=begun,
        seed=sql.Literal(seed),
        rest=rest,
    )
    with connection.transaction(), connection.cursor("steps") as cursor:
        cursor.itersize = 1
        cursor.execute(query, values, binary=True)
        for row in cursor:
            yield Step(*row)


def draw(
    connection: Connection,
    seed: int,
    backend: str | None,
    request: Settings,
    keep: list[int],
    advance: Callable[[], None],
    pictures: Pictures | None = None,
) -> Drawn:
    """Draws one picture; of its steps, numbered from 0, those to keep are kept. advance is told of each."""
    drawn = Drawn([], [])
    for number, step in enumerate(steps(connection, seed, backend, request, pictures)):
        drawn.timesteps.append(step.timestep)
        if number in keep:
            drawn.samples.append(step.sample)
        advance()
    if not has_autoencoder(connection, request.model):
        return drawn
    return drawn._replace(samples=[decode(connection, latent, backend, request.model) for latent in drawn.samples])


def has_autoencoder(connection: Connection, model: str) -> bool:
    """Whether what a model's diffusion makes are latents."""
    row: Any = connection.execute(
        "select exists (select from sql_diffusion.components c where c.model = %s and c.component in ('vae', 'vqvae'))",
        [model],
    ).fetchone()
    return bool(row[0])


def decode(connection: Connection, latent: Float32Array, backend: str | None, model: str) -> Float32Array:
    """The picture (channels, height, width), -1..1, that a model's autoencoder makes of a latent of its diffusion."""
    query: Any = sql.SQL("select {}(%b, %s)").format(function(backend_schema(connection, backend), "finished_image"))
    with connection.cursor(binary=True) as cursor:
        row: Any = cursor.execute(query, [latent, model]).fetchone()
    return 2 * np.asarray(row[0], np.float32) - 1


def description(connection: Connection, request: Settings, drawn: Drawn) -> dict[str, str]:
    """What made the picture, besides its seed: enough to make it again after the model's defaults have changed."""
    row: Any = connection.execute(
        "select coalesce(%s, sql_diffusion.scheduler_name(coalesce(m.defaults ->> 'scheduler', m.scheduler ->> '_class_name'))), "
        "m.sha256 from sql_diffusion.models m where m.name = %s",
        [request.scheduler, request.model],
    ).fetchone()
    scheduler, sha256 = row
    _, height, width = drawn.samples[-1].shape
    guidance_scale, negative_prompt = request.guidance_scale, request.negative_prompt
    if request.prompt is not None:
        told: Any = connection.execute(
            "select (s).guidance_scale, (s).negative_prompt from sql_diffusion.text_to_image_settings(%s, %s, %s, %s::real, null, null, 0, null) s",
            [request.prompt, request.model, negative_prompt, guidance_scale],
        ).fetchone()
        guidance_scale, negative_prompt = told
    text = {
        "Software": f"sql_diffusion {__version__}",
        "model": request.model,
        "sha256": sha256,
        "scheduler": scheduler,
        "num_inference_steps": str(len(drawn.timesteps)),
        "timesteps": ",".join(f"{timestep:g}" for timestep in drawn.timesteps),
        "eta": None if request.eta is None else f"{request.eta:g}",
        "prompt": request.prompt,
        "negative_prompt": negative_prompt,
        "guidance_scale": None if guidance_scale is None else f"{guidance_scale:g}",
        "class_label": None if request.class_label is None else str(request.class_label),
        "height": str(height),
        "width": str(width),
        "strength": None if request.strength is None else f"{request.strength:g}",
        "noise_level": None if request.noise_level is None else str(request.noise_level),
    }
    return {key: value for key, value in text.items() if value is not None}


def arguments(request: Settings, names: tuple[str, ...] = Settings._fields) -> sql.Composed:
    """model => 'butterflies', num_inference_steps => 50: what was given of these, by name."""
    return sql.SQL(", ").join(
        sql.SQL("{} => {}" + "::real" * isinstance(value, float)).format(sql.Identifier(key), sql.Literal(value))
        for key, value in request._asdict().items()
        if value is not None and key in names
    )


def ansi_lines(connection: Connection, sample: Float32Array, scale: int = 1) -> list[str]:
    """The picture in the colours of the terminal, by the extension's own image_ansi."""
    query: Any = sql.SQL("select {}(image => %b, scale => %s)").format(
        function(extension_schema(connection), "image_ansi")
    )
    image = (sample / 2 + 0.5).clip(0, 1)  # (channels, height, width), 0..1
    return [row[0] for row in connection.execute(query, [image, scale]).fetchall()]
