"""Random numbers, and what schedulers do with a sample."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import pipeline, random, schedulers, session
from ..boundary import boundary, check_all_values
from ..errors import fail
from ..tensors import braces, check_same_shape, check_shape, tensor

# Random numbers


def _generator(generator: random.Generator) -> dict[str, Any]:
    return {
        "words": [int(word) for word in generator.words],
        "position": generator.position,
        "next_normal": generator.next_normal,
    }


@boundary
def manual_seed(plpy: Any, seed: int) -> Any:
    return _generator(random.manual_seed(seed))


@boundary
def randn(plpy: Any, seed: int, shape: Any) -> Any:
    return random.randn(random.manual_seed(seed), check_shape(shape, "randn: shape"))[0]


@boundary
def randn_of(plpy: Any, generator: Any, shape: Any) -> Any:
    sizes = check_shape(shape, "randn: shape")
    sample, after = random.randn(random.check_generator(generator), sizes)
    return {"sample": sample, "next": _generator(after)}


# Schedulers


def _check_model_output(output: np.ndarray, sample: np.ndarray, variance: bool) -> None:
    """Of the sample's shape, or of twice its channels, which it is where the step goes by a predicted variance."""
    doubled = (2 * len(sample), *sample.shape[1:])
    if not variance and len(output) != doubled[0]:
        check_same_shape(output, sample, "scheduler_step: model_output", "sample")
    elif output.shape != doubled:
        fail(
            f"scheduler_step: model_output has shape {braces(output.shape)}, expected {braces(doubled)}: "
            "twice the channels of sample, the output and the variance"
        )


@boundary
def scheduler_step(plpy: Any, model_output: Any, sample: Any, noise: Any, step: Any, memory: Any) -> Any:
    x, output = tensor(sample, "scheduler_step: sample"), tensor(model_output, "scheduler_step: model_output")
    _check_model_output(output, x, step is not None and step["least_log_noise"] is not None)
    row = _schedule_step(plpy, step)
    drawn = None
    if row.draws_noise:
        drawn = tensor(noise, "scheduler_step: noise")
        check_same_shape(drawn, x, "scheduler_step: noise", "sample")
    kept = None
    if memory is not None:
        kept, expected = np.asarray(memory, np.float32), (len(row.memory_coefficients), *x.shape)
        if kept.shape != expected or not kept.size:
            shapes = ["{" + ",".join(map(str, shape)) + "}" for shape in (kept.shape if kept.size else (), expected)]
            fail(f"scheduler_step: memory has shape {shapes[0]}, expected {shapes[1]}")
    check_all_values(
        "scheduler_step",
        sample=(x, sample), model_output=(output, model_output), noise=(drawn, noise), memory=(kept, memory),
    )  # fmt: skip
    previous, original, remembered = schedulers.scheduler_step(
        output[None], x[None], None if drawn is None else drawn[None], row, None if kept is None else kept[:, None]
    )
    return {
        "prev_sample": previous[0],
        "pred_original_sample": original[0],
        "next_memory": None if remembered is None else remembered[:, 0],
    }


_STEP_TYPES = [
    "int", *["double precision"] * 12, "boolean", *["double precision[]"] * 2, *["double precision"] * 5
]  # fmt: skip


def _schedule_step(plpy: Any, step: dict[str, Any] | None) -> schedulers.ScheduleStep:
    row = schedulers.ScheduleStep(**(step or dict.fromkeys(schedulers.ScheduleStep._fields)))
    sums = [
        getattr(row, field) for field in row._fields if field.startswith(("original_", "sample_", "output_", "noise_"))
    ]
    whole = row.draws_noise is not None and row.memory_coefficients is not None and row.memory_update is not None
    if whole:
        count, update = len(row.memory_coefficients), row.memory_update
        shaped = all(isinstance(line, list) and len(line) == count + 3 for line in update) and len(update) == count
        whole = shaped and count <= 5
        sums += row.memory_coefficients + [value for line in update for value in line] if whole else []
    whole = whole and all(value is not None and np.isfinite(value) for value in sums)
    bounded = row.clip_range is None or row.clip_range >= 0
    if row.threshold_ratio is not None:
        bounded = bounded and 0 <= row.threshold_ratio <= 1 and row.threshold_max is not None and row.threshold_max > 0
    log_noise = [row.least_log_noise, row.greatest_log_noise]
    if log_noise != [None, None]:
        bounded = bounded and all(value is not None and np.isfinite(value) for value in log_noise)
    if not whole or not bounded:
        fail(f"scheduler_step: step is {_written(plpy, step)}, expected a row of scheduler_timesteps")
    return row


def _written(plpy: Any, step: dict[str, Any] | None) -> str:
    """A row of a schedule as PostgreSQL writes it."""
    if step is None:
        return "null"
    places = ", ".join(f"${i + 1}" for i in range(len(_STEP_TYPES)))
    query = f"select row({places})::sql_diffusion.schedule_step::text as written"
    written: str = session.query(plpy, query, _STEP_TYPES, [step[field] for field in schedulers.ScheduleStep._fields])[
        0
    ]["written"]
    return written


@boundary
def add_noise_at(plpy: Any, original: Any, noise: Any, step: Any) -> Any:
    x, drawn = tensor(original, "add_noise_at: original"), tensor(noise, "add_noise_at: noise")
    check_same_shape(drawn, x, "add_noise_at: noise", "original")
    check_all_values("add_noise_at", original=(x, original), noise=(drawn, noise))
    row = schedulers.ScheduleStep(**(step or dict.fromkeys(schedulers.ScheduleStep._fields)))
    if any(value is None or not np.isfinite(value) for value in (row.added_original, row.added_noise)):
        fail(f"add_noise_at: step is {_written(plpy, step)}, expected a row of scheduler_timesteps")
    return schedulers.add_noise(x, drawn, row)


def _training_timestep(plpy: Any, model: str, timestep: int) -> schedulers.ScheduleStep:
    query = "select (s).* from sql_diffusion.training_timestep($1, $2) s"
    [row] = session.query(plpy, query, ["text", "int"], [model, timestep])
    return schedulers.ScheduleStep(*(row[field] for field in schedulers.ScheduleStep._fields))


@boundary
def add_noise(plpy: Any, original: Any, noise: Any, timestep: int, model: str) -> Any:
    x, drawn = tensor(original, "add_noise: original"), tensor(noise, "add_noise: noise")
    check_same_shape(drawn, x, "add_noise: noise", "original")
    check_all_values("add_noise", original=(x, original), noise=(drawn, noise))
    return schedulers.add_noise(x, drawn, _training_timestep(plpy, model, timestep))


@boundary
def predict_original_sample(plpy: Any, model_output: Any, sample: Any, timestep: int, model: str) -> Any:
    x = tensor(sample, "predict_original_sample: sample")
    step = _training_timestep(plpy, model, timestep)
    output = tensor(model_output, "scheduler_step: model_output")
    _check_model_output(output, x, step.least_log_noise is not None)
    check_all_values("scheduler_step", sample=(x, sample), model_output=(output, model_output))
    return schedulers.scheduler_step(output[None], x[None], None, step)[1][0]


@boundary
def denormalize(plpy: Any, sample: Any) -> Any:
    array = tensor(sample, "denormalize: sample")
    check_all_values("denormalize", sample=(array, sample))
    return pipeline.denormalize(array)
