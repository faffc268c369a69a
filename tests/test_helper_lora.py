"""LoRA files merged while a model is loaded: W + scale * alpha / rank * up @ down, whatever the tensors are called.

The files are named by diffusers' own converters, and read back by its own readers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from rich.progress import Progress
from safetensors.torch import load_file, save_file

import pipelines
from sql_diffusion import lora
from sql_diffusion.checkpoint import Module, match_modules, read_headers, read_weight
from sql_diffusion.errors import Problem
from sql_diffusion.load import Request, choose

QUIET = Progress(disable=True)
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


@pytest.fixture
def pipeline(rng: np.random.Generator, tmp_path: Path) -> Any:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    return pipeline


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


def fused(
    pipeline: Any, tensors: dict[str, torch.Tensor], scale: float, alphas: dict[str, float] | None = None
) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that the networks have with these factors in them, by the paper's formula."""
    states = {name: dict(pipelines.state(network)) for name, network in pipelines.networks(pipeline).items()}
    for name, down in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        path = name.removesuffix(".lora_A.weight")
        network, _, key = path.partition(".")
        up = tensors[f"{path}.lora_B.weight"]
        alpha = (alphas or {}).get(path, len(down))
        weight = states[network][f"{key}.weight"]
        product = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        states[network][f"{key}.weight"] = weight + scale * alpha / len(down) * product
    return states


def merged(folder: Path, *texts: str) -> dict[str, list[Module]]:
    """The modules of each network as `sql-diffusion load folder --lora ...` writes them."""
    modules = {}
    for component in choose(Request(str(folder)), QUIET).components:
        files = [component.source.fetch(file, QUIET) for file in component.weights]
        tensors = component.translate(read_headers(files))
        keys = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
        expected = [
            (
                key,
                list(tensors[f"{key}.weight"].shape),
                list(tensors[f"{key}.bias"].shape) if f"{key}.bias" in tensors else None,
            )
            for key in keys
        ]
        modules[component.name] = match_modules(tensors, expected)
    for text in texts:
        opened = lora.open_lora(text)
        modules = lora.merge(opened, opened.source.fetch(opened.file, QUIET), modules)
    return modules


def assert_merged(modules: dict[str, list[Module]], states: dict[str, dict[str, torch.Tensor]], changed: int) -> None:
    for network, part in modules.items():
        for module in part:
            wanted = states[network][f"{module.key}.weight"]
            np.testing.assert_allclose(read_weight(module), wanted.numpy(), rtol=1e-5, atol=1e-5, err_msg=module.key)
    assert sum(bool(module.updates) for part in modules.values() for module in part) == changed


def kohya(tensors: dict[str, torch.Tensor], alphas: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As diffusers converts to the names of kohya, with an alpha of its own for each module."""
    renamed: dict[str, torch.Tensor] = convert_state_dict_to_kohya(dict(tensors))
    for path, alpha in alphas.items():
        network, _, key = path.partition(".")
        name = f"lora_{network.replace('text_encoder', 'te1')}_{key.replace('.', '_')}.alpha"
        assert name in renamed
        renamed[name] = torch.tensor(alpha)
    return renamed


@pytest.mark.parametrize("scale", [1.0, 0.6, -1.5])
@pytest.mark.parametrize("text_model", [True, False])
def test_peft(pipeline: Any, tmp_path: Path, scale: float, text_model: bool) -> None:
    """As save_lora_weights writes them; transformers 5 has no text_model before the modules."""
    tensors = factors(pipeline)
    named = tensors if text_model else {name.replace("text_model.", ""): value for name, value in tensors.items()}
    save_file(named, tmp_path / "pytorch_lora_weights.safetensors")
    text = f"{tmp_path / 'pytorch_lora_weights.safetensors'}:{scale}" if scale != 1 else str(tmp_path)
    modules = merged(tmp_path / "whole", text)
    assert_merged(modules, fused(pipeline, tensors, scale), len(tensors) // 2)


def test_peft_with_the_settings_of_its_training(pipeline: Any, tmp_path: Path) -> None:
    """alpha, which newer files tell in their header: one for all, and others for modules whose name ends so."""
    tensors = factors(pipeline)
    settings = {"unet.r": RANK, "unet.lora_alpha": 10, "unet.alpha_pattern": {"conv_in": 3, "attn1.to_q": 5}}
    settings |= {"text_encoder.r": RANK, "text_encoder.lora_alpha": 8, "text_encoder.use_rslora": True}
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    alphas = {}
    for name in tensors:
        path = name.partition(".lora_")[0]
        alphas[path] = {"conv_in": 3.0, "to_q": 5.0}.get(path.rpartition(".")[2], 10.0)
        if path.startswith("text_encoder."):
            alphas[path] = 8 * RANK**0.5  # divided by the square root of the rank
    modules = merged(tmp_path / "whole", f"{tmp_path / 'lora.safetensors'}:0.5")
    assert_merged(modules, fused(pipeline, tensors, 0.5, alphas), len(tensors) // 2)


@pytest.mark.parametrize("kind", [int, float])
def test_kohya(pipeline: Any, tmp_path: Path, kind: type) -> None:
    """Flat names, an alpha for each module, convolutions too."""
    tensors = factors(pipeline)
    paths = [name.partition(".lora_")[0] for name in tensors if ".lora_A." in name]
    alphas = {path: kind(number % 3 + 1) for number, path in enumerate(paths)}
    save_file(kohya(tensors, alphas), tmp_path / "kohya.safetensors")
    assert all(name.startswith("lora_") for name in load_file(tmp_path / "kohya.safetensors"))
    modules = merged(tmp_path / "whole", f"{tmp_path / 'kohya.safetensors'}:0.7")
    assert_merged(modules, fused(pipeline, tensors, 0.7, alphas), len(paths))


def test_diffusers_old_names(pipeline: Any, tmp_path: Path) -> None:
    """to_q_lora.down of attention processors, and lora_linear_layer of text encoders, as diffusers converts to them."""
    tensors = factors(pipeline, ATTENTION)
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
    old = {name: tensor for name, tensor in old.items() if "text_encoder" not in name} | text
    assert any("processor.to_out_lora.down" in name for name in old)
    assert any("q_proj.lora_linear_layer.up" in name for name in old)
    save_file(old, tmp_path / "old.safetensors")
    modules = merged(tmp_path / "whole", f"{tmp_path / 'old.safetensors'}")
    assert_merged(modules, fused(pipeline, tensors, 1.0), len(tensors) // 2)

    # older still: of the U-Net alone, which no name tells
    bare = {name.removeprefix("unet."): tensor for name, tensor in old.items() if name.startswith("unet.")}
    save_file(bare, tmp_path / "bare.safetensors")
    modules = merged(tmp_path / "whole", f"{tmp_path / 'bare.safetensors'}")
    ours = {name: tensor for name, tensor in tensors.items() if name.startswith("unet.")}
    assert_merged(modules, fused(pipeline, ours, 1.0), len(ours) // 2)


def test_kohya_of_the_original_layout(rng: np.random.Generator, tmp_path: Path) -> None:
    """LoRA files of XL name the U-Net's modules as Stable Diffusion's own code does, and the second text encoder te2."""
    pipeline = pipelines.random_pipeline("XL", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
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
    assert any(name.startswith("lora_unet_output_blocks_") for name in flat)
    save_file(flat, tmp_path / "xl.safetensors")
    modules = merged(tmp_path / "whole", f"{tmp_path / 'xl.safetensors'}:2")
    alphas = {name.partition(".lora_")[0]: 1.0 for name in tensors}
    assert_merged(modules, fused(pipeline, tensors, 2.0, alphas), len(tensors) // 2)


def test_several(pipeline: Any, tmp_path: Path) -> None:
    """Files are merged one after the other, the same module twice too."""
    first, second = factors(pipeline), factors(pipeline, ATTENTION, rank=2)
    save_file(first, tmp_path / "first.safetensors")
    save_file(second, tmp_path / "second.safetensors")
    states = fused(pipeline, first, 0.5)
    more = fused(pipeline, second, 1.0)
    plain = {name: pipelines.state(network) for name, network in pipelines.networks(pipeline).items()}
    both = {
        network: {name: tensor + more[network][name] - plain[network][name] for name, tensor in state.items()}
        for network, state in states.items()
    }
    modules = merged(tmp_path / "whole", f"{tmp_path / 'first.safetensors'}:0.5", str(tmp_path / "second.safetensors"))
    assert_merged(modules, both, len(first) // 2)


def test_what_is_refused(pipeline: Any, tmp_path: Path) -> None:
    tensors = factors(pipeline, ATTENTION)
    name = f"unet.{ATTENTION['unet'][0]}"

    def refused(content: dict[str, torch.Tensor]) -> str:
        save_file(content, tmp_path / "lora.safetensors")
        with pytest.raises(Problem) as refusal:
            merged(tmp_path / "whole", str(tmp_path / "lora.safetensors"))
        return refusal.value.message

    alone = {key: value for key, value in tensors.items() if key != f"{name}.lora_B.weight"}
    assert f"without {name}.lora_B.weight" in refused(alone)
    assert "does not fit" in refused(tensors | {f"{name}.lora_A.weight": torch.ones(RANK, 7)})
    assert "dora_scale" in refused(tensors | {f"{name}.dora_scale": torch.ones(3)})
    assert "hada_w1_a" in refused({"lora_unet_conv_in.hada_w1_a": torch.ones(3, 3)})
    nowhere = {f"unet.nowhere.lora_{letter}.weight": torch.ones(RANK, RANK) for letter in "AB"}
    assert "unet.nowhere" in refused(tensors | nowhere)
    second = {key.replace("text_encoder.", "text_encoder_2."): value for key, value in tensors.items()}
    assert "text_encoder_2." in refused(second)
    assert "no pair" in refused({"conv_in.weight": torch.ones(3)})
    assert "not of a LoRA" in refused(tensors | {"unet.conv_in.weight": torch.ones(3)})
    for text in (
        f"{tmp_path}/nothing.safetensors",
        f"{tmp_path}/whole/unet/config.json:1",
        f"{tmp_path}/lora.safetensors:nan",
    ):
        with pytest.raises(Problem):
            lora.open_lora(text)
