"""Train a model that takes a prompt: a small latent diffusion model of drawn butterflies with captions, 128x128 RGB.

Its parts are trained one by one, each by a command that can be stopped and resumed. Needs the `train` extra.

    python scripts/describe_butterflies.py --count 8000 build/prompts/described.npz
    python scripts/train_prompts.py text       # the tokenizer, and the text encoder, which learns to tell what captions name
    python scripts/train_prompts.py decoder    # latents to pictures
    python scripts/train_prompts.py unet       # noise to latents, given the text encoder's states
    python scripts/train_prompts.py encoder    # pictures to latents
    python scripts/train_prompts.py assemble models/prompted-butterflies
    python scripts/evaluate_prompts.py ...

The latents are not learned: they are the first principal components of the pictures' blocks of 8x8 pixels (`blocks`). So
`decoder` and `unet` can run side by side, and the encoder learns last what is known exactly. The text encoder is not trained
with the U-Net either: trained as a classifier of captions, its states at and behind a caption's end hold all that the caption
names, so that the U-Net need not find out what words mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch.nn.functional import conv2d, cross_entropy, mse_loss
from transformers import CLIPTextModel, CLIPTokenizer

from describe_butterflies import CLASSES, choose_look, decode_look, describe, encode_named
from draw_butterflies import grid_picture
from sql_diffusion.captions import text_encoder, token_ids, train_tokenizer
from sql_diffusion.stopping import stoppable
from sql_diffusion.training import (
    Optimization,
    Trainer,
    denoising_loss,
    even_timesteps,
    latent_unet,
    step_generator,
)

app = typer.Typer(add_completion=False, no_args_is_help=True)
Run = Annotated[Path, typer.Option("--run-dir", help="Where data, checkpoints, parts and samples are kept.")]
Steps = Annotated[int, typer.Option(help="Training steps of the whole run.", min=1)]
Batch = Annotated[int, typer.Option(help="Pictures, or captions, in a step.", min=1)]
Rate = Annotated[float, typer.Option("--learning-rate", help="Full learning rate, of AdamW.", min=0)]

RUN = Path("build/prompts")
TOKENS, MERGES = 40, 240  # the longest prompt; what is merged of the captions' words
WIDTH, LAYERS = 64, 2  # of the text encoder
LATENTS, BLOCK = 8, 8  # channels of a latent; pixels of a picture for one of it
DECODER = 32  # channels
HELD_OUT = 200  # pictures, of few a tenth
DROPPED = 0.1  # share of the captions that are left out, so that there is guidance
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def optimize(
    name: str,
    network: Any,
    how: Optimization,
    steps: int,
    run: Path,
    losses: Callable[[Any, int], tuple[torch.Tensor, torch.Tensor]],
    look: Callable[[Any], dict[str, float]],
    every: int,
) -> Trainer:
    """Steps of a part, from its checkpoint on; a line of figures now and then, in NAME.jsonl."""
    trainer = Trainer(network, how, run / f"{name}.pt", Accelerator())
    if trainer.checkpoint.exists():
        trainer.resume()
    total, count = 0.0, 0
    with stoppable() as stop, (run / f"{name}.jsonl").open("a") as log:
        while trainer.done < steps and not stop.asked:
            _, plain = trainer.update(steps, losses)
            total, count = total + plain, count + 1
            if trainer.done % every == 0 or trainer.done == steps or stop.asked:
                trainer.save()
                with trainer.averaged() as averaged:
                    figures = look(averaged)
                line = {"step": trainer.done, "loss": total / count, **figures, "seconds": trainer.seconds}
                print(json.dumps(line), file=log, flush=True)
                total, count = 0.0, 0
    if trainer.done < steps:
        print(f"stopped after step {trainer.done} of {steps}; the same command goes on from there")
        raise typer.Exit(1)
    return trainer


# --- text -------------------------------------------------------------------------------------------------------------


def captions_of(rng: np.random.Generator, count: int) -> tuple[list[str], torch.Tensor]:
    """Captions of looks by lot, and the numbers of what they name (count, attributes)."""
    described = [describe(choose_look(rng), rng) for _ in range(count)]
    return [each.caption for each in described], torch.tensor([encode_named(each.named) for each in described])


@app.command()
def text(
    run: Run = RUN, steps: Steps = 2500, batch: Batch = 96, rate: Rate = 2e-3, every: int = 500, count: int = 30000
) -> None:
    """The tokenizer, and the text encoder: its states from a caption's end on must tell all that the caption names."""
    torch.manual_seed(0)
    captions, named = captions_of(np.random.default_rng(0), count)
    tokenizer = train_tokenizer(captions, MERGES, TOKENS, run / "tokenizer")
    tokens = token_ids(tokenizer, captions)
    sizes = [len(classes) + 1 for classes in CLASSES.values()]
    learned = count - count // 20
    network = torch.nn.ModuleDict(
        {"encoder": text_encoder(tokenizer, WIDTH, LAYERS), "head": torch.nn.Linear(WIDTH, sum(sizes))}
    )

    def scores(parts: Any, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits: torch.Tensor = parts["head"](parts["encoder"](tokens[rows]).last_hidden_state)  # (B, tokens, classes)
        return logits.split(sizes, dim=-1)

    def losses(parts: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(learned, (batch,), generator=step_generator(0, step))
        ended = (tokens[rows] == tokenizer.eos_token_id).float()  # the end, and the padding behind it
        loss = torch.zeros(())
        for number, logits in enumerate(scores(parts, rows)):
            wanted = named[rows, number, None].expand(-1, TOKENS)
            loss = loss + (cross_entropy(logits.mT, wanted, reduction="none") * ended).sum() / ended.sum()
        return loss, loss.detach()

    def look(parts: Any) -> dict[str, float]:
        rows = torch.arange(learned, count)
        found = [logits[:, -1].argmax(-1) for logits in scores(parts, rows)]
        return {
            name: (guess == named[rows, number]).float().mean().item()
            for number, (name, guess) in enumerate(zip(CLASSES, found, strict=True))
        }

    trainer = optimize("text", network, Optimization(rate, 0.99, 100, 0.5), steps, run, losses, look, every)
    with trainer.averaged() as parts:
        parts["encoder"].save_pretrained(run / "text_encoder")


# --- latents ----------------------------------------------------------------------------------------------------------


def load_pictures(run: Path) -> tuple[torch.Tensor, NDArray[np.uint8]]:
    """The described pictures (N, 3, H, W) as uint8, and their looks."""
    with np.load(run / "described.npz") as described:
        pictures = torch.from_numpy(described["pictures"]).permute(0, 3, 1, 2).contiguous()
        looks: NDArray[np.uint8] = described["looks"]
    return pictures, looks


def learned_from(pictures: torch.Tensor) -> int:
    """How many are learned from; the rest is measured with."""
    return len(pictures) - min(HELD_OUT, len(pictures) // 10)


def blocks(pictures: torch.Tensor, run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The kernel (LATENTS, 3, 8, 8) and the bias (LATENTS,) that make latents of pictures in -1..1; kept when found.

    The principal components of the blocks of 8x8 pixels, centred. Each is divided by the square root of its deviation:
    those of the colours remain the larger, and those of the edges are not lost in noise. In all, the deviation is 1.
    """
    kept = run / "blocks.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        return state["kernel"], state["bias"]
    some = pictures[:1000].float() / 127.5 - 1
    patches = some.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * BLOCK**2)
    mean = patches.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov(patches.T))
    kernel = vectors[:, -LATENTS:].T.flip(0)
    kernel = kernel / variances[-LATENTS:].flip(0).pow(0.25)[:, None]
    kernel = kernel / ((patches - mean) @ kernel.T).std()
    state = {"kernel": kernel.reshape(-1, 3, BLOCK, BLOCK), "bias": -kernel @ mean}
    torch.save(state, kept)
    return state["kernel"], state["bias"]


def to_latents(pictures: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, H, W) as latents (N, LATENTS, H/8, W/8)."""
    parts = [conv2d(part.float() / 127.5 - 1, kernel, bias, stride=BLOCK) for part in pictures.split(64)]
    return torch.cat(parts)


def new_autoencoder() -> AutoencoderTiny:
    """The autoencoder by lot."""
    widths = (DECODER,) * 4
    return AutoencoderTiny(
        latent_channels=LATENTS,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 1, 1, 2),
        num_decoder_blocks=(3, 3, 2, 1),
    )


@app.command()
def decoder(
    run: Run = RUN, steps: Steps = 5000, batch: Batch = 8, rate: Rate = 1e-3, every: int = 200, crop: int = 10
) -> None:
    """Latents to pictures: crops of 10x10 latents, with a little noise, as those that the U-Net makes will have."""
    torch.manual_seed(0)
    pictures, _ = load_pictures(run)
    latents = to_latents(pictures, *blocks(pictures, run))
    learned, room = learned_from(pictures), latents.shape[-1] - crop + 1

    def losses(vae: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(1, step)
        rows = torch.randint(learned, (batch,), generator=generator)
        top, left = torch.randint(room, (2,), generator=generator).tolist()
        part = latents[rows, :, top : top + crop, left : left + crop]
        part = part + torch.rand(batch, 1, 1, 1, generator=generator) * 0.15 * torch.randn(
            part.shape, generator=generator
        )
        y, x, side = top * BLOCK, left * BLOCK, crop * BLOCK
        clean = pictures[rows, :, y : y + side, x : x + side].float() / 127.5 - 1
        loss = (vae.decode(part).sample - clean).abs().mean()
        return loss, loss.detach()

    def look(vae: Any) -> dict[str, float]:
        made = vae.decode(latents[-36:]).sample.clamp(-1, 1)
        levels = (made - (pictures[-36:].float() / 127.5 - 1)).abs().mean().item() * 127.5
        save_grid(made, run / "decoded.png")
        return {"held_out_levels": levels}

    trainer = optimize(
        "decoder", new_autoencoder(), Optimization(rate, 0.995, 100, 0.4), steps, run, losses, look, every
    )
    with trainer.averaged() as vae:
        vae.save_pretrained(run / "vae")


@app.command()
def encoder(run: Run = RUN, steps: Steps = 1500, batch: Batch = 8, rate: Rate = 2e-3, every: int = 200) -> None:
    """Pictures to latents, which are known."""
    vae = AutoencoderTiny.from_pretrained(run / "vae")
    vae.decoder.requires_grad_(False)
    pictures, _ = load_pictures(run)
    kernel, bias = blocks(pictures, run)
    learned = learned_from(pictures)

    def error(network: Any, rows: torch.Tensor) -> torch.Tensor:
        clean = pictures[rows].float() / 127.5 - 1
        return mse_loss(network.encode(clean).latents, conv2d(clean, kernel, bias, stride=BLOCK))

    def losses(network: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        loss = error(network, torch.randint(learned, (batch,), generator=step_generator(2, step)))
        return loss, loss.detach()

    trainer = optimize(
        "encoder",
        vae,
        Optimization(rate, 0.99, 100, 0.5),
        steps,
        run,
        losses,
        lambda network: {"held_out": error(network, torch.arange(len(pictures) - 36, len(pictures))).item()},
        every,
    )
    with trainer.averaged() as network:
        network.save_pretrained(run / "vae")


# --- diffusion --------------------------------------------------------------------------------------------------------


@app.command()
def unet(
    run: Run = RUN,
    steps: Steps = 15000,
    batch: Batch = 16,
    rate: Rate = 1e-3,
    every: int = 250,
    channels: str = "32,64",
    captions: Annotated[int, typer.Option(help="Captions of each picture.", min=1)] = 4,
) -> None:
    """Noise to latents, given the states of the text encoder, which stays what it is."""
    torch.manual_seed(0)
    pictures, looks = load_pictures(run)
    latents = to_latents(pictures, *blocks(pictures, run))
    del pictures
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    told = CLIPTextModel.from_pretrained(run / "text_encoder").eval().requires_grad_(False)
    rng = np.random.default_rng(1)
    texts = [describe(decode_look(look), rng).caption for look in looks for _ in range(captions)]
    tokens = token_ids(tokenizer, texts).reshape(len(latents), captions, TOKENS)
    nothing = token_ids(tokenizer, [""])
    learned = learned_from(latents)
    scheduler = DDPMScheduler(**SCHEDULE, prediction_type="v_prediction")
    network = latent_unet(tuple(int(each) for each in channels.split(",")), latents.shape[-1], LATENTS, WIDTH)

    def loss_of(
        part: Any, rows: torch.Tensor, generator: torch.Generator, dropped: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        clean = latents[rows]
        noise = torch.randn(clean.shape, generator=generator)
        times = even_timesteps(len(rows), 1000, generator)
        chosen = tokens[rows, torch.randint(captions, (len(rows),), generator=generator)]
        left_out = torch.rand(len(rows), generator=generator) < dropped
        states = told(torch.where(left_out[:, None], nothing, chosen)).last_hidden_state
        return denoising_loss(lambda x, t: part(x, t, states).sample, scheduler, clean, noise, times, 5.0, True)

    def losses(part: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(3, step)
        return loss_of(part, torch.randint(learned, (batch,), generator=generator), generator, DROPPED)

    def look(part: Any) -> dict[str, float]:
        rows = torch.arange(learned, len(latents))
        return {"held_out": loss_of(part, rows, step_generator(3, -1), 0.0)[1].item()}

    trainer = optimize("unet", network, Optimization(rate, 0.999, 200, 0.3), steps, run, losses, look, every)
    with trainer.averaged() as part:
        part.save_pretrained(run / "unet")


def save_grid(images: torch.Tensor, file: Path) -> None:
    """Pictures (N, 3, H, W) in -1..1 side by side."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grid_picture(levels, math.ceil(math.sqrt(len(levels)))).save(file)


@app.command()
def assemble(output: Path, run: Run = RUN) -> None:
    """The parts as a diffusers pipeline folder, in half precision."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(run / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(run / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(run / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(run / "unet"),
        scheduler=DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(output, variant="fp16", safe_serialization=True)
    defaults = {"scheduler": "dpmsolver++", "num_inference_steps": 8, "guidance_scale": 3}
    (output / "sql_diffusion.json").write_text(json.dumps(defaults) + "\n")


if __name__ == "__main__":
    app()
