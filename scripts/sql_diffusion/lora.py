"""Merges LoRA files: what they add to the weights of a model's networks, W + scale * alpha / rank * up @ down.

LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685), section 4.1. Three ways to name their tensors are
known, and read as diffusers reads them:

    peft       unet.down_blocks.0.attentions.0.proj_in.lora_A.weight, .lora_B.weight
    diffusers  unet.[...].proj_in.lora.down.weight, .lora.up.weight; older: [...].attn1.processor.to_q_lora.down.weight
    kohya      lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight, .lora_up.weight, .alpha
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .checkpoint import Module, Update, addition, shape_text
from .errors import USAGE, Problem, enumerate_some
from .hub import Source, open_file, open_source
from .names import Tensors
from .single_file import unet_module
from .tensors import Tensor, read_header, read_metadata, read_tensor

WEIGHTS = "pytorch_lora_weights.safetensors"  # as diffusers names it

NETWORKS = ("unet", "text_encoder", "text_encoder_2")
KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}

DOWN = re.compile(r"(.+?)(?:\.lora_A|\.lora_down|\.lora\.down|_lora\.down|\.lora_linear_layer\.down)\.weight")
UP = {"lora_A": "lora_B", "lora_down": "lora_up", ".down.": ".up."}

# What other ways to train small changes call their tensors; they are sums of other kinds.
OTHERS = re.compile(r".*(?:dora_scale|lora_magnitude_vector|lora_mid|hada_|lokr_|lora_B\.bias|oft_|diff_b?).*")


class Lora(NamedTuple):
    """A LoRA file that is to be merged."""

    label: str  # as models.source is to name it
    source: Source
    file: str
    scale: float


class Factors(NamedTuple):
    """What a LoRA file holds for one module."""

    up: Tensor
    down: Tensor
    alpha: float | None


def open_lora(text: str) -> Lora:
    """FILE or FILE:SCALE, the file on disk or of the hub; or the folder or repository that it is the only one of."""
    path, colon, number = text.rpartition(":")
    try:
        scale, name = (float(number), path) if colon else (1.0, text)
    except ValueError:
        scale, name = 1.0, text
    if not abs(scale) < float("inf"):
        raise Problem(f"--lora {text} has no finite scale", "Write it as FILE:0.8.", USAGE)
    found = open_file(name)
    if found is None:
        source = open_source(name, None)
        files = [file for file in source.names if file.endswith(".safetensors")]
        if WEIGHTS not in files and len(files) != 1:
            raise Problem(
                f"{source.label} holds {len(files)} .safetensors files, none of them {WEIGHTS}",
                "Name the file.",
            )
        found = source, WEIGHTS if WEIGHTS in files else files[0]
    source, file = found
    if not file.endswith(".safetensors"):
        raise Problem(f"{source.label} is not a .safetensors file", "Give a LoRA in a .safetensors file.")
    return Lora(f"{addition(source)}:{scale:g}", source, file, scale)


def merge(lora: Lora, file: Path, modules: dict[str, list[Module]]) -> dict[str, list[Module]]:
    """The modules of each network with what a LoRA file adds to them."""
    tensors = read_header(file, counts=True)  # of some files alpha is a whole number
    if others := [name for name in tensors if OTHERS.fullmatch(name)]:
        raise Problem(
            f"{lora.source.label} is not a plain LoRA: {enumerate_some(others)}",
            "LoRA of linear and convolutional layers is merged, without DoRA, LoHa or LoKr.",
        )
    by_name = {
        network: {name: module for module in part for name in spellings(module.key)}
        for network, part in modules.items()
        if network in NETWORKS
    }
    layers = layers_per_block(module.key for module in modules.get("unet", []))
    alphas = adapter_alphas(read_metadata(file))
    updates: dict[tuple[str, str], Update] = {}
    strangers = []
    for name, factors in pair(tensors).items():
        network, key = split_name(name, layers)
        module = by_name.get(network, {}).get(key)
        if module is None:
            strangers.append(name)
            continue
        check_shapes(lora, name, factors, module)
        rank = factors.down.shape[0]
        share = factors.alpha / rank if factors.alpha is not None else alphas.share(network, module.key, rank)
        updates[network, module.key] = Update(factors.up, factors.down, lora.scale * share)
    if strangers or not updates:
        raise Problem(
            f"{lora.source.label} changes what the model does not have: {enumerate_some(strangers)}"
            if strangers
            else f"{lora.source.label} holds no LoRA: no pair of lora_A and lora_B, or of lora_down and lora_up",
            "It has to be made for a model of the same kind.",
        )
    return {
        network: [
            module._replace(updates=(*module.updates, updates[network, module.key]))
            if (network, module.key) in updates
            else module
            for module in part
        ]
        for network, part in modules.items()
    }


def pair(tensors: Tensors) -> dict[str, Factors]:
    """The two factors of each module, by the name that stands before theirs. Raises a Problem where one is alone."""
    pairs, used = {}, set()
    for name, down in tensors.items():
        match = DOWN.fullmatch(name)
        if match is None:
            continue
        up = name
        for old, new in UP.items():
            up = up.replace(old, new)
        if up not in tensors:
            raise Problem(f"{down.file} holds {name} without {up}", "The file is not whole: fetch it again.")
        alpha = tensors.get(f"{match[1]}.alpha")
        pairs[match[1]] = Factors(tensors[up], down, None if alpha is None else float(read_tensor(alpha)))
        used |= {name, up, f"{match[1]}.alpha"}
    if pairs and (unknown := sorted(tensors.keys() - used)):
        raise Problem(
            f"{tensors[unknown[0]].file} holds tensors that are not of a LoRA: {enumerate_some(unknown)}",
            "LoRA of linear and convolutional layers is merged.",
        )
    return pairs


def split_name(name: str, layers: int) -> tuple[str, str]:
    """The network and the flattened key of the module that a name of a LoRA file is about."""
    for prefix, network in KOHYA.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix)
            return network, flatten(original_module(key, layers)) if network == "unet" else key
    name = name.removeprefix("base_model.model.")
    network, _, key = name.partition(".")
    if network not in NETWORKS:
        network, key = "unet", name
    key = key.replace(".processor.", ".")
    if network == "unet":
        key = re.sub(r"\.to_out$", ".to_out.0", key)
    else:
        key = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", key)
    return network, flatten(key)


def original_module(key: str, layers: int) -> str:
    """A key of kohya's whose U-Net was in the layout of Stable Diffusion's own code, as XL's is, in that of diffusers."""
    match = re.fullmatch(r"((?:input_blocks|output_blocks)_\d+|middle_block)_(\d+)_?(.*)", key)
    if match is not None:
        block, place, rest = match.groups()
        rest = re.sub(r"^(in_layers|emb_layers|out_layers)_", r"\1.", rest)
        block = re.sub(r"_(?=\d+$)", ".", block)
        return unet_module(".".join(each for each in (block, place, rest) if each), layers)
    match = re.fullmatch(r"(time_embed|label_emb_0|out)_(\d)", key)
    return unet_module(f"{match[1].replace('_0', '.0')}.{match[2]}", layers) if match else key


def spellings(key: str) -> set[str]:
    """The flattened names of a module: of text encoders with text_model before it and without."""
    return {flatten(key), flatten(key.removeprefix("text_model."))}


def flatten(key: str) -> str:
    """down_blocks.0.resnets.0 becomes down_blocks_0_resnets_0, as kohya writes it."""
    return key.replace(".", "_")


def layers_per_block(keys: Iterable[str]) -> int:
    """How many resnets each of a U-Net's blocks going down has."""
    found = [re.match(r"down_blocks\.0\.resnets\.(\d+)\.", key) for key in keys]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def check_shapes(lora: Lora, name: str, factors: Factors, module: Module) -> None:
    """The product has to be of the weight's shape."""
    up, down, weight = factors.up.shape, factors.down.shape, module.weight_shape
    if not (
        len(up) >= 2
        and len(down) >= 2
        and up[1] == down[0]
        and up[0] == weight[0]
        and factors.up.size == up[0] * up[1]
        and up[0] * factors.down.size == module.weight.size * down[0]
    ):
        raise Problem(
            f"{lora.source.label} does not fit: {name} is {shape_text(up)} times {shape_text(down)}, "
            f"and the weight of {module.key} is {shape_text(weight)}",
            "It has to be made for a model of the same kind.",
        )


class Alphas(NamedTuple):
    """What peft says of how a LoRA was trained, by network."""

    settings: dict[str, dict[str, Any]]

    def share(self, network: str, key: str, rank: int) -> float:
        """By what a product is multiplied: alpha / rank, and 1 where nothing is said."""
        setting = self.settings.get(network, {})
        alpha = by_pattern(setting.get("alpha_pattern") or {}, key, setting.get("lora_alpha"))
        if alpha is None:
            return 1.0
        return float(alpha) / (rank**0.5 if setting.get("use_rslora") else rank)


def adapter_alphas(metadata: dict[str, str]) -> Alphas:
    """The settings in a file's header: {"unet.r": 4, "unet.lora_alpha": 8, ...} as JSON."""
    settings: dict[str, dict[str, Any]] = {}
    for name, value in json.loads(metadata.get("lora_adapter_metadata", "{}")).items():
        network, _, setting = name.partition(".")
        settings.setdefault(network, {})[setting] = value
    return Alphas(settings)


def by_pattern(patterns: dict[str, Any], key: str, default: Any) -> Any:
    """What peft finds for a module: the first pattern that its name ends with, at a dot."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", key):
            return value
    return default
