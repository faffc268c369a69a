"""Train the bundled butterfly model: a small DDPM, 64x64 RGB, on butterflies that a program draws.

Needs the `train` extra: torch, diffusers and accelerate. It runs on a GPU if there is one, else on the CPU.

    python scripts/train_butterflies.py --steps 9000 models/butterflies

The learning rate warms up, stays constant, and falls to zero over the last part of the run. So a run can be stopped and
resumed, and can be made longer or shorter on the way by another `--steps`, and still is the run that `--steps` names:
until the fall begins, runs of every length are the same. All randomness of a step comes from the seed and the step's
number, so a resumed run sees what an uninterrupted one would have seen. Ctrl-C and SIGTERM finish the step, save a
checkpoint and stop.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from draw_butterflies import draw_butterflies, grid_picture
from sample_butterflies import Schedule, sample
from sql_diffusion.stopping import stoppable
from sql_diffusion.training import (
    Optimization,
    Trainer,
    add_offset,
    denoising_loss,
    even_timesteps,
    pixel_unet,
    step_generator,
)


def load_pictures(data_dir: Path, count: int, size: int) -> torch.Tensor:
    """Drawn butterflies as uint8 (count, 3, size, size); drawn once, then kept in `data_dir`."""
    file = data_dir / f"butterflies-{count}-{size}.npy"
    if not file.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        np.save(file, draw_butterflies(count, size=size))
    return torch.from_numpy(np.load(file)).permute(0, 3, 1, 2).contiguous()


def draw_batch(
    pictures: torch.Tensor, batch_size: int, scheduler: DDPMScheduler, noise_offset: float, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures in -1..1 (B, 3, H, W), noise of the same shape and timesteps (B,), decided by the seed and the step."""
    generator = step_generator(seed, step)
    chosen = torch.randint(len(pictures), (batch_size,), generator=generator)
    clean = pictures[chosen].float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator)
    timesteps = even_timesteps(batch_size, scheduler.config.num_train_timesteps, generator)
    return clean, add_offset(noise, timesteps, scheduler, noise_offset, generator), timesteps


def save_samples(unet: UNet2DModel, scheduler: DDPMScheduler, file: Path, count: int, steps: int) -> None:
    """A grid of samples, always from the same noise, so that snapshots can be compared."""
    pipeline = DDPMPipeline(unet, scheduler)
    pictures = sample(pipeline, Schedule("ddpm", steps), range(count))
    grid_picture(pictures, math.ceil(math.sqrt(count))).save(file)


def save_pipeline(unet: UNet2DModel, scheduler: DDPMScheduler, folder: Path) -> None:
    """The model as a diffusers pipeline folder with half precision weights (variant fp16)."""
    half = UNet2DModel.from_config(unet.config)
    half.load_state_dict(unet.state_dict())
    DDPMPipeline(half.half(), scheduler).save_pretrained(folder, variant="fp16", safe_serialization=True)


def main(
    output: Annotated[Path, typer.Argument(help="Folder for the finished diffusers pipeline.")],
    steps: Annotated[int, typer.Option(help="Training steps of the whole run.", min=1)] = 9000,
    batch_size: Annotated[int, typer.Option(help="Pictures in a step.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Full learning rate, of AdamW.", min=0)] = 1e-3,
    warmup: Annotated[int, typer.Option(help="Steps of linear warm-up.", min=1)] = 200,
    fall: Annotated[
        float, typer.Option(help="Last share of the run, where the rate falls to 0.", min=0.01, max=1)
    ] = 0.3,
    snr_gamma: Annotated[float, typer.Option(help="Gamma of the Min-SNR loss weights; 0: no weights.", min=0)] = 5.0,
    noise_offset: Annotated[float, typer.Option(help="Deviation of the noise's offset in a channel.", min=0)] = 0.1,
    multiscale: Annotated[bool, typer.Option(help="Count the errors of coarser pictures too.")] = True,
    ema_decay: Annotated[float, typer.Option(help="Decay of the averaged weights.", min=0, max=1)] = 0.999,
    channels: Annotated[str, typer.Option(help="Channels of the levels, from the top.")] = "16,32,64,64",
    head_dim: Annotated[int, typer.Option(help="Channels of an attention head.", min=1)] = 32,
    groups: Annotated[int, typer.Option(help="Groups of the group normalisations.", min=1)] = 8,
    size: Annotated[int, typer.Option(help="Width and height of the pictures.", min=8)] = 64,
    pictures: Annotated[int, typer.Option(help="How many butterflies to draw and learn from.", min=1)] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Where the drawn butterflies are kept.")] = Path("build/butterflies"),
    run_dir: Annotated[Path, typer.Option(help="Where checkpoints and snapshots go.")] = Path("build/train"),
    resume: Annotated[bool, typer.Option(help="Go on from the run folder's checkpoint, if it has one.")] = True,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints with samples.", min=1)] = 500,
    sample_count: Annotated[int, typer.Option(help="Samples in a snapshot; 0: none.", min=0)] = 36,
    sample_steps: Annotated[int, typer.Option(help="DDPM steps of a snapshot's samples.", min=1)] = 20,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "bf16",
    seed: Annotated[int, typer.Option(help="Seed of everything.", min=0)] = 0,
) -> None:
    """Train a small DDPM on drawn butterflies and save it as a diffusers pipeline folder."""
    accelerator = Accelerator(mixed_precision=mixed_precision)
    set_seed(seed)
    run_dir.mkdir(parents=True, exist_ok=True)
    data = load_pictures(data_dir, pictures, size)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    unet = pixel_unet(tuple(int(c) for c in channels.split(",")), head_dim, groups, size)
    how = Optimization(learning_rate, ema_decay, warmup, fall)
    trainer = Trainer(unet, how, run_dir / "checkpoint.pt", accelerator)
    if resume and trainer.checkpoint.exists():
        trainer.resume()
    first = trainer.done

    def losses(network: UNet2DModel, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = draw_batch(data, batch_size, scheduler, noise_offset, seed, step)
        clean, noise, times = (part.to(accelerator.device) for part in batch)
        return denoising_loss(
            lambda noisy, t: network(noisy, t).sample, scheduler, clean, noise, times, snr_gamma, multiscale
        )

    def save(step: int, with_samples: bool) -> None:
        trainer.save()
        with trainer.averaged() as averaged:
            save_pipeline(averaged, scheduler, run_dir / "pipeline")
            if with_samples and sample_count:
                save_samples(averaged, scheduler, run_dir / f"samples-{step:06d}.png", sample_count, sample_steps)

    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as progress,
        (run_dir / "log.jsonl").open("a") as log,
        stoppable() as stop,
    ):
        task = progress.add_task("train", total=steps, completed=first, loss=math.nan)
        weighted_sum = plain_sum = count = 0.0
        for step in range(first, steps):
            loss, plain = trainer.update(steps, losses)
            weighted_sum, plain_sum, count = weighted_sum + loss, plain_sum + plain, count + 1
            done = step + 1
            if done % 100 == 0 or done == steps:
                line = {
                    "step": done,
                    "loss": round(plain_sum / count, 5),
                    "weighted_loss": round(weighted_sum / count, 5),
                    "learning_rate": trainer.optimizer.param_groups[0]["lr"],
                    "seconds": round(trainer.seconds, 1),
                }
                print(json.dumps(line), file=log, flush=True)
                progress.update(task, loss=line["loss"])
                weighted_sum = plain_sum = count = 0.0
            progress.update(task, completed=done)
            if done % save_every == 0 or done == steps:
                save(done, with_samples=True)
            elif stop.asked:
                save(done, with_samples=False)
            if stop.asked and done < steps:
                print(f"stopped after step {done} of {steps}; the same command goes on from there")
                return
    shutil.copytree(run_dir / "pipeline", output, dirs_exist_ok=True)


if __name__ == "__main__":
    typer.run(main)
