"""A grid of a model's pictures, one a seed, made by diffusers or by the extension.

    python scripts/sample_butterflies.py doc/butterflies-ddpm-20.png --model models/butterflies --schedule ddpm:20
    python scripts/sample_butterflies.py doc/butterflies-default.png --query 'select image_png(image) from ddpm_generate(%s)'

Both ways a picture belongs to its seed alone, so the two grids of the same schedule show the same pictures.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import diffusers
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from draw_butterflies import grid_picture

SCHEDULES = "default, ddpm:STEPS, ddpm:TIMESTEP,TIMESTEP,..., ddim:STEPS or ddim:STEPS:ETA"


def load_pipeline(folder: Path) -> diffusers.DDPMPipeline:
    """The pipeline of a folder whose weights may be there in half precision only; computes in float32."""
    half = (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder, variant="fp16" if half else None, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    return pipeline


class Schedule(NamedTuple):
    scheduler: str  # ddpm or ddim
    steps: int | tuple[int, ...]  # how many, or (ddpm's only) the timesteps themselves, highest first
    eta: float = 0.0  # ddim's only: 0 adds no noise in a step, 1 as much as ddpm

    def __str__(self) -> str:
        steps = f"{len(self.steps)} chosen steps" if isinstance(self.steps, tuple) else f"{self.steps} steps"
        return f"{self.scheduler}, {steps}" + (f", eta {self.eta:g}" if self.scheduler == "ddim" else "")


class ChosenTimesteps(diffusers.DDPMScheduler):
    """A scheduler that takes timesteps where a pipeline has only a number of steps to give."""

    def set_timesteps(self, timesteps: tuple[int, ...]) -> None:
        super().set_timesteps(timesteps=list(timesteps))


def default_schedule(folder: Path) -> Schedule:
    """The schedule that the extension follows where it is told none: what sql_diffusion.json in the folder says."""
    defaults = json.loads((folder / "sql_diffusion.json").read_text(encoding="utf-8"))
    steps = tuple(defaults["timesteps"]) if "timesteps" in defaults else defaults["num_inference_steps"]
    return Schedule(defaults["scheduler"], steps)


def parse_schedule(text: str, folder: Path) -> Schedule:
    """The schedule that is written default, ddpm:STEPS, ddpm:TIMESTEP,TIMESTEP,..., ddim:STEPS or ddim:STEPS:ETA."""
    if text == "default":
        return default_schedule(folder)
    scheduler, *numbers = text.split(":")
    try:
        if scheduler == "ddpm":
            (steps,) = numbers
            if "," in steps:
                return Schedule(scheduler, tuple(int(timestep) for timestep in steps.split(",")))
            return Schedule(scheduler, int(steps))
        if scheduler == "ddim" and len(numbers) in (1, 2):
            return Schedule(scheduler, int(numbers[0]), float(numbers[1]) if len(numbers) == 2 else 0.0)
    except ValueError:
        pass
    raise typer.BadParameter(f"schedule {text!r}, expected {SCHEDULES}")


def sample(
    pipeline: diffusers.DDPMPipeline, schedule: Schedule, seeds: Sequence[int], batch_size: int = 16
) -> NDArray[np.uint8]:
    """Pictures of a model, one a seed: uint8 (N, H, W, 3)."""
    config, settings = pipeline.scheduler.config, {}
    if schedule.scheduler == "ddim":
        sampler = diffusers.DDIMPipeline(pipeline.unet, diffusers.DDIMScheduler.from_config(config))
        settings = {"eta": schedule.eta}
    else:
        scheduler = ChosenTimesteps if isinstance(schedule.steps, tuple) else diffusers.DDPMScheduler
        sampler = diffusers.DDPMPipeline(pipeline.unet, scheduler.from_config(config))
    sampler.set_progress_bar_config(disable=True)
    pictures = []
    for first in track(range(0, len(seeds), batch_size), str(schedule), transient=True):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[first : first + batch_size]]
        made = sampler(len(generators), generators, num_inference_steps=schedule.steps, output_type="np", **settings)
        pictures.append(made.images)
    images: NDArray[np.float32] = np.concatenate(pictures)  # 0..1
    return np.rint(images * 255).astype(np.uint8)


def query_pictures(query: str, seeds: Sequence[int], database: str, batch_size: int = 16) -> NDArray[np.uint8]:
    """Pictures that a database makes: `query` has one parameter, a bigint[] of seeds, and gives their PNGs in order."""
    import psycopg  # only this way of making pictures needs a database

    pictures = []
    with psycopg.connect(database) as connection:
        for first in track(range(0, len(seeds), batch_size), "database", transient=True):
            batch = list(seeds[first : first + batch_size])
            rows = connection.execute(query.replace("%s", "%s::bigint[]").encode(), (batch,)).fetchall()
            if len(rows) != len(batch):
                raise ValueError(f"the query gave {len(rows)} pictures for {len(batch)} seeds")
            pictures += [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for (png,) in rows]
    return np.stack(pictures)


def main(
    output: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    model: Annotated[Path, typer.Option(help="Diffusers pipeline folder.")] = Path("models/butterflies"),
    schedule: Annotated[str, typer.Option(help=f"{SCHEDULES}.")] = "default",
    query: Annotated[
        str | None, typer.Option(help="Ask a database instead: SQL that gives the PNGs of the seeds %s.")
    ] = None,
    database: Annotated[
        str, typer.Option(help="Connection string for --query; the rest is libpq's PG* settings.")
    ] = "",
    count: Annotated[int, typer.Option(help="How many pictures.", min=1)] = 64,
    columns: Annotated[int, typer.Option(help="Pictures in a row.", min=1)] = 8,
    first_seed: Annotated[int, typer.Option(help="Seed of the first; the others follow it.", min=0)] = 0,
    zoom: Annotated[int, typer.Option(help="Width and height of a pixel in the grid.", min=1)] = 1,
) -> None:
    """Write a grid of pictures, one a seed."""
    seeds = range(first_seed, first_seed + count)
    pictures = (
        query_pictures(query, seeds, database)
        if query
        else sample(load_pipeline(model), parse_schedule(schedule, model), seeds)
    )
    grid_picture(pictures, columns, zoom).save(output)


if __name__ == "__main__":
    typer.run(main)
