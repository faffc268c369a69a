"""Every sampler against diffusers': each step's sample, from the same sample, noise and random outputs of the network.

What a sampler remembers is its own from the first step to the last. The samples are diffusers', since where the noise is strong
(squaredcos_cap_v2 begins with a sigma of 20000) its single precision would be all that a comparison of whole ways finds. For the
same reason diffusers is given tensors in double precision: its coefficients are single, as ours, its sums are not.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import diffusers
import numpy as np
import psycopg
import pytest
import torch
from psycopg import Connection
from psycopg.types.json import Jsonb

from reference import relative_error

CLASSES = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "pndm": diffusers.PNDMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}
pytest_plugins = ["numpy_server"]

SHAPE = (2, 3, 4)
# Whose coefficients are exponentials of differences of logarithms of sigmas: where the noise is strong, and the picture is predicted,
# a logarithm's last digit is seen in the sample's first ones.
SOLVERS = ("dpmsolver++", "unipc")
DRAWING = [
    "ddpm", "ddim", "euler_ancestral_discrete", "dpmsolver_multistep", "lcm", "tcd"
]  # fmt: skip

# What models are trained with: the settings of Stable Diffusion, and of a pixel model.
TRAINED: list[dict[str, Any]] = [
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
        "clip_sample": False,
    },
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
]
SPACINGS = [{"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")]
PREDICTIONS = [{"prediction_type": kind} for kind in ("sample", "v_prediction")]
SPREADS: list[dict[str, Any]] = [{"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]
THRESHOLDS: list[dict[str, Any]] = [{"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}]
RESCALED: list[dict[str, Any]] = [
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
]

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ddpm": [{}, *SPACINGS, *PREDICTIONS, *THRESHOLDS, *RESCALED, {"variance_type": "fixed_large"}],
    "ddim": [{}, *SPACINGS, *PREDICTIONS, *THRESHOLDS, *RESCALED, {"eta": 0.6}, {"set_alpha_to_one": False}],
    "pndm": [
        {}, {"skip_prk_steps": True}, {"skip_prk_steps": True, "prediction_type": "v_prediction"}, {"prediction_type": "v_prediction"},
        {"set_alpha_to_one": True}, *({**spacing, "skip_prk_steps": True} for spacing in SPACINGS),
    ],
    "euler": [
        {}, *SPACINGS, *PREDICTIONS, *SPREADS, *RESCALED, {"interpolation_type": "log_linear"}, {"final_sigmas_type": "sigma_min"},
        {"timestep_type": "continuous", "prediction_type": "v_prediction"}, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 10.0},
    ],
    "euler_ancestral": [{}, *SPACINGS, *PREDICTIONS[1:], *RESCALED],
    "heun": [{}, *SPACINGS, *PREDICTIONS, *SPREADS, {"clip_sample": True}],
    "lms": [{}, *SPACINGS, *PREDICTIONS, *SPREADS],
    "dpmsolver++": [
        {}, *SPACINGS, *PREDICTIONS, *SPREADS, *THRESHOLDS, *RESCALED, {"euler_at_final": True}, {"lower_order_final": False, "solver_order": 3},
        *({"solver_order": order, "solver_type": kind, "algorithm_type": algorithm, "final_sigmas_type": final}
          for order in (1, 2, 3) for kind in ("midpoint", "heun")
          for algorithm, final in (("dpmsolver++", "zero"), ("sde-dpmsolver++", "zero"), ("dpmsolver++", "sigma_min"),
                                   ("dpmsolver", "sigma_min"), ("sde-dpmsolver", "sigma_min"))
          if (algorithm, order) != ("sde-dpmsolver", 3)),
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "prediction_type": "v_prediction", "solver_order": 3},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "prediction_type": "sample"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", **THRESHOLDS[0]},
    ],
    "unipc": [
        {}, *SPACINGS, *PREDICTIONS, *SPREADS, *THRESHOLDS, *RESCALED, {"disable_corrector": [0, 1, 3]},
        # bh1 with a last sigma of zero is no number in diffusers
        *({"solver_order": order, "solver_type": kind, "final_sigmas_type": final}
          for order in (1, 2, 3) for kind, final in (("bh1", "sigma_min"), ("bh2", "zero"))),
        *({"solver_order": order, "predict_x0": False, "final_sigmas_type": "sigma_min", **prediction}
          for order in (2, 3) for prediction in ({}, *PREDICTIONS)),
        {"lower_order_final": False, "solver_order": 3, "final_sigmas_type": "sigma_min"},
        *({**spread, "final_sigmas_type": "sigma_min"} for spread in SPREADS),
    ],
    "lcm": [{}, *PREDICTIONS, *THRESHOLDS, {"clip_sample": True}, *({**each, "timestep_spacing": "leading"} for each in RESCALED), {"timestep_scaling": 3.0}],
    "tcd": [{}, *PREDICTIONS, {"eta": 0.0}, {"eta": 1.0}],
}  # fmt: skip


class Noise:
    """Stands where diffusers draws its noise: the same for both, in the order in which it is drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
        self.drawn: list[np.ndarray] = []  # in this pass, which draws once

        def draw(*_: Any, **__: Any) -> torch.Tensor:
            if not self.drawn:
                self.drawn.append(rng.standard_normal((1, *SHAPE)).astype(np.float32))
            return torch.from_numpy(self.drawn[0])

        for name in DRAWING:
            monkeypatch.setattr(f"diffusers.schedulers.scheduling_{name}.randn_tensor", draw)


def cases() -> list[Any]:
    return [
        pytest.param(name, settings, id=f"{name} {json.dumps(settings)}")
        for name, each in SETTINGS.items()
        for settings in each
    ]


def rounded_otherwise(value: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """As another library might have it: up or down by a unit in the last place."""
    ways = rng.choice(np.array([-np.inf, np.inf], np.float32), tuple(value.shape))
    return torch.nextafter(value, torch.from_numpy(np.asarray(ways)))


def theirs(
    name: str, model: dict[str, Any], settings: dict[str, Any], steps: int, noise: Noise, rng: np.random.Generator
) -> tuple[float, list[Any]]:
    """The initial noise's scale, and of each pass: timestep, sample, what is shown, output, the sample after it, the noise
    drawn, and how far the sample would be off if the last digits of the sigmas, products of many numbers, and of their
    logarithms were others."""
    settings = dict(settings)
    extra = {"eta": settings.pop("eta")} if "eta" in settings else {}
    file = {**model, **settings}
    scheduler = CLASSES[name].from_config(file)
    scheduler.set_timesteps(steps)
    rivals = [copy.deepcopy(scheduler) for _ in range(4)] if name in SOLVERS else []
    for rival in rivals:
        rival.sigmas = rival.sigmas * (1 + 2e-7 * torch.from_numpy(rng.standard_normal(len(rival.sigmas), np.float32)))
    log = torch.log
    first = float(scheduler.init_noise_sigma)
    sample = torch.from_numpy(rng.standard_normal((1, *SHAPE)).astype(np.float32)).double() * first
    passes = []
    for timestep in scheduler.timesteps:
        sample = sample.float().double()  # which is what goes to the database
        shown = scheduler.scale_model_input(sample, timestep)
        output = torch.from_numpy(rng.standard_normal((1, *SHAPE)).astype(np.float32)).double()
        noise.drawn.clear()
        after = scheduler.step(output, timestep, sample, **extra).prev_sample
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "log", lambda number: rounded_otherwise(log(number), rng))
            others = [rival.step(output, timestep, sample, **extra).prev_sample for rival in rivals]
        doubt = max([0.0, *(float((other - after).abs().max()) for other in others)])
        drawn = noise.drawn[0][0] if noise.drawn else None
        passes.append(
            (float(timestep), sample[0].numpy(), shown[0].numpy(), output[0].numpy(), after[0].numpy(), drawn, doubt)
        )
        sample = after
    return first, passes


OURS = """
with recursive schedule as materialized (
  select s.step, s as this
  from sql_diffusion.scheduler_timesteps(%(config)s, %(scheduler)s, %(steps)s, eta => %(eta)s::real) s
),
run (step, timestep, input_scale, sample, drew, memory, initial_noise, largest) as (
  select 0, null::double precision, null::double precision, null::real[], null::boolean, null::real[], (this).initial_noise, null::double precision
  from schedule
  where step = 1
  union all
  select s.step, (s.this).timestep, (s.this).input_scale, u.prev_sample, (s.this).draws_noise, u.next_memory, run.initial_noise,
         greatest(abs((s.this).sample_coefficient) * (select max(abs(x)) from unnest(told.sample) x),
                  abs((s.this).original_coefficient) * (select max(abs(x)) from unnest(u.pred_original_sample) x),
                  abs((s.this).output_coefficient) * (select max(abs(x)) from unnest(told.output) x))
  from run
       join schedule s on s.step = run.step + 1,
       lateral (select (given.sample ->> (s.step - 1))::real[] as sample, (given.output ->> (s.step - 1))::real[] as output,
                       (given.noise ->> (s.step - 1))::real[] as noise
                from (values (%(samples)s::jsonb, %(outputs)s::jsonb, %(noises)s::jsonb)) given (sample, output, noise)) told,
       lateral {schema}.scheduler_step(told.output, told.sample, told.noise, s.this, run.memory) u
)
select step, timestep, input_scale, sample, drew, initial_noise, largest from run order by step
"""


def ours(
    connection: Connection,
    schema: str,
    name: str,
    model: dict[str, Any],
    settings: dict[str, Any],
    steps: int,
    passes: list[Any],
) -> list[Any]:
    def written(array: np.ndarray | None) -> str | None:
        return None if array is None else json.dumps(array.tolist()).translate(str.maketrans("[]", "{}"))

    settings = dict(settings)
    eta = settings.pop("eta", None)
    return connection.execute(
        OURS.replace("{schema}", schema).encode(),
        {
            "config": Jsonb({"_class_name": CLASSES[name].__name__, **model}),
            "scheduler": json.dumps({**settings, "_class_name": CLASSES[name].__name__}),
            "steps": steps,
            "eta": eta,
            "samples": Jsonb([written(each[1]) for each in passes]),
            "outputs": Jsonb([written(each[3]) for each in passes]),
            "noises": Jsonb([written(each[5]) for each in passes]),
        },
    ).fetchall()


@pytest.mark.parametrize(("name", "settings"), cases())
def test_every_step_is_diffusers(
    connection: Connection,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
) -> None:
    noise = Noise(monkeypatch, rng)
    least = 4 if name == "pndm" else 2 if "interpolation_type" in settings else 1
    spread = bool(settings.get("use_karras_sigmas") or settings.get("use_exponential_sigmas"))
    # Few steps or some, of one of two models, and 50 of the third, which begins with all but noise alone. Of spread sigmas
    # diffusers makes timesteps that are equal by rounding there, and loses its way among them.
    some = [(int(rng.integers(least, 9)), TRAINED[0]), (int(rng.integers(9, 20)), TRAINED[1])]
    runs = some if spread else [some[rng.integers(2)], (50, TRAINED[2])]
    for steps, model in runs:
        first, passes = theirs(name, model, settings, steps, noise, rng)
        rows = ours(connection, "sql_diffusion", name, model, settings, steps, passes)
        assert rows[0][5] == pytest.approx(first, rel=1e-6)
        # diffusers cuts fractions off: 998.99999 of one rounding is 999 of another
        assert [row[1] for row in rows[1:]] == pytest.approx(
            [each[0] for each in passes], rel=1e-6, abs=1 if spread else 1e-5
        )
        for (_, _, input_scale, sample, drew, _, largest), (timestep, before, shown, _, after, drawn, doubt) in zip(
            rows[1:], passes, strict=True
        ):
            assert drew == (drawn is not None)
            assert relative_error(input_scale * before, shown) < 1e-6
            # Of the largest value in the sum: where large terms all but cancel, single precision leaves diffusers no more, nor of
            # a sample that is mostly taken away again.
            error = np.abs(np.array(sample) - after).max()
            most = max(1e-5 * max(np.abs(after).max(), largest), 3e-7 * np.abs(before).max()) + 4 * doubt
            assert error < most, f"{steps} steps, timestep {timestep}"


@pytest.mark.parametrize("name", CLASSES)
def test_the_twin_makes_the_same_steps(
    numpy_connection: Connection, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    noise = Noise(monkeypatch, rng)
    special: dict[str, list[dict[str, Any]]] = {
        "ddim": [{"eta": 0.5}],
        "dpmsolver++": [{"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}],
    }
    for settings in special.get(name, [{}]) + (
        THRESHOLDS if name in ("ddpm", "ddim", "dpmsolver++", "unipc", "lcm") else []
    ):
        _, passes = theirs(name, TRAINED[1], settings, 6, noise, rng)
        sql, numpy = (
            ours(numpy_connection, schema, name, TRAINED[1], settings, 6, passes)
            for schema in ("sql_diffusion", "sql_diffusion_numpy")
        )
        assert len(sql) == len(passes) + 1
        for our, their in zip(numpy[1:], sql[1:], strict=True):
            assert relative_error(our[3], np.array(their[3])) < 1e-5


def test_noise_is_added_as_diffusers_does(connection: Connection, rng: np.random.Generator) -> None:
    for name in CLASSES:
        scheduler = CLASSES[name].from_config(TRAINED[0])
        scheduler.set_timesteps(10)
        original, noise = (torch.from_numpy(rng.standard_normal((1, *SHAPE)).astype(np.float32)) for _ in range(2))
        place = int(rng.integers(len(scheduler.timesteps)))
        place -= place % scheduler.order
        expected = scheduler.add_noise(original, noise, scheduler.timesteps[place : place + 1])
        row = connection.execute(
            """select sql_diffusion.add_noise_at(%s::real[], %s::real[], s)
               from sql_diffusion.scheduler_timesteps(%s, %s, 10) s
               where s.step = %s""",
            [
                original[0].tolist(),
                noise[0].tolist(),
                Jsonb({"_class_name": CLASSES[name].__name__, **TRAINED[0]}),
                name,
                place + 1,
            ],
        ).fetchone()
        assert row is not None
        assert relative_error(row[0], expected[0]) < 1e-5, name


def test_strength_takes_the_last_steps(connection: Connection) -> None:
    """As diffusers' image-to-image pipelines: the steps that are left begin anew, without memory."""
    for name, config in ((name, Jsonb({"_class_name": CLASSES[name].__name__, **TRAINED[0]})) for name in CLASSES):
        query = """select array_agg(s.timestep order by s.step), array_agg(s.step order by s.step),
                          bool_or(s.step = 1 and 0 <> any (s.memory_coefficients))
                   from sql_diffusion.scheduler_timesteps(%s, null, 10, strength => %s) s"""
        whole, part = (connection.execute(query, [config, strength]).fetchone() for strength in (1, 0.55))
        assert whole is not None
        assert part is not None
        assert part[1] == list(range(1, len(part[0]) + 1))
        assert part[0] == whole[0][-len(part[0]) :]
        # diffusers' LMS keeps its order: a slope that is not remembered counts for nothing
        assert not part[2] or name == "lms", name
        assert len(part[0]) == {"heun": 9, "pndm": 14}.get(name, 5)


@pytest.mark.parametrize("name", CLASSES)
def test_eta_goes_with_samplers_that_use_it(connection: Connection, name: str) -> None:
    config = Jsonb({"_class_name": CLASSES[name].__name__})
    query = "select count(*) from sql_diffusion.scheduler_timesteps(%s, null, 5, eta => 0.5)"
    if name in ("ddim", "tcd"):
        assert connection.execute(query, [config]).fetchone() == (5,)
        return
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=f"eta is 0.5, but the scheduler {re.escape(name)} does not use it"
    ) as error:
        connection.execute(query, [config])
    assert error.value.diag.message_hint == "These do: ddim, tcd."


UNUSED: list[tuple[str, dict[str, Any], str | None]] = [
    ("lcm", {"timestep_spacing": "trailing"}, 'timestep_spacing is "trailing", but LCMScheduler does not use it'),
    ("tcd", {"steps_offset": 1}, "steps_offset is 1, but TCDScheduler does not use it"),
    ("ddim", {"sample_max_value": 2}, "sample_max_value is 2, but DDIMScheduler does not use it without thresholding"),
    ("ddpm", {"clip_sample": False, "clip_sample_range": 2}, "clip_sample_range is 2, but DDPMScheduler does not use it without clip_sample"),
    ("euler", {"sigma_max": 9}, "sigma_max is 9, but EulerDiscreteScheduler does not use it without use_karras_sigmas or use_exponential_sigmas"),
    ("unipc", {"flow_shift": 3}, "flow_shift is 3, but UniPCMultistepScheduler does not use it"),
    ("euler", {"eta": 1}, "EulerDiscreteScheduler has no setting eta"),
    ("euler", {"sigma_max": 9, "use_karras_sigmas": True}, None),
    ("lcm", {"timestep_spacing": "leading", "steps_offset": 0}, None),  # as it is anyhow
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "message"), UNUSED)
def test_a_setting_that_does_nothing_is_refused(
    connection: Connection, name: str, settings: dict[str, Any], message: str | None
) -> None:
    scheduler = json.dumps({**settings, "_class_name": CLASSES[name].__name__})
    # what a model's own configuration says beside the point is nobody's mistake
    config = Jsonb({"_class_name": "DDPMScheduler", "steps_offset": 1, "timestep_spacing": "trailing"})
    query = "select count(*) from sql_diffusion.scheduler_timesteps(%s, %s, 5)"
    if message is None:
        assert connection.execute(query, [config, scheduler]).fetchone() == (5,)
    else:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=re.escape(message)):
            connection.execute(query, [config, scheduler])


def test_an_unknown_sampler_is_told_which_there_are(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        connection.execute("select sql_diffusion.generation_schedule('butterflies', 5, scheduler => 'dpm')")
    words = (error.value.diag.message_primary or "").removeprefix("scheduler is 'dpm', expected ").split(", ")
    assert set(CLASSES) <= set(words)
