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
import signal
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel, compute_snr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from draw_butterflies import draw_butterflies, grid_picture
from sample_butterflies import Schedule, sample


def build_unet(channels: tuple[int, ...], head_dim: int, groups: int, size: int) -> UNet2DModel:
    """A U-Net with one resnet block a level and attention in the lower two levels."""
    plain = len(channels) - 2
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
        attention_head_dim=head_dim,
        norm_num_groups=groups,
    )


def load_pictures(data_dir: Path, count: int, size: int) -> torch.Tensor:
    """Drawn butterflies as uint8 (count, 3, size, size); drawn once, then kept in `data_dir`."""
    file = data_dir / f"butterflies-{count}-{size}.npy"
    if not file.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        np.save(file, draw_butterflies(count, size=size))
    return torch.from_numpy(np.load(file)).permute(0, 3, 1, 2).contiguous()


def learning_rate_factor(step: int, steps: int, warmup: int, fall: float) -> float:
    """Share of the full learning rate at a step: linear warm-up, constant, then half a cosine down to zero."""
    start = steps * (1 - fall)
    if step < warmup:
        return (step + 1) / warmup
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / (steps - start))))


def draw_batch(
    pictures: torch.Tensor, batch_size: int, scheduler: DDPMScheduler, noise_offset: float, seed: int, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures in -1..1 (B, 3, H, W), noise of the same shape and timesteps (B,), decided by the seed and the step.

    The noise has an offset, one normal number a channel (N. Guttenberg 2023, Diffusion with Offset Noise): so the model
    learns to take a tint off a picture, and sampling undoes the tints that come of its own errors. It fades with the
    picture, by sqrt(alpha_cumprod): where there is little but noise, sampling meets no offset.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    chosen = torch.randint(len(pictures), (batch_size,), generator=generator)
    clean = pictures[chosen].float() / 127.5 - 1
    noise = torch.randn(clean.shape, generator=generator)
    # one timestep from each of B equal slices of the range: every batch covers all noise levels, the loss is steadier
    slices = torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
    timesteps = (slices * scheduler.config.num_train_timesteps / batch_size).long()
    offsets = torch.randn(*clean.shape[:2], 1, 1, generator=generator)
    fading = scheduler.alphas_cumprod.cpu()[timesteps].sqrt().view(-1, 1, 1, 1)
    return clean, noise + noise_offset * fading * offsets, timesteps


def denoising_loss(
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    gamma: float,
    multiscale: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss that is minimised, and the plain one (Ho et al. 2020, arXiv:2006.11239, eq. 14), which is only logged.

    The first has Min-SNR weights (Hang et al. 2023, arXiv:2303.09556, eq. 8). If multiscale, the error's averages over
    blocks of k x k pixels count k times as well, k = 2, 4, 8, ... (Hoogeboom et al. 2023, arXiv:2301.11093, section
    3.3): a plain loss hardly sees the error of a whole picture's mean, which the eye sees as a tinted background.
    """
    predicted = unet(scheduler.add_noise(clean, noise, timesteps), timesteps).sample.float()
    difference = predicted - noise  # (B, 3, H, W)
    plain = errors = difference.square().mean(dim=(1, 2, 3))  # (B,)
    block = 1
    while multiscale and difference.shape[-1] % 2 == 0:
        block *= 2
        difference = torch.nn.functional.avg_pool2d(difference, 2)
        errors = errors + block * difference.square().mean(dim=(1, 2, 3))
    snr = compute_snr(scheduler, timesteps)
    weights = snr.clamp(max=gamma) / snr if gamma else torch.ones_like(snr)
    return (weights * errors).mean(), plain.mean().detach()


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
    unet = build_unet(tuple(int(c) for c in channels.split(",")), head_dim, groups, size)
    ema = EMAModel(unet.parameters(), decay=ema_decay, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(unet.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    checkpoint = run_dir / "checkpoint.pt"
    first, seconds = 0, 0.0
    if resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        unet.load_state_dict(state["unet"])
        ema.load_state_dict(state["ema"])
        ema.decay = ema_decay  # the state's own would win over the option
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    unet, optimizer = accelerator.prepare(unet, optimizer)
    ema.to(accelerator.device)
    averaged = UNet2DModel.from_config(accelerator.unwrap_model(unet).config).to(accelerator.device)
    unet.train()

    def save(step: int, with_samples: bool) -> None:
        state = {
            "unet": accelerator.unwrap_model(unet).state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)  # never half a checkpoint
        ema.copy_to(averaged.parameters())
        save_pipeline(averaged, scheduler, run_dir / "pipeline")
        if with_samples and sample_count:
            save_samples(averaged.eval(), scheduler, run_dir / f"samples-{step:06d}.png", sample_count, sample_steps)

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as progress,
        (run_dir / "log.jsonl").open("a") as log,
    ):
        task = progress.add_task("train", total=steps, completed=first, loss=math.nan)
        weighted_sum = plain_sum = count = 0.0
        for step in range(first, steps):
            began = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_factor(step, steps, warmup, fall)
            batch = draw_batch(data, batch_size, scheduler, noise_offset, seed, step)
            clean, noise, timesteps = (part.to(accelerator.device) for part in batch)
            loss, plain = denoising_loss(unet, scheduler, clean, noise, timesteps, snr_gamma, multiscale)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(unet.parameters())
            seconds += time.perf_counter() - began
            weighted_sum, plain_sum, count = weighted_sum + loss.item(), plain_sum + plain.item(), count + 1
            done = step + 1
            if done % 100 == 0 or done == steps:
                line = {
                    "step": done,
                    "loss": round(plain_sum / count, 5),
                    "weighted_loss": round(weighted_sum / count, 5),
                    "learning_rate": optimizer.param_groups[0]["lr"],
                    "seconds": round(seconds, 1),
                }
                print(json.dumps(line), file=log, flush=True)
                progress.update(task, loss=line["loss"])
                weighted_sum = plain_sum = count = 0.0
            progress.update(task, completed=done)
            if done % save_every == 0 or done == steps:
                save(done, with_samples=True)
            elif stopping:
                save(done, with_samples=False)
            if stopping and done < steps:
                print(f"stopped after step {done} of {steps}; the same command goes on from there")
                return
    shutil.copytree(run_dir / "pipeline", output, dirs_exist_ok=True)


if __name__ == "__main__":
    typer.run(main)
