"""Pipelines: from seeds, prompts and pictures to pictures."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import memory, network, parameters, pipeline, schedulers, session, tokenizer
from .. import redraw as redrawing
from ..boundary import boundary, check_all_values
from ..errors import fail
from ..layers import layer_norm as token_normalisation
from ..layers.modules import Network
from ..tensors import tensor
from .networks import check_memory
from .pictures import picture_array

_SCHEDULE = "select (s).* from sql_diffusion.generation_schedule($1, $2, $3, $4, $5, $6) s"
_SCHEDULER = (
    "select row(m.pipeline, m.scheduler, m.defaults)::text as settings from sql_diffusion.models m where m.name = $1"
)


def _generation_schedule(
    plpy: Any,
    model: str | None,
    steps: int | None,
    timesteps: Any,
    scheduler: str | None,
    eta: float | None,
    strength: float = 1,
) -> list[schedulers.ScheduleStep]:
    """The schedule of a generation."""
    [row] = session.query(plpy, _SCHEDULER, ["text"], [model])
    return _kept_schedule(plpy, row["settings"], model, steps, json.dumps(timesteps), scheduler, eta, strength)


@functools.lru_cache(maxsize=16)
def _kept_schedule(
    plpy: Any,
    settings: str,
    model: str | None,
    steps: int | None,
    timesteps: str,
    scheduler: str | None,
    eta: float | None,
    strength: float,
) -> list[schedulers.ScheduleStep]:
    """It is kept, since SQL takes some milliseconds for it.

    settings are the model's, so that a change of them makes another; timesteps are in JSON.
    """
    types = ["text", "int", "int[]", "text", "real", "double precision"]
    rows = session.query(plpy, _SCHEDULE, types, [model, steps, json.loads(timesteps), scheduler, eta, strength])
    return [schedulers.ScheduleStep(*(row[field] for field in schedulers.ScheduleStep._fields)) for row in rows]


def _pictures_at_once(unet: Network, shape: list[int], guided: bool) -> int:
    """Of a batch, so that its memory stays bounded: 16 of 64 x 64, fewer of a network that takes much for each."""
    channels = next(row.in_channels for row in unet.plan if row.operation == "input" and row.key == "sample")
    working, parameters_size = check_memory(unet, {"sample": (2 if guided else 1, channels, *shape[1:])})
    by_bytes = memory.room_for(parameters_size) // working
    return max(1, min(16 * 64 * 64 // (shape[1] * shape[2]), by_bytes))


_DECODER = "select d.component, d.scaling_factor from sql_diffusion.decoder($1) d"


def _batches(
    plpy: Any,
    model: str | None,
    unet: Network,
    schedule: list[schedulers.ScheduleStep],
    seeds: list[int],
    shape: list[int],
    begin: Callable[[list[int]], pipeline.Beginning],
    condition: Callable[[slice], pipeline.Condition] = lambda batch: pipeline.NOTHING,
    guided: bool = False,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures of a latent shape, as many at once as fit, after a look whether one does: -> place of the first of a batch, the step, whether it is the
    last, samples and guesses of the finished ones."""
    progress = session.progress_of(plpy, session.begin(plpy))
    decoder = session.query(plpy, _DECODER, ["text"], [model])
    if decoder:
        autoencoder = parameters.get_model(plpy, model, decoder[0]["component"]).network
        check_memory(autoencoder, {"latent": (1, *shape)})
    many = _pictures_at_once(unet, shape, guided)
    for first in range(0, len(seeds), many):
        batch = seeds[first : first + many]
        which = "" if len(seeds) == 1 else f", pictures {first + 1} to {first + len(batch)} of {len(seeds)}"

        def between(step: schedulers.ScheduleStep, which: str = which) -> None:
            session.cancel_point(plpy)
            progress(f"step {step.step} of {len(schedule)}{which}")

        told = condition(slice(first, first + many))
        for step, sample, original in pipeline.sample_steps(unet, schedule, begin(batch), between, told):
            yield first, step, step.step == len(schedule), sample, original
    memory.give_back()


def _finish_images(plpy: Any, samples: np.ndarray, model: str | None) -> np.ndarray:
    """The pictures of finished samples (batch, ...), as sql_diffusion.finished_image makes them, one after the other."""
    rows = session.query(plpy, _DECODER, ["text"], [model])
    if not rows:
        return pipeline.denormalize(samples)
    memory.give_back()  # the U-Net's
    between = functools.partial(session.cancel_point, plpy)
    autoencoder = parameters.get_model(plpy, model, rows[0]["component"]).network
    latents = schedulers.scaled(samples, 1 / rows[0]["scaling_factor"])
    decoded = [network.run(autoencoder, {"latent": latent[None]}, between)["sample"][0] for latent in latents]
    return pipeline.denormalize(np.array(decoded))


def _sample(
    plpy: Any,
    seeds: list[int],
    model: str | None,
    steps: int | None,
    timesteps: Any,
    scheduler: str | None,
    eta: float | None,
    class_label: int | None,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures without a prompt, as _batches gives them."""
    if not seeds:
        return
    session.begin(plpy)
    unet, shape, _ = parameters.get_model(plpy, model)
    # What SQL refuses is seen here without a query.
    taken = [row.key for row in unet.plan if row.operation == "input"]
    given = unet.plan[-1].out_channels
    if given < shape[0]:
        session.query(plpy, "select sql_diffusion.check_begins_with_noise($1)", ["text"], [model])
    if "encoder_hidden_states" in taken or given not in (shape[0], 2 * shape[0]):
        session.query(plpy, "select sql_diffusion.check_unconditional($1)", ["text"], [model])
    if "class_labels" in taken or class_label is not None:
        session.query(plpy, "select sql_diffusion.check_class_label($1, $2)", ["text", "int"], [model, class_label])
    schedule = _generation_schedule(plpy, model, steps, timesteps, scheduler, eta)

    def condition(batch: slice) -> pipeline.Condition:
        labels = np.full((len(seeds[batch]), 1), class_label or 0, np.float32)
        return pipeline.NOTHING if class_label is None else pipeline.Condition({"class_labels": labels})

    yield from _batches(
        plpy,
        model,
        unet,
        schedule,
        seeds,
        shape,
        lambda batch: pipeline.begin_with_noise(batch, shape, schedule[0]),
        condition,
    )


@boundary
def ddpm_steps(
    plpy: Any, seed: int | None, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Iterator[Any]:  # fmt: skip
    if seed is None:
        fail("seed is null, expected an integer")
    for _, step, _, sample, original in _sample(plpy, [seed], model, steps, timesteps, scheduler, eta, class_label):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def ddpm_generate(
    plpy: Any, seed: int | None, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Any:  # fmt: skip
    if seed is None:
        fail("seed is null, expected an integer")
    picture = None
    for _, _, last, sample, _ in _sample(plpy, [seed], model, steps, timesteps, scheduler, eta, class_label):
        if last:
            picture = _finish_images(plpy, sample, model)[0]
    return picture


@boundary
def ddpm_generate_many(
    plpy: Any, seeds: Any, model: str | None, steps: int | None, timesteps: Any, scheduler: str | None,
    eta: float | None, class_label: int | None,
) -> Iterator[Any]:  # fmt: skip
    flat = np.array([] if seeds is None else seeds, dtype=object).ravel().tolist()
    if None in flat:
        fail("seed is null, expected an integer")
    # All are made before the first row goes out; as arrays they take little.
    yield from [
        (flat[number], picture)
        for first, _, last, sample, _ in _sample(plpy, flat, model, steps, timesteps, scheduler, eta, class_label)
        if last
        for number, picture in enumerate(_finish_images(plpy, sample, model), first)
    ]


_TEXT_SETTINGS = "select (s).* from sql_diffusion.text_to_image_settings($1, $2, $3, $4, $5, $6, $7, $8) s"
_TEXT_TYPES = ["text", "text", "text", "real", "int", "int", "real", "int"]


class TextArguments(NamedTuple):
    """The arguments of text_to_image behind prompt and seed, in their order."""

    model: str | None
    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    height: int | None
    width: int | None
    scheduler: str | None
    timesteps: Any
    eta: float | None
    guidance_rescale: float | None
    clip_skip: int | None


def _encode_prompt(
    plpy: Any, prompt: str, model: str, settings: Any, skipped: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Hidden states (1, tokens, features) and pooled vector (1, features) or None, as sql_diffusion.encode_prompt."""
    hidden, pooled = [], None
    between = functools.partial(session.cancel_point, plpy)
    for component in settings["encoders"]:
        words = tokenizer.get_tokenizer(plpy, model, component.replace("text_encoder", "tokenizer"))
        ids = np.array(tokenizer.tokenize(plpy, prompt, words, True, True), np.float32)
        encoder = parameters.get_model(plpy, model, component).network
        check_memory(encoder, {"input_ids": (1, len(ids), 1)})
        outputs = network.run(encoder, {"input_ids": ids[None, :, None]}, between)
        layers = sum(name.startswith("hidden_states.") for name in outputs) - 1
        states = outputs[f"hidden_states.{layers - skipped}"]
        if settings["final_norm"] and skipped == 0:
            states = outputs["last_hidden_state"]
        elif settings["final_norm"]:
            norm = "text_model.final_layer_norm"
            eps = next(row.settings["eps"] for row in encoder.plan if row.key == norm)
            weight, bias = encoder.arrays[f"{norm}.weight"], encoder.arrays[f"{norm}.bias"]
            states = token_normalisation.layer_norm_tokens(states, weight, bias, eps)
        hidden.append(states)
        pooled = outputs.get("text_embeds", pooled)
    return np.concatenate(hidden, axis=2), pooled


def _prompt_inputs(told: tuple[np.ndarray, np.ndarray | None], settings: Any) -> dict[str, np.ndarray]:
    hidden, pooled = told
    inputs = {"encoder_hidden_states": hidden}
    if settings["time_ids"] is not None and pooled is not None:
        inputs["text_embeds"], inputs["time_ids"] = pooled, np.array([settings["time_ids"]], np.float32)
    if settings["timestep_cond"] is not None:
        inputs["timestep_cond"] = np.array([settings["timestep_cond"]], np.float32)
    return inputs


def _text_settings(plpy: Any, prompt: str | None, arguments: TextArguments) -> Any:
    """The row of sql_diffusion.text_to_image_settings."""
    values = [
        prompt, arguments.model, arguments.negative_prompt, arguments.guidance_scale, arguments.height, arguments.width,
        arguments.guidance_rescale, arguments.clip_skip,
    ]  # fmt: skip
    return session.query(plpy, _TEXT_SETTINGS, _TEXT_TYPES, values)[0]


def _conditions(
    plpy: Any, prompts: list[str], model: str, settings: Any, guidance_rescale: float, label: int | None = None
) -> Callable[[slice], pipeline.Condition]:
    """What makes the condition of some of the prompts, as sql_diffusion.prompt_conditions: when it is asked first, it
    encodes all of them. label is the number of a class that goes with all of them."""

    def inputs(prompt: str, skipped: int) -> dict[str, np.ndarray]:
        told = _prompt_inputs(_encode_prompt(plpy, prompt, model, settings, skipped), settings)
        return told if label is None else {**told, "class_labels": np.array([[label]], np.float32)}

    @functools.cache
    def encoded() -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray] | None]:
        positive = [inputs(prompt, settings["layers_skipped"]) for prompt in prompts]
        negative = None
        if settings["guided"] and settings["negative_prompt"] is None:
            negative = {name: np.zeros_like(value) for name, value in positive[0].items()}
            negative["time_ids"] = positive[0]["time_ids"]
        elif settings["guided"]:
            # clip_skip is not for the negative prompt, in diffusers neither
            negative = inputs(settings["negative_prompt"], 0 if settings["final_norm"] else 1)
        memory.give_back()  # the text encoder's
        return positive, negative

    def condition(batch: slice) -> pipeline.Condition:
        positive, negative = encoded()
        chosen = positive[batch]
        told = {name: np.concatenate([each[name] for each in chosen]) for name in positive[0]}
        untold = None
        if negative is not None:
            untold = {name: np.repeat(value, len(chosen), axis=0) for name, value in negative.items()}
        return pipeline.Condition(told, untold, settings["guidance_scale"], guidance_rescale)

    return condition


def _text_samples(
    plpy: Any, prompts: list[str | None], seeds: list[int | None], arguments: TextArguments
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures of prompts, as _batches gives them."""
    given = [seed for seed in seeds if seed is not None]
    if len(given) < len(seeds):
        fail("seed is null, expected an integer")
    session.begin(plpy)
    model = arguments.model
    settings = [_text_settings(plpy, prompt, arguments) for prompt in prompts]
    assert model is not None and arguments.guidance_rescale is not None  # text_to_image_settings refuses them
    session.query(
        plpy, "select sql_diffusion.check_model($1), sql_diffusion.check_begins_with_noise($1)", ["text"], [model]
    )
    if not prompts:
        return
    schedule = _generation_schedule(
        plpy, model, arguments.num_inference_steps, arguments.timesteps, arguments.scheduler, arguments.eta
    )
    first = settings[0]  # all but the prompt is the same
    condition = _conditions(plpy, [prompt or "" for prompt in prompts], model, first, arguments.guidance_rescale)
    unet = parameters.get_model(plpy, model, "unet").network
    shape = list(first["latent_shape"])
    yield from _batches(
        plpy,
        model,
        unet,
        schedule,
        given,
        shape,
        lambda batch: pipeline.begin_with_noise(batch, shape, schedule[0]),
        condition,
        first["guided"],
    )


@boundary
def text_to_image_steps(plpy: Any, prompt: str | None, seed: int | None, *arguments: Any) -> Iterator[Any]:
    for _, step, _, sample, original in _text_samples(plpy, [prompt], [seed], TextArguments(*arguments)):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def text_to_image(plpy: Any, prompt: str | None, seed: int | None, *arguments: Any) -> Any:
    picture = None
    for _, _, last, sample, _ in _text_samples(plpy, [prompt], [seed], TextArguments(*arguments)):
        if last:
            picture = _finish_images(plpy, sample, arguments[0])[0]
    memory.give_back()
    return picture


@boundary
def text_to_image_many(plpy: Any, prompts: Any, seeds: Any, *arguments: Any) -> Iterator[Any]:
    session.query(plpy, "select sql_diffusion.check_prompts($1, $2)", ["text[]", "bigint[]"], [prompts, seeds])
    for begin, _, last, sample, _ in _text_samples(plpy, prompts, seeds, TextArguments(*arguments)):
        if last:
            for number, picture in enumerate(_finish_images(plpy, sample, arguments[0]), begin):
                yield prompts[number], seeds[number], picture
    memory.give_back()


class RedrawArguments(NamedTuple):
    """The arguments of redraw behind prompts and seeds, in their order."""

    model: str | None
    strength: float | None
    noise_level: int | None
    negative_prompt: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    scheduler: str | None
    timesteps: Any
    eta: float | None
    guidance_rescale: float | None
    clip_skip: int | None


_REDRAW_SETTINGS = "select (s).* from sql_diffusion.redraw_settings($1, $2, $3, $4, $5, $6, $7) s"
_REDRAW_TYPES = ["text", "int[]", "int[]", "text", "real", "real", "int"]
_WITHOUT_PROMPT = "select sql_diffusion.check_without_prompt($1, $2, $3, $4, $5, $6)"
_WITHOUT_TYPES = ["text", "text", "text", "real", "real", "int"]


def _redraw_images(task: str, image: Any, mask: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask, checked as sql_diffusion.check_redraw does."""
    picture, white = picture_array(image, f"{task}: image"), None
    if task == "inpaint":
        white = picture_array(mask, "inpaint: mask")
    elif mask is not None:
        fail(f"mask is given, but {task} does not use it")
    for name, array in (("image", picture), ("mask", white)):
        if array is not None and not ((array >= 0) & (array <= 1)).all():
            fail(f"{task}: {name} has a value that is not from 0 to 1")
    return picture, white


def _redraw_samples(
    plpy: Any,
    task: str,
    image: Any,
    mask: Any,
    prompts: list[str | None],
    seeds: list[int | None],
    given: RedrawArguments,
) -> Iterator[tuple[int, schedulers.ScheduleStep, bool, np.ndarray, np.ndarray]]:
    """Pictures that begin with a picture, as _batches gives them."""
    if not prompts:
        return
    numbers = [seed for seed in seeds if seed is not None]
    if len(numbers) < len(seeds):
        fail("seed is null, expected an integer")
    session.begin(plpy)
    session.query(plpy, "select sql_diffusion.check_task($1)", ["text"], [task])
    picture, white = _redraw_images(task, image, mask)
    model, between = given.model, functools.partial(session.cancel_point, plpy)
    session.query(plpy, "select sql_diffusion.check_model($1)", ["text"], [model])
    assert model is not None  # which check_model refuses
    shapes = [list(picture.shape), None if white is None else list(white.shape)]
    values = [task, *shapes, model, given.strength, given.guidance_scale, given.noise_level]
    [settings] = session.query(plpy, _REDRAW_SETTINGS, _REDRAW_TYPES, values)
    told = None
    for prompt in prompts:
        if settings["takes_prompt"]:
            text = TextArguments(
                model, given.negative_prompt, None, settings["guidance_scale"], settings["height"], settings["width"],
                None, None, None, given.guidance_rescale, given.clip_skip,
            )  # fmt: skip
            told = _text_settings(plpy, "" if prompt is None and task == "upscale" else prompt, text)
        else:
            rest = [given.negative_prompt, given.guidance_scale, given.guidance_rescale, given.clip_skip]
            session.query(plpy, _WITHOUT_PROMPT, _WITHOUT_TYPES, [model, prompt, *rest])
    schedule = _generation_schedule(
        plpy, model, given.num_inference_steps, given.timesteps, given.scheduler, given.eta, settings["strength"]
    )

    condition: Callable[[slice], pipeline.Condition] = lambda batch: pipeline.NOTHING  # noqa: E731
    if told is not None and given.guidance_rescale is not None:
        texts, label = [prompt or "" for prompt in prompts], settings["noise_level"]
        condition = _conditions(plpy, texts, model, told, given.guidance_rescale, label)

    def encode(picture: np.ndarray) -> np.ndarray:
        autoencoder = parameters.get_model(plpy, model, settings["autoencoder"]).network
        check_memory(autoencoder, {"image": (1, *picture.shape)})
        return network.run(autoencoder, {"image": picture[None]}, between)["sample"][0]

    begin = redrawing.beginning_of(picture, white, settings, encode)
    unet = parameters.get_model(plpy, model, "unet").network
    shape = list(settings["latent_shape"])
    guided = told is not None and told["guided"]
    begin_batch = lambda batch: begin(batch, schedule[0])  # noqa: E731
    yield from _batches(plpy, model, unet, schedule, numbers, shape, begin_batch, condition, guided)


@boundary
def redraw_steps(
    plpy: Any, task: str, image: Any, mask: Any, prompt: str | None, seed: int | None, *arguments: Any
) -> Iterator[Any]:
    given = RedrawArguments(*arguments)
    for _, step, _, sample, original in _redraw_samples(plpy, task, image, mask, [prompt], [seed], given):
        yield step.step, step.timestep, sample[0], original[0]


@boundary
def redraw(plpy: Any, task: str, picture: Any, mask: Any, prompts: Any, seeds: Any, *arguments: Any) -> Iterator[Any]:
    session.query(plpy, "select sql_diffusion.check_prompts($1, $2)", ["text[]", "bigint[]"], [prompts, seeds])
    given = RedrawArguments(*arguments)
    for begin, _, last, sample, _ in _redraw_samples(plpy, task, picture, mask, prompts, seeds, given):
        if last:
            for number, made in enumerate(_finish_images(plpy, sample, given.model), begin):
                yield prompts[number], seeds[number], made
    memory.give_back()


@boundary
def finished_image(plpy: Any, sample: Any, model: str | None) -> Any:
    session.begin(plpy)
    array = tensor(sample, "finished_image: sample", "channels, height, width")
    check_all_values("finished_image", sample=(array, sample))
    session.query(plpy, "select sql_diffusion.component_config($1)", ["text"], [model])
    picture = _finish_images(plpy, array[None], model)[0]
    memory.give_back()
    return picture


@boundary
def latent_preview(plpy: Any, latent: Any) -> Any:
    array = tensor(latent, "latent_preview: latent", "channels, height, width")
    check_all_values("latent_preview", latent=(array, latent))
    return pipeline.latent_preview(array)
