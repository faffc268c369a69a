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


def cases(pictures: dict[str, tuple[str, str | None, dict[str, Any]]]) -> list[Any]:
    """Each in NumPy, and those that draw, begin and end in another way in pure SQL, which takes seconds."""
    return [
        pytest.param(*picture, backend, id=f"{name}-{backend}")
        for name, picture in pictures.items()
        for backend in ("numpy", "sql")
        if backend == "numpy" or name in IN_SQL
    ]


IN_SQL = (
    "defaults",
    "latents without a distribution, fresh noise",
    "sizes",
    "consistency, a part",
    "a part of the steps, fresh noise",
    "sees the mask, a part of the steps",
)


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


@pytest.mark.parametrize(("model", "sampler", "settings", "backend"), cases(CHANGES))
def test_a_changed_picture_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, model: str, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    image = picture(rng, 3, 8, 12)
    # the pipelines of SDXL have no size to resize to: theirs is the image's
    expected = theirs(of_parts(IMAGE_TO_IMAGE[model], models[model]), image, sampler, PROMPT, **settings)
    ours = call(loaded, "image_to_image", backend, [image, PROMPT, SEED], model=model, scheduler=sampler, **settings)
    assert grey_levels(ours, expected) <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_changed_picture_by_every_sampler(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str
) -> None:
    """And one that is filled in: which noise a step's sample has, each sampler says in its own way."""
    image, mask = picture(rng, 3, 8, 12), picture(rng, 1, 8, 12)
    settings: dict[str, Any] = {"num_inference_steps": 6, "strength": 0.7, "guidance_scale": 1.0}
    model = "1" if sampler in ("pndm", "euler", "lms", "heun", "unipc") else "2"
    expected = theirs(of_parts(IMAGE_TO_IMAGE[model], models[model]), image, sampler, PROMPT, **settings)
    named = {"model": model, "scheduler": sampler, **settings}
    assert grey_levels(call(loaded, "image_to_image", "numpy", [image, PROMPT, SEED], **named), expected) <= 1
    expected = theirs(
        of_parts(INPAINT[model], models[model]), image, sampler, PROMPT,
        mask_image=torch.from_numpy(mask)[None], height=8, width=12, **settings,
    )  # fmt: skip
    assert grey_levels(call(loaded, "inpaint", "numpy", [image, mask, PROMPT, SEED], **named), expected) <= 1


FILLED: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "defaults": ("1", None, {"num_inference_steps": 2}),
    "a part of the steps, fresh noise": ("1", "ddim", {"num_inference_steps": 4, "strength": 0.6, "eta": 1.0}),
    "latents without a distribution": ("2", "euler_ancestral", {"num_inference_steps": 3}),
    "sees the mask": ("sees the mask", None, {"num_inference_steps": 2}),
    "sees the mask, a part of the steps": ("sees the mask", "euler_ancestral", {"num_inference_steps": 4, "strength": 0.6, "negative_prompt": "a moth"}),
    "sizes, their strength": ("XL", None, {"num_inference_steps": 3}),
}  # fmt: skip


@pytest.mark.parametrize(("model", "sampler", "settings", "backend"), cases(FILLED))
def test_a_picture_that_is_filled_in_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, model: str, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    width = 16 if model == "XL" else 12  # that pipeline wants eights
    image, mask = picture(rng, 3, 8, width), picture(rng, 1, 8, width)
    pipeline = models[model] if model == "sees the mask" else of_parts(INPAINT[model], models[model])
    expected = theirs(
        pipeline, image, sampler, PROMPT, mask_image=torch.from_numpy(mask)[None], height=8, width=width, **settings
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
    image, mask = picture(rng, 3, 8, 12), picture(rng, 3, 8, 12)
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


@pytest.mark.parametrize(
    ("sampler", "settings", "backend"),
    [
        (*each, backend)
        for name, each in LARGER.items()
        for backend in ("numpy", "sql")
        if (name, backend) != ("no noise", "sql")
    ],
)
def test_a_larger_picture_is_diffusers(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str | None,
    settings: dict[str, Any], backend: str,
) -> None:  # fmt: skip
    image = picture(rng, 3, 4, 6)
    pipeline = models["upscaler"]
    own = pipeline.scheduler
    expected = theirs(pipeline, image, sampler, PROMPT, **settings)
    pipeline.scheduler = own
    named = {"model": "upscaler", "scheduler": sampler, **settings}
    ours = call(loaded, "upscale", backend, [image, SEED, PROMPT], **named)
    assert ours.shape == (3, 8, 12)
    assert grey_levels(ours, expected) <= 1


@pytest.mark.parametrize("backend", ["sql", "numpy"])
@pytest.mark.parametrize("sampler", [None, "euler"])  # those that draw no noise: theirs is not of the generator
def test_super_resolution_without_a_prompt(
    loaded: Connection, models: dict[str, Any], rng: np.random.Generator, sampler: str | None, backend: str
) -> None:
    image = picture(rng, 3, 4, 8)
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


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_many_seeds_are_each_the_picture_made_alone(loaded: Connection, rng: np.random.Generator, backend: str) -> None:
    image, mask = picture(rng, 3, 8, 12), picture(rng, 1, 8, 12)
    small = picture(rng, 3, 4, 6)
    settings = f"num_inference_steps => 2, guidance_scale => 1, backend => '{backend}'"
    texts, seeds = ["a moth", "a bee"], [3, -4]
    for verb, model, before, given in (
        ("image_to_image", "1", [image], [texts, seeds]),
        ("inpaint", "1", [image, mask], [texts, seeds]),
        ("upscale", "upscaler", [small], [seeds, texts]),
    )[: 1 if backend == "sql" else 3]:  # whose arrays go one way
        types = ["::real[]" for _ in before]
        places = ", ".join(
            f"%s{each}" for each in [*types, *("::text[]" if g is texts else "::bigint[]" for g in given)]
        )
        rows = loaded.execute(
            f"select prompt, seed, image from {verb}({places}, model => '{model}', {settings}) g".encode(),
            [*(each.tolist() for each in before), *given],
        ).fetchall()
        assert [row[:2] for row in rows] == list(zip(texts, seeds, strict=True)), verb
        for prompt, seed, made in rows:
            places = ", ".join([*(f"%s{each}" for each in types), *("%s::text" if g is texts else "%s" for g in given)])
            alone = loaded.execute(
                f"select {verb}({places}, model => '{model}', {settings})".encode(),
                [*(each.tolist() for each in before), *(prompt if g is texts else seed for g in given)],
            ).fetchone()
            assert alone is not None
            assert grey_levels(made, np.array(alone[0])) <= 1, verb


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_the_steps_lead_to_the_picture(loaded: Connection, rng: np.random.Generator, backend: str) -> None:
    image = picture(rng, 3, 8, 12).tolist()
    settings = f"5, 0.5, '2', num_inference_steps => 4, guidance_scale => 1, backend => '{backend}'"
    rows = loaded.execute(
        f"""select s.step, s.sample, s.pred_original_sample, sql_diffusion.finished_image(s.sample, '2')
            from image_to_image_steps(%s::real[], 'a moth', {settings}) s""".encode(),
        [image],
    ).fetchall()
    assert [row[0] for row in rows] == [1, 2]  # a half of them
    assert all(np.shape(row[1]) == np.shape(row[2]) == (4, 4, 6) for row in rows)
    made = loaded.execute(f"select image_to_image(%s::real[], 'a moth'::text, {settings})".encode(), [image]).fetchone()
    assert made is not None
    assert grey_levels(rows[-1][3], np.array(made[0])) <= 1


GREY = "array_fill(0.5::real, '{3,8,8}')"
MASK = "array_fill(1::real, '{1,8,8}')"
WRONG: dict[str, tuple[str, str]] = {
    "no image": ("image_to_image(null, 'a', 1, {})", "image_to_image: image is null"),
    "an image that is none": ("image_to_image('{{{{1}}}}', 'a', 1, {})", "image_to_image: image has"),
    "a hole in the image": ("image_to_image('{{{{{{NULL}}}},{{{{1}}}},{{{{1}}}}}}', 'a', 1, {})", "image_to_image: image"),
    "values of a sample": ("image_to_image(array_fill(-0.5::real, '{{3,8,8}}'), 'a', 1, {})", "image_to_image: image has a value that is not from 0 to 1"),
    "alpha": ("image_to_image(array_fill(0.5::real, '{{4,8,8}}'), 'a', 1, {})", "image_to_image: image has 4 channels, expected 3"),
    "grey": ("inpaint(array_fill(0.5::real, '{{1,8,8}}'), MASK, 'a', 1, {})", "inpaint: image has 1 channels, expected 3"),
    "a size that does not fit": ("image_to_image(array_fill(0.5::real, '{{3,8,11}}'), 'a', 1, {})", "image_to_image: image is 8 high and 11 wide, expected multiples of 2"),
    "no seed": ("image_to_image(GREY, 'a', null::bigint, {})", "seed is null, expected an integer"),
    "no prompt": ("image_to_image(GREY, null, 1, {})", "prompt is null, expected a text"),
    "no strength": ("image_to_image(GREY, 'a', 1, 0, {})", "strength is 0, expected above 0 and at most 1"),
    "too much strength": ("image_to_image(GREY, 'a', 1, 1.5, {})", "strength is 1.5, expected above 0 and at most 1"),
    "strength that is no number": ("image_to_image(GREY, 'a', 1, 'NaN', {})", "strength is NaN, expected above 0 and at most 1"),
    "less than a step": ("image_to_image(GREY, 'a', 1, 0.3, num_inference_steps => 3, {})", "strength is 0.3, expected from 0.333 to 1: at least one of 3 steps"),
    "no mask": ("inpaint(GREY, null, 'a', 1, {})", "inpaint: mask is null"),
    "another size of mask": ("inpaint(GREY, array_fill(1::real, '{{1,8,4}}'), 'a', 1, {})", "inpaint: mask is 8 high and 4 wide, expected those of image, 8 and 8"),
    "values of a mask in grey levels": ("inpaint(GREY, array_fill(255::real, '{{1,8,8}}'), 'a', 1, {})", "inpaint: mask has a value that is not from 0 to 1"),
    "a model that wants a mask": ("image_to_image(GREY, 'a', 1, model => 'sees the mask', {})", 'image_to_image: the U-Net of model "sees the mask" takes 9 channels and makes 4, expected as many'),
    "a model that upscales": ("inpaint(GREY, MASK, 'a', 1, model => 'upscaler', {})", 'inpaint: the U-Net of model "upscaler" takes 7 channels and makes 4, expected as many or 9'),
    "a model that does not": ("upscale(GREY, 1, 'a', {})", 'model "1" does not upscale: its U-Net takes 4 channels and makes 4'),
    "too much noise": ("upscale(GREY, 1, 'a', 351, model => 'upscaler', {})", "noise_level is 351, expected from 0 to 350"),
    "noise that nobody sees": ("upscale(GREY, 1, null, 20, model => 'super resolution', {})", 'noise_level is 20, but model "super resolution" does not use it'),
    "a prompt that nobody reads": ("image_to_image(GREY, 'a', 1, model => 'pixels', {})", 'prompt is given, but model "pixels" takes no prompt'),
    "guidance without a prompt": ("image_to_image(GREY, null, 1, model => 'pixels', guidance_scale => 2, {})", 'guidance_scale is given, but model "pixels" takes no prompt'),
    "a text model without a picture": ("text_to_image('a', 1, model => 'sees the mask', {})", 'model "sees the mask" begins with a picture: its U-Net takes 9 channels and makes 4'),
    "steps without a picture": ("ddpm_generate(1, model => 'super resolution', {})", 'model "super resolution" begins with a picture: its U-Net takes 6 channels and makes 3'),
    "eta that is not used": ("image_to_image(GREY, 'a', 1, scheduler => 'euler', eta => 0.5, {})", "eta is 0.5, but the scheduler euler does not use it"),
    "seeds and prompts": ("image_to_image(GREY, array['a'], array[1, 2]::bigint[], {})", "prompts has 1 elements and seeds 2, expected as many of one as of the other"),
    "no seeds": ("upscale(GREY, null::bigint[], model => 'upscaler', {})", "seeds is null, expected an array"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_refused(loaded: Connection, call: str, message: str) -> None:
    words = []
    for backend in ("sql", "numpy"):
        model = "" if "model =>" in call else "model => '1', "
        query = call.replace("GREY", GREY.replace("{", "{{").replace("}", "}}")).replace(
            "MASK", MASK.replace("{", "{{").replace("}", "}}")
        )
        with pytest.raises(psycopg.errors.InvalidParameterValue) as error, loaded.transaction():
            loaded.execute(("select " + query.format(f"{model}backend => '{backend}'")).encode()).fetchall()
        assert error.value.diag.message_primary is not None
        assert message in error.value.diag.message_primary, backend
        words.append((error.value.diag.message_primary.removeprefix("sql_diffusion: "), error.value.diag.message_hint))
    assert words[0] == words[1]


def test_an_upscaler_without_its_noise(loaded: Connection) -> None:
    with loaded.transaction(force_rollback=True):
        loaded.execute("update sql_diffusion.models set defaults = '{}' where name = 'upscaler'")
        for backend in ("sql", "numpy"):
            with (
                pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="low_res_scheduler"),
                loaded.transaction(),
            ):
                loaded.execute(f"select upscale({GREY}, 1, model => 'upscaler', backend => '{backend}')".encode())


def test_a_call_without_types_finds_its_function(loaded: Connection) -> None:
    for verb, places, given in (
        ("image_to_image", "$1, $2, $3", f"{GREY}, 'a moth', 3"),
        ("inpaint", "$1, $2, $3, $4", f"{GREY}, {MASK}, 'a moth', '3'"),
    ):
        loaded.execute(
            f"prepare untyped_{verb} as select cardinality({verb}({places}, model => '1', num_inference_steps => 2))".encode()
        )
        assert loaded.execute(f"execute untyped_{verb}({given})".encode()).fetchone() == (3 * 8 * 8,)
        loaded.execute(f"deallocate untyped_{verb}".encode())
