"""Whole pipelines of diffusers, small and random, and their weights in the layout of Stable Diffusion's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# The three families as they were published, and as small as they can be and still be told apart: channels of which the
# heads and groups follow as they do in the large ones.
UNETS: dict[str, dict[str, Any]] = {
    "1": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "2": {
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "XL": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SMALL_UNETS: dict[str, dict[str, Any]] = {
    "1": UNETS["1"]
    | {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64,
    },
    "2": UNETS["2"]
    | {
        "block_out_channels": (64, 128),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
    },
    "XL": UNETS["XL"]
    | {
        "block_out_channels": (64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 192,
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (1, 2),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 32,
    },
}
VAES: dict[str, dict[str, Any]] = {
    family: {
        "sample_size": pixels,
        "scaling_factor": scaling_factor,
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
    }
    for family, pixels, scaling_factor in (("1", 512, 0.18215), ("2", 768, 0.18215), ("XL", 1024, 0.13025))
}
SMALL_VAE: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
ALPHA = {"set_alpha_to_one": False}
SCHEDULERS: dict[str, Any] = {
    "1": PNDMScheduler(**SCHEDULE, **ALPHA, skip_prk_steps=True),
    "2": DDIMScheduler(**SCHEDULE, **ALPHA, clip_sample=False, prediction_type="v_prediction"),
    "XL": EulerDiscreteScheduler(**SCHEDULE, timestep_spacing="leading"),
}


def text_config(hidden: int, layers: int, **settings: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        **{
            "vocab_size": 600,
            "hidden_size": hidden,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "max_position_embeddings": 77,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
            **settings,
        }
    )


def tokenizer(folder: Path) -> CLIPTokenizer:
    """One that knows bytes alone: no merges."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}')
    return CLIPTokenizer.from_pretrained(folder)


def random_pipeline(family: str, rng: np.random.Generator, folder: Path, **unet: Any) -> Any:
    """A small pipeline of a family with random weights; the folder is for its tokenizer."""
    torch.manual_seed(int(rng.integers(2**32)))
    words = tokenizer(folder)
    padded = CLIPTokenizer.from_pretrained(folder, pad_token="!")  # as with OpenCLIP's text encoders
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**SMALL_UNETS[family] | unet),
        "vae": AutoencoderKL(**VAES[family] | SMALL_VAE),
        "scheduler": SCHEDULERS[family],
        "tokenizer": padded if family == "2" else words,
        "text_encoder": CLIPTextModel(
            text_config(64, 2, hidden_act="gelu" if family == "2" else "quick_gelu", projection_dim=512)
        ),
    }
    if family == "XL":
        parts["text_encoder_2"] = CLIPTextModelWithProjection(text_config(128, 3, hidden_act="gelu", projection_dim=32))
        parts["tokenizer_2"] = padded
        pipeline = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    with torch.no_grad():
        for network in (pipeline.unet, pipeline.vae):
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn(parameter.shape)
    return pipeline


def networks(pipeline: Any) -> dict[str, torch.nn.Module]:
    """The networks of a pipeline by name."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a network; of a text encoder with text_model. before them, as checkpoints have it."""
    clip = type(network).__name__.startswith("CLIP")
    return {
        f"text_model.{name}" if clip and not name.startswith(("text_model.", "text_projection.")) else name: tensor
        for name, tensor in network.state_dict().items()
        if not name.endswith("position_ids")
    }


# The original layout, by an inverse of diffusers' conversion of our own. diffusers reads it back in the tests.


def original_unet(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """model.diffusion_model.*"""
    places: dict[str, str] = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            places[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            place = 2 if hasattr(block, "attentions") else 1
            places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    inside = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    tensors = {}
    for name, tensor in unet.state_dict().items():
        key, _, kind = name.rpartition(".")
        module = max((each for each in places if key == each or key.startswith(f"{each}.")), key=len)
        rest = key.removeprefix(module).removeprefix(".")
        rest = inside.get(rest, rest) if ".resnets." in module else rest
        tensors[".".join(part for part in ("model.diffusion_model", places[module], rest, kind) if part)] = tensor
    return tensors


def original_vae(vae: AutoencoderKL, prefix: str = "first_stage_model.") -> dict[str, torch.Tensor]:
    """first_stage_model.*, the attention's matrices as convolutions of 1x1."""
    levels = len(vae.config.block_out_channels)
    tensors = {}
    for name, tensor in vae.state_dict().items():
        for level in range(levels):
            name = name.replace(f"encoder.down_blocks.{level}.resnets", f"encoder.down.{level}.block")
            name = name.replace(f"encoder.down_blocks.{level}.downsamplers.0", f"encoder.down.{level}.downsample")
            name = name.replace(f"decoder.up_blocks.{level}.resnets", f"decoder.up.{levels - 1 - level}.block")
            name = name.replace(f"decoder.up_blocks.{level}.upsamplers.0", f"decoder.up.{levels - 1 - level}.upsample")
        name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for now, then in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                name = name.replace(now, then)
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        tensors[prefix + name] = tensor
    return tensors


def original_clip(encoder: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """A text encoder as transformers of old wrote it, with the positions as a tensor of integers."""
    positions = torch.arange(77).reshape(1, 77)
    tensors = {prefix + name: tensor for name, tensor in state(encoder).items()}
    return {**tensors, f"{prefix}text_model.embeddings.position_ids": positions}


def open_clip(encoder: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """A text encoder as OpenCLIP wrote it: queries, keys and values in one matrix, the projection's axes exchanged."""
    tensors = {}
    own = state(encoder)
    for name, tensor in own.items():
        name = name.removeprefix("text_model.")
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [own["text_model." + name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            tensor = torch.cat(parts)
            name = name.replace(".q_proj.", ".in_proj_")
        name = name.replace("encoder.layers.", "transformer.resblocks.").replace("self_attn", "attn")
        name = name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        name = name.replace("final_layer_norm", "ln_final")
        name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
        name = name.replace("embeddings.token_embedding", "token_embedding")
        if name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T
        tensors[prefix + name] = tensor
    return {**tensors, f"{prefix}logit_scale": torch.tensor(2.6)}


def save_single(family: str, pipeline: Any, file: Path) -> None:
    """The pipeline in one file, with what such files hold besides: averages, the schedule."""
    tensors = {
        **original_unet(pipeline.unet),
        **original_vae(pipeline.vae),
        "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        "betas": torch.linspace(0.01, 0.02, 1000),
    }
    if family == "1":
        tensors |= original_clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    elif family == "2":
        tensors |= open_clip(pipeline.text_encoder, "cond_stage_model.model.")
        # the layer after the last that is read, and a projection that is not
        layers = pipeline.text_encoder.config.num_hidden_layers
        last = f"cond_stage_model.model.transformer.resblocks.{layers - 1}."
        tensors |= {
            name.replace(f".{layers - 1}.", f".{layers}."): tensor + 1
            for name, tensor in tensors.items()
            if name.startswith(last)
        }
        tensors["cond_stage_model.model.text_projection"] = torch.eye(pipeline.text_encoder.config.hidden_size)
    else:
        tensors |= original_clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, file)
