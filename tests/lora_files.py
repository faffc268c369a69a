"""LoRA files with random factors, their tensors named as peft, diffusers and kohya name them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya

import pipelines

RANK = 4
# of the small Stable Diffusion 1: linear layers and convolutions of 3x3 and 1x1, in blocks and around them
MODULES = {
    "unet": [
        "conv_in",
        "time_embedding.linear_1",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.resnets.1.time_emb_proj",
        "down_blocks.0.downsamplers.0.conv",
        "down_blocks.0.attentions.0.proj_in",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v",
        "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
        "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
        "mid_block.resnets.1.conv2",
        "up_blocks.0.resnets.0.conv_shortcut",
        "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.attentions.2.proj_out",
        "conv_out",
    ],
    "text_encoder": [
        "text_model.encoder.layers.0.self_attn.q_proj",
        "text_model.encoder.layers.1.self_attn.k_proj",
        "text_model.encoder.layers.1.self_attn.v_proj",
        "text_model.encoder.layers.1.self_attn.out_proj",
        "text_model.encoder.layers.1.mlp.fc1",
    ],
}
ATTENTION = {
    "unet": [key for key in MODULES["unet"] if ".attn" in key],
    "text_encoder": [key for key in MODULES["text_encoder"] if "self_attn" in key],
}


def factors(pipeline: Any, modules: dict[str, list[str]] = MODULES, rank: int = RANK) -> dict[str, torch.Tensor]:
    """Random factors for these modules, named as peft names them."""
    tensors: dict[str, torch.Tensor] = {}
    for network, keys in modules.items():
        state = pipelines.state(getattr(pipeline, network))
        for key in keys:
            out, channels, *window = state[f"{key}.weight"].shape
            down = torch.randn(rank, channels, *window)
            up = torch.randn(out, rank, *(1 for _ in window))
            tensors |= {f"{network}.{key}.lora_A.weight": down, f"{network}.{key}.lora_B.weight": up}
    return tensors


def kohya(tensors: dict[str, torch.Tensor], alphas: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As diffusers converts to the names of kohya, with an alpha of its own for each module."""
    renamed: dict[str, torch.Tensor] = convert_state_dict_to_kohya(dict(tensors))
    for path, alpha in alphas.items():
        network, _, key = path.partition(".")
        name = f"lora_{network.replace('text_encoder', 'te1')}_{key.replace('.', '_')}.alpha"
        assert name in renamed
        renamed[name] = torch.tensor(alpha)
    return renamed


def old_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """to_q_lora.down of attention processors, and lora_linear_layer of text encoders, as diffusers converts to them."""
    old = {}
    for name, tensor in tensors.items():
        if name.startswith("unet."):
            name = name.replace(".to_out.0.lora_", ".to_out.lora_")
            for kind, letter in (("down", "A"), ("up", "B")):
                name = name.replace(f".lora_{letter}.weight", f"_lora.{kind}.weight")
            for attention in ("attn1", "attn2"):
                name = name.replace(f"{attention}.", f"{attention}.processor.")
        old[name] = tensor
    text = convert_state_dict_to_diffusers({name: tensor for name, tensor in old.items() if "text_encoder" in name})
    return {name: tensor for name, tensor in old.items() if "text_encoder" not in name} | text


def original_kohya(pipeline: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Factors for every matrix and kernel of a pipeline of XL, by the names of peft and, each with an alpha of 1, by those
    of kohya: the U-Net's modules as Stable Diffusion's own code has them, the text encoders te1 and te2."""
    original = pipelines.original_unet(pipeline.unet)
    tensors: dict[str, torch.Tensor] = {}
    flat: dict[str, torch.Tensor] = {}
    for network in ("unet", "text_encoder", "text_encoder_2"):
        state = pipelines.state(getattr(pipeline, network))
        own = getattr(pipeline, network).state_dict()
        for name, weight in state.items():
            key = name.removesuffix(".weight")
            if weight.ndim < 2 or key == name or "embedding" in name.split(".")[-2]:
                continue
            factor = factors(pipeline, {network: [key]}, rank=2)
            tensors |= factor
            down, up = factor[f"{network}.{key}.lora_A.weight"], factor[f"{network}.{key}.lora_B.weight"]
            if network == "unet":
                found = next(other for other, tensor in original.items() if tensor.data_ptr() == own[name].data_ptr())
                path = found.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
                path = f"lora_unet_{path}"
            else:
                path = f"lora_te{'2' if network.endswith('2') else '1'}_{key.replace('.', '_')}"
            flat |= {f"{path}.lora_down.weight": down, f"{path}.lora_up.weight": up, f"{path}.alpha": torch.tensor(1.0)}
    return tensors, flat
