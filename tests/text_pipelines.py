"""Pipelines of text models with random weights, small enough for pure SQL in a test; tokenizers are trained on the spot.

A plugin: pytest_plugins = ["text_pipelines"] gives its fixtures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from psycopg import Connection
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from reference import insert_model, randomize
from trained_tokenizers import insert_tokenizer, reference, train


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers: as Stable Diffusion 1 has it, and one that pads otherwise, as SDXL's second."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("tokenizers")
    return {
        "tokenizer": train(folder / "one", "CLIPTokenizer", rng, model_max_length=20),
        "tokenizer_2": train(folder / "two", "CLIPTokenizer", rng, model_max_length=20, pad_token="!"),
    }


def text_model(folder: Path, kind: Any, **settings: Any) -> Any:
    words = reference(folder)
    config = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 20, "projection_dim": 12,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
    }  # fmt: skip
    return randomize(kind(CLIPTextConfig(**{**config, **settings})))


def unet(width: int = 16, **settings: Any) -> UNet2DConditionModel:
    config = {
        "sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
        "attention_head_dim": 2, "cross_attention_dim": width,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    return randomize(UNet2DConditionModel(**{**config, **settings}))


def autoencoder(**settings: Any) -> AutoencoderKL:
    config = {
        "block_out_channels": [4, 8], "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4, "sample_size": 16,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    return randomize(AutoencoderKL(**{**config, **settings}))


def tiny_autoencoder() -> AutoencoderTiny:
    channels = (8, 8)
    return randomize(
        AutoencoderTiny(
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
            latent_channels=4,
        )
    )


OFF: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def stable_diffusion_1(folders: dict[str, Path]) -> Any:
    """1.4: heads, pndm with an offset, quick_gelu."""
    return StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_model(folders["tokenizer"], CLIPTextModel),
        tokenizer=reference(folders["tokenizer"]), unet=unet(),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        ),
        **OFF,
    )  # fmt: skip


def stable_diffusion_2(folders: dict[str, Path]) -> Any:
    """2.1: linear projections, heads by level, gelu, v_prediction; with the tiny autoencoder."""
    return StableDiffusionPipeline(
        vae=tiny_autoencoder(), text_encoder=text_model(folders["tokenizer"], CLIPTextModel, hidden_act="gelu"),
        tokenizer=reference(folders["tokenizer"]), unet=unet(attention_head_dim=[1, 4], use_linear_projection=True),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        **OFF,
    )  # fmt: skip


def stable_diffusion_xl(folders: dict[str, Path]) -> Any:
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        text_encoder=text_model(folders["tokenizer"], CLIPTextModel),
        text_encoder_2=text_model(folders["tokenizer_2"], CLIPTextModelWithProjection, hidden_size=20, hidden_act="gelu"),
        tokenizer=reference(folders["tokenizer"]), tokenizer_2=reference(folders["tokenizer_2"]),
        unet=unet(
            36, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=12 + 24,
            transformer_layers_per_block=[1, 2], use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )  # fmt: skip


def consistency(folders: dict[str, Path]) -> Any:
    return LatentConsistencyModelPipeline(
        vae=autoencoder(), text_encoder=text_model(folders["tokenizer"], CLIPTextModel),
        tokenizer=reference(folders["tokenizer"]), unet=unet(time_cond_proj_dim=14),
        scheduler=LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        **OFF,
    )  # fmt: skip


def turbo(folders: dict[str, Path]) -> Any:
    """2.1, distilled to one step without guidance (arXiv 2311.17042)."""
    pipeline = stable_diffusion_2(folders)
    pipeline.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing"
    )
    return pipeline


def larger_autoencoder(folders: dict[str, Path]) -> Any:
    """Its latents are an eighth of the picture's height and width, as in all that are published."""
    pipeline = stable_diffusion_1(folders)
    pipeline.register_modules(
        vae=autoencoder(
            block_out_channels=[4, 4, 4, 8],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
        )
    )
    pipeline.vae_scale_factor = 8
    return pipeline


PIPELINES: dict[str, Callable[[dict[str, Path]], Any]] = {
    "1": stable_diffusion_1,
    "2": stable_diffusion_2,
    "XL": stable_diffusion_xl,
    "consistency": consistency,
    "turbo": turbo,
    "eighths": larger_autoencoder,
}


def insert_pipeline(server: Connection, name: str, pipeline: Any, folders: dict[str, Path]) -> None:
    components = {
        part: getattr(pipeline, part)
        for part in ("vae", "text_encoder", "text_encoder_2")
        if getattr(pipeline, part, None) is not None
    }
    scheduler = {"_class_name": type(pipeline.scheduler).__name__, **pipeline.scheduler.config}
    insert_model(server, name, pipeline.unet, scheduler, type(pipeline).__name__, **components)
    for part in components:
        if part.startswith("text_encoder"):
            words = part.replace("text_encoder", "tokenizer")
            insert_tokenizer(server, name, folders[words], words)


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, Any]:
    torch.manual_seed(1)
    made = {name: make(folders) for name, make in PIPELINES.items()}
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
        # where diffusers looks for the norm after skipped layers; transformers 5 has it one module further up
        object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    return made


def grey_levels(ours: Any, theirs: np.ndarray) -> float:
    """The largest difference of two pictures (channels, height, width), values 0 to 1, in levels of 255."""
    mine = np.array(ours)
    assert mine.shape == theirs.shape
    return float(np.abs(np.round(mine * 255) - np.round(theirs * 255)).max())
