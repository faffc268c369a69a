"""Reads the files that hold a whole pipeline, in the layout of Stable Diffusion's own code: 1.x, 2.x and XL.

model.diffusion_model.* is the U-Net, first_stage_model.* the autoencoder, cond_stage_model.* the text encoder, and of XL
conditioner.embedders.0.* and .1.* the two. Such a file says nothing of how its networks are built: what shapes tell is
derived from them, and the rest are facts of the three families, which the shapes tell apart as diffusers tells them
apart. --config names a pipeline whose configurations are taken instead.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from rich.progress import Progress

from .checkpoint import (
    LATENTS,
    Checkpoint,
    Component,
    TokenizerFiles,
    addition,
    choose_weights,
    find_tokenizers,
    read_index,
)
from .errors import USAGE, Problem
from .hub import Source, open_file, open_source
from .json_files import read_json
from .names import Tensors, network_class, network_tensors, unwrap
from .tensors import Tensor, read_header

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
CLIP_XL = "conditioner.embedders.0.transformer."
OPEN_CLIP_XL = "conditioner.embedders.1.model."
REFINER = "conditioner.embedders.0.model."

# CLIP's vocabulary and merges, which all three families share.
TOKENIZER = "openai/clip-vit-large-patch14"

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


class Family(NamedTuple):
    """What the shapes of a file do not tell."""

    name: str
    pipeline: str
    pixels: int  # height and width of the pictures that it was trained on
    scaling_factor: float  # of the latents
    scheduler: dict[str, Any]
    text_encoders: tuple[str, ...]  # where they are in the file
    pad_tokens: tuple[str | None, ...]  # of their tokenizers, where it is not the end token of CLIP's own
    heads: Callable[[int], int]  # of the U-Net's attention with so many channels
    defaults: dict[str, Any]
    note: str | None = None


SD1 = Family(
    name="Stable Diffusion 1",
    pipeline="StableDiffusion",
    pixels=512,
    scaling_factor=0.18215,
    scheduler={"_class_name": "PNDMScheduler", **SCHEDULE},
    text_encoders=(CLIP,),
    pad_tokens=(None,),
    heads=lambda channels: 8,
    defaults={},
)
SD2 = Family(
    name="Stable Diffusion 2",
    pipeline="StableDiffusion",
    pixels=768,
    scaling_factor=0.18215,
    scheduler={"_class_name": "DDIMScheduler", **SCHEDULE, "prediction_type": "v_prediction"},
    text_encoders=(OPEN_CLIP,),
    pad_tokens=("!",),
    heads=lambda channels: channels // 64,
    defaults={},
    note="it is taken for a Stable Diffusion 2 of 768 pixels, which predicts v; its base of 512 pixels has the same "
    "shapes and predicts epsilon: --config stabilityai/stable-diffusion-2-1-base",
)
XL = Family(
    name="Stable Diffusion XL",
    pipeline="StableDiffusionXL",
    pixels=1024,
    scaling_factor=0.13025,
    scheduler={
        "_class_name": "EulerDiscreteScheduler",
        **SCHEDULE,
        "interpolation_type": "linear",
        "prediction_type": "epsilon",
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "use_karras_sigmas": False,
    },
    text_encoders=(CLIP_XL, OPEN_CLIP_XL),
    pad_tokens=(None, "!"),
    heads=lambda channels: channels // 64,
    defaults={"force_zeros_for_empty_prompt": True},
)


def open_single(text: str, revision: str | None, config: str | None, progress: Progress) -> Checkpoint | None:
    """The checkpoint in a file that holds a whole pipeline; None where the text names something else."""
    found = open_file(text, revision)
    if found is None or not found[1].endswith(".safetensors"):
        return None
    source, name = found
    if source.revision is None and "config.json" in source.names:
        return None
    tensors = unwrap(read_header(source.fetch(name, progress)))
    if not any(key.startswith(UNET) for key in tensors):
        return None
    family = tell_family(source, tensors)

    channels = tensors[f"{UNET}input_blocks.0.0.weight"].shape[1]
    pipeline = family.pipeline + ("InpaintPipeline" if channels == 9 else "Pipeline")
    configs = {
        "unet": unet_config(family, tensors),
        "vae": vae_config(family, part(tensors, VAE)),
        **text_configs(tensors),
    }
    notes = [family.note] if family.note and config is None else []
    scheduler, defaults = family.scheduler, family.defaults
    given = None
    if config is not None:
        given = open_source(config, None)
        configs.update(read_configs(given, list(configs), progress))
        if "scheduler/scheduler_config.json" in given.names:
            scheduler = read_json(given.fetch("scheduler/scheduler_config.json", progress), "scheduler_config.json")
    layers = int(configs["unet"]["layers_per_block"])
    translations: dict[str, Callable[[Tensors], Tensors]] = {
        "unet": partial(unet_tensors, layers),
        "vae": vae_tensors,
        "text_encoder": text_tensors,
        "text_encoder_2": second_text_tensors,
    }
    components = [Component(part, configs[part], source, [name], translations[part]) for part in configs]
    tokenizers = single_tokenizers(family, given)
    return Checkpoint(source, pipeline, scheduler, components, defaults, notes, tokenizers)


def tell_family(source: Source, tensors: Tensors) -> Family:
    """Which of the families a file is of. Raises a Problem for one that is not run."""
    if any(name.startswith(REFINER) for name in tensors):
        raise Problem(f"{source.label} is a refiner of Stable Diffusion XL, which is not run", "Load the base model.")
    if f"{UNET}label_emb.weight" in tensors:
        raise Problem(
            f"{source.label} is an upscaler in one file, which does not say how it is built",
            "Load the folder or repository of its pipeline.",
        )
    families = {OPEN_CLIP_XL: XL, OPEN_CLIP: SD2}
    family = next((each for prefix, each in families.items() if part(tensors, prefix)), SD1)
    missing = [
        prefix for prefix in (VAE, *family.text_encoders) if not any(name.startswith(prefix) for name in tensors)
    ]
    if missing or f"{UNET}input_blocks.0.0.weight" not in tensors:
        raise Problem(
            f"{source.label} looks like {family.name}, and holds no {', '.join(missing or [UNET + 'input_blocks.0.0'])}",
            "A file of the U-Net alone goes with nothing: load a file or a folder of the whole pipeline.",
        )
    return family


def read_configs(source: Source, names: list[str], progress: Progress) -> dict[str, dict[str, Any]]:
    """The configurations that a pipeline has of these networks."""
    return {
        name: read_json(source.fetch(f"{name}/config.json", progress), f"{name}/config.json")
        for name in names
        if f"{name}/config.json" in source.names
    }


def single_tokenizers(family: Family, given: Source | None) -> list[TokenizerFiles]:
    """The tokenizers that go with a file: those of the pipeline that was given, else CLIP's own."""
    if given is not None and (found := find_tokenizers(given)):
        return found
    source = given if given is not None and "vocab.json" in given.names else None
    return [
        TokenizerFiles(name, source or TOKENIZER, "", pad_token)
        for name, pad_token in zip(("tokenizer", "tokenizer_2"), family.pad_tokens, strict=False)
    ]


# The configurations


def part(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors of one network, without what stands before their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def indexes(tensors: Tensors, prefix: str) -> list[int]:
    """The numbers that follow a prefix, ascending: of input_blocks. in input_blocks.0.0.weight, ... they are 0, 1, ..."""
    found = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return sorted(int(number) for number in found if number.isdigit())


def unet_config(family: Family, tensors: Tensors) -> dict[str, Any]:
    """The configuration of a U-Net whose tensors have these shapes."""
    unet = part(tensors, UNET)
    channels: list[int] = []  # of each level
    depths: list[int] = []  # transformer layers of each level's attention, 0 for none
    resnets = [0]  # of each level
    for number in indexes(unet, "input_blocks.")[1:]:
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in unet:
            resnets.append(0)
            continue
        resnets[-1] += 1
        if resnets[-1] == 1:
            channels.append(unet[f"{block}.0.out_layers.3.weight"].shape[0])
            depths.append(len(indexes(unet, f"{block}.1.transformer_blocks.")))
    cross = next(tensor.shape[1] for name, tensor in unet.items() if name.endswith(".attn2.to_k.weight"))
    linear = any(name.endswith(".1.proj_in.weight") and len(tensor.shape) == 2 for name, tensor in unet.items())
    heads = [family.heads(each) for each in channels]
    layers = [depth or 1 for depth in depths]
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": family.pixels // 8,
        "in_channels": unet["input_blocks.0.0.weight"].shape[1],
        "out_channels": unet["out.2.weight"].shape[0],
        "block_out_channels": channels,
        "layers_per_block": resnets[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "transformer_layers_per_block": layers if len(set(layers)) > 1 else layers[0],
        "cross_attention_dim": cross,
        "attention_head_dim": heads if len(set(heads)) > 1 else heads[0],
        "use_linear_projection": linear,
    }
    if "label_emb.0.0.weight" in unet:
        width = unet["label_emb.0.0.weight"].shape[1]
        pooled = tensors[f"{OPEN_CLIP_XL}text_projection"].shape[1]
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (width - pooled) // 6,  # the size, the crop and the size wanted: six numbers
            "projection_class_embeddings_input_dim": width,
        }
    return config


def vae_config(family: Family, vae: Tensors) -> dict[str, Any]:
    """The configuration of an autoencoder whose tensors have these shapes."""
    levels = indexes(vae, "encoder.down.")
    channels = [vae[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in levels]
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": family.pixels,
        "in_channels": vae["encoder.conv_in.weight"].shape[1],
        "out_channels": vae["decoder.conv_out.weight"].shape[0],
        "latent_channels": vae["decoder.conv_in.weight"].shape[1],
        "block_out_channels": channels,
        "layers_per_block": len(indexes(vae, "encoder.down.0.block.")),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
        "norm_num_groups": 32,
        "act_fn": "silu",
        "scaling_factor": family.scaling_factor,
    }


def text_configs(tensors: Tensors) -> dict[str, dict[str, Any]]:
    """The configurations of the text encoders that a file holds."""
    configs = {}
    for prefix in (CLIP, CLIP_XL):
        if clip := part(tensors, prefix):
            configs["text_encoder"] = text_config(network_tensors("CLIPTextModel", clip), "quick_gelu")
    for prefix, name in ((OPEN_CLIP, "text_encoder"), (OPEN_CLIP_XL, "text_encoder_2")):
        if clip := part(tensors, prefix):
            configs[name] = text_config(open_clip_tensors(clip, projection=prefix == OPEN_CLIP_XL), "gelu")
    return configs


def text_config(clip: Tensors, hidden_act: str) -> dict[str, Any]:
    """The configuration of a CLIP text encoder whose tensors have these shapes."""
    positions, hidden = clip["text_model.embeddings.position_embedding.weight"].shape
    projection = clip.get("text_projection.weight")
    return {
        "architectures": ["CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": clip["text_model.embeddings.token_embedding.weight"].shape[0],
        "max_position_embeddings": positions,
        "hidden_size": hidden,
        "intermediate_size": clip["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": len(indexes(clip, "text_model.encoder.layers.")),
        "num_attention_heads": max(hidden // 64, 1),
        "projection_dim": 512 if projection is None else projection.shape[0],
        "hidden_act": hidden_act,
        "layer_norm_eps": 1e-5,
        # as the configurations of all three families have it: transformers then takes the largest token for the end
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


# The names


RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
AROUND = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def unet_module(key: str, layers: int) -> str:
    """The name that diffusers gives to a module of a U-Net with so many resnets a block: input_blocks.1.0.in_layers.2."""
    if key in AROUND:
        return AROUND[key]
    match = re.fullmatch(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)", key)
    if match is None:
        return key
    side, number, rest = match[1], int(match[2]), match[3]
    if side == "middle_block":  # resnet, attention, resnet
        block = ["mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"][min(number, 2)]
        return f"{block}.{RESNET.get(rest, rest)}"
    place, _, rest = rest.partition(".")
    # each block is layers resnets, of which each may have attention, and a downsampler, or one resnet more
    level, layer = divmod(number - 1 if side == "input_blocks" else number, layers + 1)
    block = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}"
    if rest == "op":
        return f"{block}.downsamplers.0.conv"
    if rest == "conv":
        return f"{block}.upsamplers.0.conv"
    return f"{block}.resnets.{layer}.{RESNET.get(rest, rest)}" if place == "0" else f"{block}.attentions.{layer}.{rest}"


def unet_tensors(layers: int, tensors: Tensors) -> Tensors:
    """The tensors of the U-Net of a file by the names of diffusers."""
    renamed = {}
    for name, tensor in part(unwrap(tensors), UNET).items():
        key, _, kind = name.rpartition(".")
        renamed[f"{unet_module(key, layers)}.{kind}"] = tensor
    return renamed


def vae_tensors(tensors: Tensors) -> Tensors:
    """The tensors of the autoencoder of a file, or of a file of an autoencoder alone, by the names of diffusers."""
    tensors = unwrap(tensors)
    vae = part(tensors, VAE) or tensors
    # what training needed: a discriminator, and the averages of weights
    vae = {name: tensor for name, tensor in vae.items() if not name.startswith(("loss.", "model_ema."))}
    levels = len(indexes(vae, "encoder.down."))
    return {vae_name(name, levels): tensor for name, tensor in vae.items()}


def vae_name(name: str, levels: int) -> str:
    """The name that diffusers gives to a tensor of an autoencoder with so many levels."""
    key, _, kind = name.rpartition(".")
    key = key.replace("norm_out", "conv_norm_out").replace("nin_shortcut", "conv_shortcut")
    key = re.sub(r"mid\.block_(\d)", lambda match: f"mid_block.resnets.{int(match[1]) - 1}", key)
    if key.startswith(("encoder.mid.attn_1.", "decoder.mid.attn_1.")):
        side, _, rest = key.partition(".mid.attn_1.")
        attention = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
        return f"{side}.mid_block.attentions.0.{attention.get(rest, rest)}.{kind}"
    key = re.sub(r"encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets.", key)
    key = re.sub(r"encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0.", key)
    # the decoder's levels are counted from the other end
    key = re.sub(
        r"decoder\.up\.(\d+)\.(block|upsample)\.",
        lambda match: (
            f"decoder.up_blocks.{levels - 1 - int(match[1])}."
            + {"block": "resnets.", "upsample": "upsamplers.0."}[match[2]]
        ),
        key,
    )
    return f"{key}.{kind}"


def text_tensors(tensors: Tensors) -> Tensors:
    """The tensors of the only text encoder of a file, or of the first, by the names of transformers."""
    tensors = unwrap(tensors)
    if clip := part(tensors, CLIP) or part(tensors, CLIP_XL):
        return network_tensors("CLIPTextModel", clip)
    return open_clip_tensors(part(tensors, OPEN_CLIP), projection=False)


def second_text_tensors(tensors: Tensors) -> Tensors:
    """The tensors of the second text encoder of XL, by the names of transformers."""
    return open_clip_tensors(part(unwrap(tensors), OPEN_CLIP_XL), projection=True)


def open_clip_tensors(tensors: Tensors, projection: bool) -> Tensors:
    """The tensors of a text encoder of OpenCLIP by the names of transformers.

    With the projection it is the second one of XL. Without it is that of Stable Diffusion 2, which reads the hidden states
    before the last layer: that layer and the projection are left out, as diffusers leaves them out.
    """
    around = {
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
    }
    inside = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    last = max(indexes(tensors, "transformer.resblocks."), default=0)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if name in around:
            renamed[around[name]] = tensor
        elif name == "text_projection":
            if projection:
                renamed["text_projection.weight"] = tensor.transpose()
        elif match and (projection or int(match[1]) != last):
            layer, rest = f"text_model.encoder.layers.{match[1]}", match[2]
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                width = tensor.shape[0] // 3  # queries, keys and values are one matrix
                for place, letter in enumerate("qkv"):
                    kind = rest.rpartition("_")[2]
                    renamed[f"{layer}.self_attn.{letter}_proj.{kind}"] = tensor.rows(place * width, (place + 1) * width)
            else:
                key, _, kind = rest.rpartition(".")
                key = inside.get(key, key.replace("attn.", "self_attn."))
                renamed[f"{layer}.{key}.{kind}"] = tensor
    return renamed


# Another autoencoder


def with_vae(checkpoint: Checkpoint, text: str, variant: str | None, progress: Progress) -> Checkpoint:
    """The checkpoint with another autoencoder: a folder, repository or file, of it alone or of a pipeline."""
    present = next((each for each in checkpoint.components if each.name == "vae"), None)
    if present is None:
        raise Problem(
            f"{checkpoint.source.label} has no autoencoder that --vae could replace", "Leave --vae out.", USAGE
        )
    found = open_file(text)
    vae = file_vae(present, *found, progress) if found else folder_vae(open_source(text, None), variant, progress)
    components = [vae if each is present else each for each in checkpoint.components]
    return replace(checkpoint, components=components, additions=[*checkpoint.additions, addition(vae.source)])


def folder_vae(source: Source, variant: str | None, progress: Progress) -> Component:
    """The autoencoder in a folder or repository: in its folder vae, or at its root."""
    folder = next((each for each in ("vae/", "") if f"{each}config.json" in source.names), None)
    if folder is None:
        raise Problem(
            f"{source.label} holds neither vae/config.json nor config.json",
            "Give a folder that diffusers' save_pretrained wrote, or a .safetensors file.",
        )
    return component_vae(source, folder, choose_weights(source, folder, variant), progress)


def file_vae(present: Component, source: Source, name: str, progress: Progress) -> Component:
    """The autoencoder in a file, in the layout of its own code or, beside a config.json, of diffusers."""
    if not name.endswith(".safetensors"):
        raise Problem(f"{source.label} is not a .safetensors file", "Give a folder or a .safetensors file.")
    tensors = unwrap(read_header(source.fetch(name, progress)))
    vae = part(tensors, VAE) or tensors
    if "encoder.down.0.block.0.conv1.weight" not in vae:
        if "config.json" in source.names:
            return component_vae(source, "", name, progress)
        raise Problem(f"there is no config.json beside {source.label}", "It says how the network is built.")
    # such a file does not say how its latents are scaled: as those that the U-Net was trained on
    config = vae_config(SD1, vae) | {
        key: present.config[key]
        for key in ("sample_size", "scaling_factor", "shift_factor", "force_upcast")
        if key in present.config
    }
    return Component("vae", config, source, [name], vae_tensors)


def component_vae(source: Source, folder: str, weights: str, progress: Progress) -> Component:
    """The autoencoder whose config.json is in this folder."""
    config = read_json(source.fetch(f"{folder}config.json", progress), f"{folder}config.json")
    network = network_class(config)
    if network not in LATENTS["vae"]:
        raise Problem(f"{source.label} is a {network}, and --vae takes {' or '.join(LATENTS['vae'])}", exit_code=USAGE)
    files = [weights]
    if weights.endswith(".json"):
        files = read_index(source, weights, read_json(source.fetch(weights, progress), weights))
    return Component("vae", config, source, files, partial(network_tensors, str(network)))
