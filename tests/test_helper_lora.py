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
from rich.progress import Progress
from safetensors.torch import load_file, save_file

import pipelines
from lora_files import ATTENTION, RANK, factors, kohya, old_names, original_kohya
from sql_diffusion import lora
from sql_diffusion.checkpoint import Module, match_modules, read_headers, read_weight
from sql_diffusion.errors import Problem
from sql_diffusion.load import Request, choose

QUIET = Progress(disable=True)


@pytest.fixture
def pipeline(rng: np.random.Generator, tmp_path: Path) -> Any:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    return pipeline


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
    old = old_names(tensors)
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
    tensors, flat = original_kohya(pipeline)
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
