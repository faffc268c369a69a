"""Trains a model on the pictures of a query, and loads it: the pictures, the run's folder, its networks, what it becomes.

The folder of a run has the pictures as the query gave them (pictures.npz), what was asked for (settings.json), a line of
figures a snapshot (log.jsonl), the checkpoint, the snapshots, and at the end the model as diffusers saves it (pipeline/).
"""

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import psycopg
import torch
import transformers
from accelerate import Accelerator
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.progress import Progress

from . import models, pictures, verify
from .captions import text_encoder, token_ids, train_tokenizer
from .database import Connection
from .errors import INTERRUPTED, USAGE, Problem
from .load import Loaded, Request
from .load import load as load_checkpoint
from .stopping import stoppable
from .tokenizer_tables import save_tokenizer
from .training import (
    Optimization,
    Trainer,
    add_offset,
    denoising_loss,
    even_timesteps,
    latent_unet,
    pixel_unet,
    step_generator,
)

PIXELS, LATENTS = "DDPMPipeline", "StableDiffusionPipeline"
WIDTHS = (32, 64, 128, 128, 256, 256)  # channels of a network's levels, where none are asked for
COARSEST = 8  # pixels of the lowest level then
LATENT_WIDTHS = (64, 128)  # the same of latents
CROP = 64  # pixels that an autoencoder, which is convolutional, learns from at a time
AUTOENCODER_WIDTH, LATENT_CHANNELS = 32, 4
TEXT_WIDTH, TEXT_LAYERS, MERGES, TOKENS = 64, 2, 1000, 77
HELD_OUT_MOST = 64  # pictures
DROPPED = 0.1  # share of the captions that are left out, so that there is guidance
KEPT_SECONDS = 120.0  # between checkpoints
NOISE_OFFSET, SNR_GAMMA = 0.1, 5.0


# diffusers and transformers tell what they load and save, and diffusers warns of AutoencoderTiny, which it runs.
for library in (diffusers.logging, transformers.logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


class Settings(NamedTuple):
    """What a run is; those from `size` to `captions` stay what they were when it is resumed."""

    query: str
    source: str | None  # the model that it begins with
    size: int
    channels: tuple[int, ...]
    flip: bool
    held_out: float  # share of the pictures
    seed: int
    captions: bool
    steps: int
    autoencoder_steps: int | None  # half of the steps where it is not said; of a model with captions alone
    batch: int
    learning_rate: float
    ema_decay: float
    snapshot_every: int
    snapshot_count: int


class Data(NamedTuple):
    """The pictures of a query, held-out ones last."""

    images: NDArray[np.uint8]  # (N, 3, size, size)
    captions: list[str]  # N, or none
    held_out: int

    @property
    def learned(self) -> int:
        """How many are learned from."""
        return len(self.images) - self.held_out


# --- pictures ---------------------------------------------------------------------------------------------------------


def read_pictures(connection: Connection, query: str) -> Iterator[tuple[int, Image.Image, str | None]]:
    """The rows of a query: their numbers from 1, pictures, and captions where there is a column of that name."""
    with connection.transaction(), connection.cursor("pictures", binary=True) as cursor:
        cursor.itersize = 100
        try:
            cursor.execute(query.rstrip().rstrip(";").encode())
        except psycopg.errors.SyntaxError as error:
            raise Problem(
                f"the query cannot be read: {error.diag.message_primary}",
                "It is one SELECT: --query 'select image from pictures'",
                USAGE,
            ) from error
        columns = [column.name for column in cursor.description or []]
        if not columns:
            raise Problem("the query gives no columns", "Write --query 'select image from pictures'", USAGE)
        place = columns.index("image") if "image" in columns else 0
        if "image" not in columns and len(columns) > 1:
            raise Problem(
                f"none of the query's columns {', '.join(columns)} is called image",
                "Name them: select ... as image, ... as caption",
                USAGE,
            )
        caption = columns.index("caption") if "caption" in columns else None
        for number, row in enumerate(cursor, 1):
            yield number, to_picture(row[place], number), None if caption is None else to_caption(row[caption], number)


def to_caption(value: Any, number: int) -> str:
    """A caption; null is none."""
    if not isinstance(value, str | None):
        raise Problem(f"caption {number} is of type {type(value).__name__}, expected text", None, USAGE)
    return value or ""


def to_picture(value: Any, number: int) -> Image.Image:
    """A picture of a column: a file as bytea, or an array (channels, height, width) of values from 0 to 1."""
    picture: Image.Image
    if isinstance(value, bytes | memoryview):
        try:
            picture = Image.open(io.BytesIO(value))
            picture.load()
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise Problem(
                f"picture {number} of the query cannot be read: {error}", "PNG, JPEG and WebP are read.", USAGE
            ) from error
    elif isinstance(value, np.ndarray):
        if value.ndim != 3 or value.shape[0] not in (1, 3, 4) or not np.isfinite(value).all():
            raise Problem(
                f"picture {number} of the query is an array of shape {value.shape}, expected finite values of shape "
                "(1, 3 or 4 channels, height, width)",
                None,
                USAGE,
            )
        picture = pictures.to_image(value * 2 - 1)
    else:
        found = "null" if value is None else type(value).__name__
        raise Problem(
            f"picture {number} of the query is {found}, expected bytea or real[]",
            "Leave out what has none: where image is not null",
            USAGE,
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return picture.convert("RGB")


def fit(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The square in the middle, (3, size, size)."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def gather(connection: Connection, query: str, size: int, held_out: float, seed: int) -> Data:
    """All pictures of a query, in an order by lot, so that those that are held out are any."""
    images, captions = [], []
    for _, picture, caption in read_pictures(connection, query):
        images.append(fit(picture, size))
        if caption is not None:
            captions.append(caption)
    if len(images) < 2:
        raise Problem(f"the query gives {len(images)} pictures, expected 2 or more", None, USAGE)
    order = np.random.default_rng(seed).permutation(len(images))
    count = min(HELD_OUT_MOST, math.ceil(held_out * len(images)), len(images) - 1)
    return Data(np.stack(images)[order], [captions[n] for n in order] if captions else [], count)


# --- the run's folder -------------------------------------------------------------------------------------------------


DEFAULTS: dict[str, Any] = {
    "source": None,
    "flip": False,
    "held_out": 0.05,
    "seed": 0,
    "captions": False,
    "steps": 10000,
    "autoencoder_steps": None,
    "batch": 16,
    "learning_rate": 1e-3,
    "ema_decay": 0.999,
    "snapshot_every": 500,
    "snapshot_count": 16,
}


def new_settings(connection: Connection, given: dict[str, Any]) -> Settings:
    """What was asked for, and of the rest the defaults; a model that it begins with says its size."""
    if given.get("source") is None:
        size = given.get("size", 64)
        channels = given.get("channels", ())
        if channels:
            check_shape(size, channels)
        return Settings(**{**DEFAULTS, **given, "size": size, "channels": channels})
    size, channels = model_shape(connection, given["source"])
    for name, value in (("size", size), ("channels", channels)):
        if name in given and given[name] != value:
            raise Problem(
                f"--{name} is {given[name]}, and {given['source']} has {value}", f"Leave --{name} out.", USAGE
            )
    return Settings(**{**DEFAULTS, "learning_rate": 1e-4, **given, "size": size, "channels": channels})


def model_shape(connection: Connection, name: str) -> tuple[int, tuple[int, ...]]:
    """The pixels of a loaded model's pictures, and the channels of its U-Net's levels."""
    kind = models.find_model(connection, name).pipeline
    components = models.settings(connection, name)["components"]
    unet = components.get(models.COMPONENT) or {}
    size = unet.get("sample_size")
    is_pixels = kind in (PIXELS, "DDIMPipeline") and unet.get("in_channels") == 3
    if not (is_pixels or kind == LATENTS):
        raise Problem(
            f"{name} is a {kind}, and one to begin with is a {LATENTS} or a {PIXELS} of three channels",
            "See what is loaded: sql-diffusion list",
            USAGE,
        )
    if not isinstance(size, int):
        raise Problem(f"{name} has pictures of {size} pixels, expected a square", None, USAGE)
    vae = components.get("vae")
    factor = 1 if vae is None else 2 ** (len(vae.get("block_out_channels") or vae["decoder_block_out_channels"]) - 1)
    return size * factor, tuple(unet["block_out_channels"])


def begin(connection: Connection, folder: Path, settings: Settings) -> tuple[Settings, Data]:
    """A new run: its pictures are read and kept."""
    if (folder / "settings.json").exists():
        raise Problem(
            f"{folder} has a run in it", "Go on with it: --resume. Or begin another one: --run-dir FOLDER", USAGE
        )
    data = gather(connection, settings.query, settings.size, settings.held_out, settings.seed)
    settings = settings._replace(captions=bool(data.captions))
    if not settings.channels:
        settings = settings._replace(channels=LATENT_WIDTHS if data.captions else default_channels(settings.size))
    pixels = settings.size
    if data.captions and settings.source is None:
        pixels //= latent_factor(settings.size)
        if pixels * latent_factor(settings.size) != settings.size:
            raise Problem(
                f"--size {settings.size} is not a multiple of {latent_factor(settings.size)}, which its latents need",
                None,
                USAGE,
            )
    check_shape(pixels, settings.channels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            folder / "pictures.npz", images=data.images, captions=np.array(data.captions, str), held_out=data.held_out
        )
        (folder / "settings.json").write_text(json.dumps(settings._asdict(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Problem(
            f"{folder} cannot be written: {error.strerror or error}", "Choose another: --run-dir", USAGE
        ) from error
    return settings, data


def stored_settings(folder: Path) -> Settings:
    """What the run in a folder was begun with."""
    try:
        content = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Problem(
            f"there is no run in {folder} to go on with", "Begin one: sql-diffusion train --query ... --name ...", USAGE
        ) from None
    return Settings(**{**content, "channels": tuple(content["channels"])})


def go_on(folder: Path, given: dict[str, Any]) -> tuple[Settings, Data]:
    """The run in a folder, with what may be changed on the way."""
    settings = stored_settings(folder)
    for name in ("query", "source", "size", "channels", "flip", "held_out", "seed"):
        if name in given and given[name] != getattr(settings, name):
            raise Problem(
                f"the run in {folder} was begun with {name} {getattr(settings, name)}, and now it is {given[name]}",
                "Leave it out, or begin another run: --run-dir FOLDER",
                USAGE,
            )
    settings = settings._replace(**given)
    (folder / "settings.json").write_text(json.dumps(settings._asdict(), indent=2) + "\n", encoding="utf-8")
    with np.load(folder / "pictures.npz") as kept:
        return settings, Data(kept["images"], [str(text) for text in kept["captions"]], int(kept["held_out"]))


# --- networks ---------------------------------------------------------------------------------------------------------


def default_channels(size: int) -> tuple[int, ...]:
    """Levels until the lowest one has 8 pixels."""
    levels = int(math.log2(max(size, 2 * COARSEST) / COARSEST)) + 1
    return WIDTHS[: min(levels, len(WIDTHS))]


def check_shape(size: int, channels: tuple[int, ...]) -> None:
    """Says before anything is read what no network can be."""
    if not 2 <= len(channels) <= len(WIDTHS) or any(count < 8 or count % 8 for count in channels):
        raise Problem(
            f"--channels {','.join(map(str, channels))}, expected 2 to {len(WIDTHS)} multiples of 8",
            "Write it as 32,64,128.",
            USAGE,
        )
    multiple = 2 ** (len(channels) - 1)
    if size % multiple:
        raise Problem(
            f"--size {size} is not a multiple of {multiple}, which {len(channels)} levels halve {len(channels) - 1} times",
            f"Take {max(multiple, round(size / multiple) * multiple)}, or fewer --channels.",
            USAGE,
        )


def latent_factor(size: int) -> int:
    """Pixels of a picture for one of a latent, in each direction."""
    return 8 if size >= 64 else 4


def new_autoencoder(size: int) -> AutoencoderTiny:
    """An autoencoder by lot."""
    levels = int(math.log2(latent_factor(size))) + 1
    widths = (AUTOENCODER_WIDTH,) * levels
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(2,) * (levels - 1) + (1,),
    )


def text_pipeline(folder: Path, settings: Settings, captions: list[str], vae: Any) -> Any:
    """A pipeline that takes prompts, its tokenizer the captions' own, its networks by lot but for the autoencoder."""
    kept = folder / "tokenizer"
    tokenizer = train_tokenizer(captions, MERGES, TOKENS, kept)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder(tokenizer, TEXT_WIDTH, TEXT_LAYERS),
        tokenizer=tokenizer,
        unet=latent_unet(settings.channels, settings.size // latent_factor(settings.size), LATENT_CHANNELS, TEXT_WIDTH),
        scheduler=DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Original(NamedTuple):
    """The loaded model that a run begins with."""

    pipeline: Any  # of diffusers
    scheduler: dict[str, Any]
    defaults: dict[str, Any]


def read_original(connection: Connection, settings: Settings, folder: Path) -> Original | None:
    """That of a run, if it has one. Raises a Problem where such a one is not trained further."""
    if settings.source is None:
        return None
    name, found = settings.source, models.settings(connection, settings.source)
    return Original(from_model(connection, name, folder / "tokenizer"), found["scheduler"], found["defaults"] or {})


def from_model(connection: Connection, name: str, folder: Path) -> Any:
    """A loaded model as diffusers' pipeline."""
    summary, settings = models.find_model(connection, name), models.settings(connection, name)
    networks: dict[str, Any] = {}
    for component, config in settings["components"].items():
        network = verify.build_network(config)
        state = verify.read_weights(connection, name, component, torch)
        bare = "text_model." if not any(key.startswith("text_model.") for key in network.state_dict()) else ""
        network.load_state_dict({key.removeprefix(bare): value for key, value in state.items()})
        networks[component] = network.eval()
    scheduler = settings["scheduler"]
    if summary.pipeline != LATENTS:
        return DDPMPipeline(networks["unet"], DDPMScheduler.from_config(scheduler))
    return StableDiffusionPipeline(
        **networks,
        tokenizer=save_tokenizer(connection, name, folder),
        scheduler=DDIMScheduler.from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Learner:
    """The networks that learn, those that they lean on, and the loss of a step."""

    def __init__(self, pipeline: Any, data: Data, flip: bool, text_learns: bool, accelerator: Accelerator) -> None:
        self.pipeline, self.flip, self.accelerator = pipeline, flip, accelerator
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        learning = {"unet": pipeline.unet} | ({"text_encoder": pipeline.text_encoder} if text_learns else {})
        self.network = torch.nn.ModuleDict(learning)
        self.captions, self.text_learns = data.captions, text_learns
        self.is_latent = hasattr(pipeline, "vae")
        images = torch.from_numpy(data.images)
        if not self.is_latent:
            self.clean = images  # (N, 3, H, W), uint8
            return
        for part in (pipeline.vae, *([] if text_learns else [pipeline.text_encoder])):
            part.to(accelerator.device).eval().requires_grad_(False)
        self.clean = self.encode(images)  # (N, C, h, w)
        self.flipped = self.encode(images.flip(-1)) if flip else self.clean
        self.tokens = token_ids(pipeline.tokenizer, data.captions or [""] * len(images))
        self.nothing = token_ids(pipeline.tokenizer, [""])

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Latents as the diffusion has them."""
        vae = self.pipeline.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        parts = []
        for part in images.split(16):
            encoded = vae.encode((part.float() / 127.5 - 1).to(self.accelerator.device))
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
            parts.append(((latents - shift) * vae.config.scaling_factor).cpu())
        return torch.cat(parts)

    def loss(self, network: Any, rows: torch.Tensor, generator: torch.Generator, learns: bool) -> Any:
        """The loss of some of the pictures, and the plain one."""
        device = self.accelerator.device
        turned = (
            torch.rand(len(rows), generator=generator) < 0.5 if self.flip and learns else torch.zeros(len(rows)) > 0
        )
        clean = self.clean[rows]
        if self.is_latent:
            clean = torch.where(turned.view(-1, 1, 1, 1), self.flipped[rows], clean)
        else:
            clean = clean.float() / 127.5 - 1
            clean = torch.where(turned.view(-1, 1, 1, 1), clean.flip(-1), clean)
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = even_timesteps(len(rows), self.scheduler.config.num_train_timesteps, generator)
        if not self.is_latent and self.scheduler.config.prediction_type == "epsilon":
            noise = add_offset(noise, timesteps, self.scheduler, NOISE_OFFSET, generator) if learns else noise
        states: dict[str, Any] = {}
        if self.is_latent:
            dropped = torch.rand(len(rows), generator=generator) < (DROPPED if learns else 0)
            tokens = torch.where(dropped[:, None], self.nothing, self.tokens[rows]).to(device)
            encoder = network["text_encoder"] if self.text_learns else self.pipeline.text_encoder
            states = {"encoder_hidden_states": encoder(tokens)[0]}
        unet = network["unet"]
        return denoising_loss(
            lambda noisy, times: unet(noisy, times, **states).sample,
            self.scheduler,
            clean.to(device),
            noise.to(device),
            timesteps.to(device),
            SNR_GAMMA,
            multiscale=not self.is_latent,
        )

    def sample(self, count: int, steps: int, seed: int) -> list[Image.Image]:
        """Pictures of the network as it is, always from the same noise and of the same captions."""
        generators = [torch.Generator().manual_seed(seed + number) for number in range(count)]
        self.pipeline.set_progress_bar_config(disable=True)
        settings = {"generator": generators, "num_inference_steps": steps, "output_type": "pil"}
        if not self.is_latent:
            return list(self.pipeline(count, **settings).images)
        prompts = [self.captions[-1 - n % len(self.captions)] if self.captions else "" for n in range(count)]
        return list(self.pipeline(prompts, **settings).images)


# --- the whole --------------------------------------------------------------------------------------------------------


class Told(NamedTuple):
    """What a snapshot says of the run."""

    part: str  # Training or Autoencoder
    step: int
    steps: int
    loss: float  # the plain one, of the steps since the last
    held_out: float  # of the pictures that are not learned from, with the averaged weights
    seconds: float  # of training, in all
    left: float  # seconds


def accelerate(device: str) -> Accelerator:
    """Where it computes. Raises a Problem where that is not to be had."""
    there = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device in there and not there[device]():
        raise Problem(f"--device {device}: torch finds none", "Leave it out: the best one there is is taken.", USAGE)
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if on_gpu else "no")


def train(
    folder: Path,
    settings: Settings,
    data: Data,
    original: Original | None,
    accelerator: Accelerator,
    progress: Progress,
    tell: Callable[[Told], None],
) -> Path:
    """Trains to the end, and saves the pipeline; the folder of it. A run that is stopped is a Problem that says how to go on."""
    torch.manual_seed(settings.seed)
    pipeline = original.pipeline if original else first_pipeline(folder, settings, data, accelerator, progress, tell)
    learner = Learner(pipeline, data, settings.flip, settings.captions and original is None, accelerator)

    def losses(network: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(settings.seed, step)
        rows = torch.randint(data.learned, (settings.batch,), generator=generator)
        pair: tuple[torch.Tensor, torch.Tensor] = learner.loss(network, rows, generator, learns=True)
        return pair

    def look(network: Any, step: int) -> float:
        snapshot(learner, folder, settings, step)
        return held_out_loss(learner, network, data, settings.seed)

    trainer = optimize(
        "Training",
        learner.network,
        folder,
        "checkpoint.pt",
        settings,
        settings.steps,
        losses,
        look,
        accelerator,
        progress,
        tell,
    )
    with trainer.averaged():
        save_pipeline(learner.pipeline, original, settings, folder / "pipeline")
    animate(folder)
    return folder / "pipeline"


def optimize(
    title: str,
    network: Any,
    folder: Path,
    checkpoint: str,
    settings: Settings,
    steps: int,
    losses: Callable[[Any, int], tuple[torch.Tensor, torch.Tensor]],
    look: Callable[[Any, int], float],
    accelerator: Accelerator,
    progress: Progress,
    tell: Callable[[Told], None],
) -> Trainer:
    """Steps of a network, from its checkpoint on, to the last. `look` measures the averaged one on what is held out."""
    how = Optimization(settings.learning_rate, settings.ema_decay, warmup=min(200, max(1, steps // 20)), fall=0.3)
    trainer = Trainer(network, how, folder / checkpoint, accelerator)
    if trainer.checkpoint.exists():
        trainer.resume()
    begun, before, saved, total, count = trainer.done, trainer.seconds, time.monotonic(), 0.0, 0
    task = progress.add_task(title, total=steps, completed=trainer.done)
    with stoppable() as stop:
        while trainer.done < steps:
            _, plain = trainer.update(steps, losses)
            total, count = total + plain, count + 1
            progress.update(task, completed=trainer.done, description=f"{title}, loss {total / count:.4f}")
            ended = trainer.done == steps
            if trainer.done % settings.snapshot_every == 0 or ended:
                trainer.save()
                with trainer.averaged() as averaged:
                    held = look(averaged, trainer.done)
                pace = (trainer.seconds - before) / (trainer.done - begun)
                told = Told(
                    title, trainer.done, steps, total / count, held, trainer.seconds, pace * (steps - trainer.done)
                )
                with (folder / "log.jsonl").open("a") as log:
                    print(json.dumps(told._asdict()), file=log)
                tell(told)
                total, count, saved = 0.0, 0, time.monotonic()
            elif stop.asked or time.monotonic() - saved > KEPT_SECONDS:
                trainer.save()
                saved = time.monotonic()
            if stop.asked and not ended:
                raise Problem(
                    f"{title.lower()} stopped after step {trainer.done} of {steps}",
                    f"Go on with it: the same command with --resume; its folder is {folder}",
                    INTERRUPTED,
                )
    progress.remove_task(task)
    return trainer


def train_autoencoder(
    folder: Path,
    settings: Settings,
    data: Data,
    accelerator: Accelerator,
    progress: Progress,
    tell: Callable[[Told], None],
) -> Any:
    """An autoencoder of the pictures, its latents scaled to a deviation of 1; it is kept when it is done."""
    kept = folder / "vae"
    if kept.exists():
        return AutoencoderTiny.from_pretrained(kept)
    images = torch.from_numpy(data.images)
    side = min(CROP, settings.size)

    def error(vae: Any, rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        left, top = torch.randint(settings.size - side + 1, (2,), generator=generator).tolist()
        clean = (images[rows][..., top : top + side, left : left + side].float() / 127.5 - 1).to(accelerator.device)
        latents = vae.encode(clean).latents
        # a little noise: what the diffusion makes will be off by as much; and the latents are to stay near 1
        noisy = latents + 0.05 * torch.randn(latents.shape, generator=generator).to(latents)
        loss = (vae.decode(noisy).sample - clean).abs().mean()
        return loss + 1e-3 * latents.square().mean(), loss.detach()

    def losses(vae: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(settings.seed + 1, step)
        return error(vae, torch.randint(data.learned, (settings.batch,), generator=generator), generator)

    def look(vae: Any, step: int) -> float:
        if not data.held_out:
            return math.nan
        return error(vae, torch.arange(data.learned, len(images)), step_generator(settings.seed, -1))[1].item()

    steps = settings.autoencoder_steps or max(1, settings.steps // 2)
    trainer = optimize(
        "Autoencoder",
        new_autoencoder(settings.size),
        folder,
        "autoencoder.pt",
        settings,
        steps,
        losses,
        look,
        accelerator,
        progress,
        tell,
    )
    with trainer.averaged() as vae:
        some = (images[:64].float() / 127.5 - 1).to(accelerator.device)
        deviation = torch.cat([vae.encode(part).latents for part in some.split(16)]).std().item()
        vae.register_to_config(scaling_factor=1 / max(deviation, 1e-3))
        vae.save_pretrained(folder / "vae.new")
        (folder / "vae.new").rename(kept)
    return AutoencoderTiny.from_pretrained(kept)


def first_pipeline(
    folder: Path,
    settings: Settings,
    data: Data,
    accelerator: Accelerator,
    progress: Progress,
    tell: Callable[[Told], None],
) -> Any:
    """What a run begins with that has no original: networks by lot, and with captions an autoencoder that has learned."""
    if data.captions:
        vae = train_autoencoder(folder, settings, data, accelerator, progress, tell)
        return text_pipeline(folder, settings, data.captions[: data.learned], vae)
    head = math.gcd(32, *settings.channels[-2:])
    unet = pixel_unet(settings.channels, head, 8, settings.size)
    return DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02))


def held_out_loss(learner: Learner, network: Any, data: Data, seed: int) -> float:
    """The plain loss of the pictures that are not learned from, always at the same noise."""
    if not data.held_out:
        return math.nan
    rows = torch.arange(data.learned, len(data.images))
    generator = step_generator(seed, -1)
    parts = [(learner.loss(network, part, generator, learns=False)[1].item(), len(part)) for part in rows.split(16)]
    return sum(value * count for value, count in parts) / len(rows)


def snapshot(learner: Learner, folder: Path, settings: Settings, step: int) -> None:
    """A grid of samples."""
    if not settings.snapshot_count:
        return
    images = learner.sample(settings.snapshot_count, 20, settings.seed)
    (folder / "snapshots").mkdir(exist_ok=True)
    pictures.save_png(pictures.make_grid(images), folder / "snapshots" / f"{step:07d}.png", {"step": str(step)})


def animate(folder: Path) -> None:
    """The snapshots one after the other."""
    frames = [Image.open(file).convert("RGB") for file in sorted((folder / "snapshots").glob("*.png"))]
    if any(one.size != other.size for one, other in pairwise(frames)):
        frames = [frame for frame in frames if frame.size == frames[-1].size]
    if frames:
        pictures.save_animation(frames, folder / "snapshots.gif", {"snapshots": str(len(frames))})


def save_pipeline(pipeline: Any, original: Original | None, settings: Settings, folder: Path) -> None:
    """The model as diffusers saves it, and how the extension draws with it by default."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    defaults: dict[str, Any] = {"scheduler": "ddpm", "num_inference_steps": 25}
    if settings.captions:
        defaults = {"scheduler": "dpmsolver++", "num_inference_steps": 15, "guidance_scale": 4}
    if original is not None:
        defaults = original.defaults
        scheduler = json.dumps(original.scheduler, indent=2)
        (folder / "scheduler" / "scheduler_config.json").write_text(scheduler, encoding="utf-8")
    (folder / "sql_diffusion.json").write_text(json.dumps(defaults), encoding="utf-8")


def load_trained(connection: Connection, folder: Path, name: str, replace: bool, progress: Progress) -> Loaded:
    """Puts the finished model into the database, whole or not at all."""
    return load_checkpoint(connection, Request(str(folder)), name, replace, progress)
