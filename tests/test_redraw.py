"""Pictures that begin with a picture, against diffusers' pipelines: the same seed, random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import psycopg
import pytest
import torch
from PIL import Image
from psycopg import Connection
from psycopg.types.json import Jsonb
from transformers import CLIPTextModel

from databases import new_database
from reference import insert_model, random_unet, randomize
from text_pipelines import autoencoder, grey_levels, insert_pipeline, text_model, unet
from trained_tokenizers import reference

pytest_plugins = ["text_pipelines"]

PROMPT = "a blue butterfly"
SEED = 42
SAMPLERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}
LOW_RES = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
}
IMAGE_TO_IMAGE = {
    "1": diffusers.StableDiffusionImg2ImgPipeline,
    "2": diffusers.StableDiffusionImg2ImgPipeline,
    "XL": diffusers.StableDiffusionXLImg2ImgPipeline,
    "consistency": diffusers.LatentConsistencyModelImg2ImgPipeline,
}
INPAINT = {
    "1": diffusers.StableDiffusionInpaintPipeline,
    "2": diffusers.StableDiffusionInpaintPipeline,
    "sees the mask": diffusers.StableDiffusionInpaintPipeline,
    "XL": diffusers.StableDiffusionXLInpaintPipeline,
}


def upscaler(folders: dict[str, Path]) -> Any:
    """As x4-upscaler: a small picture beside the latent, how much noise is on it as a class, v_prediction."""
    return diffusers.StableDiffusionUpscalePipeline(
        vae=autoencoder(scaling_factor=0.08333), text_encoder=text_model(folders["tokenizer"], CLIPTextModel),
        tokenizer=reference(folders["tokenizer"]), unet=unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=diffusers.DDPMScheduler.from_config(LOW_RES),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None, feature_extractor=None,
    )  # fmt: skip


def super_resolution() -> Any:
    decoder = randomize(
        diffusers.VQModel(
            block_out_channels=[4, 8], layers_per_block=1, norm_num_groups=2, latent_channels=3, num_vq_embeddings=16, vq_embed_dim=3,
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )  # fmt: skip
    network = random_unet(np.random.default_rng(5), in_channels=6, out_channels=3)
    return diffusers.LDMSuperResolutionPipeline(
        vqvae=decoder, unet=network, scheduler=diffusers.DDIMScheduler(clip_sample=False)
    )


@pytest.fixture(scope="module")
def models(pipelines: dict[str, Any], folders: dict[str, Path]) -> dict[str, Any]:
    """Those of text_to_image, and others that are made for pictures."""
    torch.manual_seed(2)
    sees = diffusers.StableDiffusionInpaintPipeline(
        **{**pipelines["1"].components, "unet": unet(in_channels=9), "safety_checker": None},
        requires_safety_checker=False,
    )
    made = {**pipelines, "sees the mask": sees, "upscaler": upscaler(folders), "super resolution": super_resolution()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
        if hasattr(pipeline, "text_encoder"):
            object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    return made


@pytest.fixture(scope="module")
def pixels() -> Any:
    return random_unet(np.random.default_rng(3))


@pytest.fixture(scope="module")
def loaded(models: dict[str, Any], folders: dict[str, Path], pixels: Any) -> Iterator[Connection]:
    with new_database("sql_diffusion_numpy") as name, psycopg.connect(dbname=name, autocommit=True) as connection:
        for model, pipeline in models.items():
            if model == "super resolution":
                scheduler = {"_class_name": "DDIMScheduler", **pipeline.scheduler.config}
                kind = "LDMSuperResolutionPipeline"
                insert_model(connection, model, pipeline.unet, scheduler, kind, vqvae=pipeline.vqvae)
            else:
                insert_pipeline(connection, model, pipeline, folders)
        connection.execute(
            "update sql_diffusion.models set defaults = %s where name = 'upscaler'",
            [Jsonb({"low_res_scheduler": LOW_RES, "max_noise_level": 350})],
        )
        insert_model(connection, "pixels", pixels)
        yield connection


def picture(rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    """An image as a file has it: grey levels."""
    return rng.integers(0, 256, (channels, height, width)).astype(np.float32) / np.float32(255)


def call(connection: Connection, verb: str, backend: str, positional: list[Any], **named: Any) -> np.ndarray:
    """What a verb returns."""
    lists = [each.tolist() if isinstance(each, np.ndarray) else each for each in positional]
    named = {"backend": backend, **named}
    arguments = ["%s::real[]" if isinstance(each, list) else "%s" for each in lists]
    arguments += [f"{name} => %s" + ("::real" if isinstance(value, float) else "") for name, value in named.items()]
    row = connection.execute(f"select {verb}({', '.join(arguments)})".encode(), [*lists, *named.values()]).fetchone()
    assert row is not None
    return np.array(row[0], np.float32)


def of_parts(kind: Any, pipeline: Any) -> Any:
    """Another pipeline of the same parts."""
    extra = {"add_watermarker": False} if "XL" in kind.__name__ else {"requires_safety_checker": False}
    return kind(**pipeline.components, **extra)


def theirs(pipeline: Any, image: np.ndarray, sampler: str | None, *texts: str, **settings: Any) -> np.ndarray:
    """diffusers' picture (channels, height, width)."""
    if sampler is not None:
        # as read from a file, which does not tell what was left to a default
        config = {name: value for name, value in pipeline.scheduler.config.items() if name != "_use_default_values"}
        pipeline.scheduler = SAMPLERS[sampler].from_config(config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    made = pipeline(*texts, image=torch.from_numpy(image)[None], generator=generator, output_type="np", **settings)
    array: np.ndarray = made.images[0].transpose(2, 0, 1)
    assert np.std(array) > 0.02  # a picture, not a plain ground
    return array


# model, sampler, what else both are told
CHANGES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "defaults": ("1", None, {"num_inference_steps": 3}),
    "all steps": ("1", None, {"num_inference_steps": 2, "strength": 1.0, "guidance_scale": 1.0}),
    "a negative prompt": ("1", "euler", {"num_inference_steps": 4, "strength": 0.6, "negative_prompt": "a moth", "clip_skip": 1}),
    "latents without a distribution, fresh noise": ("2", None, {"num_inference_steps": 4, "strength": 0.5, "eta": 0.7}),
    "sizes": ("XL", None, {"num_inference_steps": 4, "strength": 0.5}),
    "sizes, their strength": ("XL", None, {"num_inference_steps": 7}),
    "consistency": ("consistency", None, {}),
    "consistency, a part": ("consistency", None, {"num_inference_steps": 3, "strength": 0.35, "guidance_scale": 2.0}),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(("model", "sampler", "settings"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_picture_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, model: str, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    image = picture(rng, 3, 16, 24)
    # the pipelines of SDXL have no size to resize to: theirs is the image's
    expected = theirs(of_parts(IMAGE_TO_IMAGE[model], models[model]), image, sampler, PROMPT, **settings)
    ours = call(loaded, "image_to_image", backend, [image, PROMPT, SEED], model=model, scheduler=sampler, **settings)
    assert grey_levels(ours, expected) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_changed_picture_by_every_sampler(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str
) -> None:
    """And one that is filled in: which noise a step's sample has, each sampler says in its own way."""
    image, mask = picture(rng, 3, 16, 16), picture(rng, 1, 16, 16)
    settings: dict[str, Any] = {"num_inference_steps": 6, "strength": 0.7, "guidance_scale": 1.0}
    model = "1" if sampler in ("pndm", "euler", "lms", "heun", "unipc") else "2"
    expected = theirs(of_parts(IMAGE_TO_IMAGE[model], models[model]), image, sampler, PROMPT, **settings)
    named = {"model": model, "scheduler": sampler, **settings}
    assert grey_levels(call(loaded, "image_to_image", "numpy", [image, PROMPT, SEED], **named), expected) <= 1
    expected = theirs(
        of_parts(INPAINT[model], models[model]), image, sampler, PROMPT,
        mask_image=torch.from_numpy(mask)[None], height=16, width=16, **settings,
    )  # fmt: skip
    assert grey_levels(call(loaded, "inpaint", "numpy", [image, mask, PROMPT, SEED], **named), expected) <= 1


FILLED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "defaults": ("1", None, {"num_inference_steps": 2}),
    "a part of the steps, fresh noise": ("1", "ddim", {"num_inference_steps": 4, "strength": 0.6, "eta": 1.0}),
    "latents without a distribution": ("2", "euler_ancestral", {"num_inference_steps": 3}),
    "sees the mask": ("sees the mask", None, {"num_inference_steps": 2}),
    "sees the mask, a part of the steps": ("sees the mask", "euler_ancestral", {"num_inference_steps": 4, "strength": 0.6, "negative_prompt": "a moth"}),
    "sizes": ("XL", None, {"num_inference_steps": 3}),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(("model", "sampler", "settings"), FILLED.values(), ids=FILLED.keys())
def test_a_picture_that_is_filled_in_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, model: str, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    image, mask = picture(rng, 3, 16, 24), picture(rng, 1, 16, 24)
    pipeline = models[model] if model == "sees the mask" else of_parts(INPAINT[model], models[model])
    expected = theirs(
        pipeline, image, sampler, PROMPT, mask_image=torch.from_numpy(mask)[None], height=16, width=24, **settings
    )
    ours = call(loaded, "inpaint", backend, [image, mask, PROMPT, SEED], model=model, scheduler=sampler, **settings)
    assert grey_levels(ours, expected) <= 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_mask_is_read_as_diffusers_reads_a_file(loaded: Connection, rng: np.random.Generator, channels: int) -> None:
    levels = rng.integers(110, 146, (channels, 12, 12)).astype(np.uint8)  # about the half
    levels[:, 0, :4] = np.array([127, 128, 0, 255])
    modes = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
    file = Image.fromarray(levels[0] if channels == 1 else levels.transpose(1, 2, 0).copy(), modes[channels])
    processor = diffusers.image_processor.VaeImageProcessor(
        vae_scale_factor=2, do_normalize=False, do_binarize=True, do_convert_grayscale=True
    )
    expected = processor.preprocess(file.convert("L"))[0].numpy()
    row = loaded.execute(
        "select sql_diffusion.binary_mask(%s::real[])", [(levels.astype(np.float32) / np.float32(255)).tolist()]
    ).fetchone()
    assert row is not None
    np.testing.assert_array_equal(np.array(row[0], np.float32), expected)


def test_masks_of_colours_are_alike(loaded: Connection, rng: np.random.Generator) -> None:
    image, mask = picture(rng, 3, 16, 16), picture(rng, 3, 16, 16)
    one, two = (
        call(loaded, "inpaint", backend, [image, mask, PROMPT, SEED], model="1", num_inference_steps=1)
        for backend in ("sql", "numpy")
    )
    assert grey_levels(one, two) <= 1


LARGER: dict[str, tuple[str | None, dict[str, Any]]] = {
    "defaults": (None, {"num_inference_steps": 2}),
    "much noise": ("euler", {"num_inference_steps": 2, "noise_level": 350, "guidance_scale": 2.0, "negative_prompt": "a moth"}),
    "no noise": (None, {"num_inference_steps": 3, "noise_level": 0, "guidance_scale": 1.0, "eta": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize(("sampler", "settings"), LARGER.values(), ids=LARGER.keys())
def test_a_larger_picture_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    image = picture(rng, 3, 8, 12)
    pipeline = models["upscaler"]
    own = pipeline.scheduler
    expected = theirs(pipeline, image, sampler, PROMPT, **settings)
    pipeline.scheduler = own
    named = {"model": "upscaler", "scheduler": sampler, **settings}
    ours = call(loaded, "upscale", backend, [image, SEED, PROMPT], **named)
    assert ours.shape == (3, 16, 24)
    assert grey_levels(ours, expected) <= 1


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize("sampler", [None, "euler"])  # those that draw no noise: theirs is not of the generator
def test_super_resolution_without_a_prompt(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str | None, backend: str
) -> None:
    image = picture(rng, 3, 8, 16)
    pipeline = models["super resolution"]
    own = pipeline.scheduler
    expected = theirs(pipeline, 2 * image - 1, sampler, num_inference_steps=2)
    pipeline.scheduler = own
    named = {"model": "super resolution", "num_inference_steps": 2, "scheduler": sampler}
    assert grey_levels(call(loaded, "upscale", backend, [image, SEED], **named), expected) <= 1


def unconditional(
    network: Any, scheduler: Any, image: np.ndarray, mask: np.ndarray | None, steps: int, strength: float
) -> np.ndarray:
    """diffusers has no such pipeline: the loop of its image-to-image and inpainting pipelines, over pixels."""
    generator = torch.Generator().manual_seed(SEED)
    original = 2 * torch.from_numpy(image)[None] - 1
    scheduler.set_timesteps(steps)
    noise = diffusers.utils.torch_utils.randn_tensor(original.shape, generator=generator)
    timesteps = scheduler.timesteps[steps - int(steps * strength) :]
    sample = scheduler.add_noise(original, noise, timesteps[:1])
    if mask is not None and strength == 1:
        sample = noise * scheduler.init_noise_sigma
    for place, timestep in enumerate(timesteps):
        with torch.no_grad():
            output = network(sample, timestep).sample
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
        if mask is not None:
            kept = original
            if place + 1 < len(timesteps):
                kept = scheduler.add_noise(original, noise, timesteps[place + 1 : place + 2])
            white = (torch.from_numpy(mask) >= 0.5).float()
            sample = (1 - white) * kept + white * sample
    array: np.ndarray = (sample / 2 + 0.5).clamp(0, 1)[0].numpy()
    return array


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_pictures_of_a_model_without_a_prompt(
    loaded: Connection, pixels: Any, rng: np.random.Generator, backend: str
) -> None:
    image, mask = picture(rng, 3, 8, 12), picture(rng, 1, 8, 12)
    named: dict[str, Any] = {"model": "pixels", "num_inference_steps": 4}
    expected = unconditional(pixels, diffusers.DDPMScheduler(), image, None, 4, 0.5)
    ours = call(loaded, "image_to_image", backend, [image, None, SEED], strength=0.5, **named)
    assert grey_levels(ours, expected) <= 1
    expected = unconditional(pixels, diffusers.DDPMScheduler(), image, mask, 4, 1)
    ours = call(loaded, "inpaint", backend, [image, mask, None, SEED], **named)
    assert grey_levels(ours, expected) <= 1
    kept = mask < 0.5
    assert np.abs(ours - image)[np.repeat(kept, 3, axis=0)].max() < 1e-6  # of a model of pixels the rest is untouched
