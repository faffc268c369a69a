"""Finds a checkpoint's networks among the files of a source, and checks them against what their configs ask for.

Three layouts are known here. A pipeline: model_index.json, scheduler/scheduler_config.json, and for each network a folder
with config.json and its weights: unet/diffusion_pytorch_model.safetensors, text_encoder/model.safetensors. A bare U-Net:
config.json and the weights at the root. A language model of transformers: the same, and its tokenizer beside them. Any
with a variant (diffusion_pytorch_model.fp16.safetensors), in one file or in shards with an index. single_file.py reads a
fourth: the file that holds a whole pipeline.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress

from .errors import Problem, enumerate_some
from .hub import Source, folder_source, open_source
from .json_files import read_json
from .names import Tensors, network_class, network_tensors
from .tensors import EXPONENTS, Float32Array, Tensor, read_header, read_tensor

NETWORK = "UNet2DModel"
LANGUAGE_MODEL = "GPT2LMHeadModel"
Networks = dict[str, tuple[str, ...]]  # by name, the classes of which each may be
TEXTS: Networks = {"transformer": (LANGUAGE_MODEL,)}
PIXELS: Networks = {"unet": (NETWORK,)}
LATENTS: Networks = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
}
LATENTS_XL: Networks = {**LATENTS, "text_encoder_2": ("CLIPTextModelWithProjection",)}

# The pipelines that are run, and the networks that each has.
PIPELINES: dict[str, Networks] = {
    "DDPMPipeline": PIXELS,
    "DDIMPipeline": PIXELS,
    "PNDMPipeline": PIXELS,
    "LDMPipeline": {"vqvae": ("VQModel", "AutoencoderKL"), "unet": (NETWORK,)},
    "LDMSuperResolutionPipeline": {"vqvae": ("VQModel", "AutoencoderKL"), "unet": (NETWORK,)},
    "StableDiffusionPipeline": LATENTS,
    "StableDiffusionImg2ImgPipeline": LATENTS,
    "StableDiffusionInpaintPipeline": LATENTS,
    "StableDiffusionUpscalePipeline": LATENTS,
    "StableDiffusionXLPipeline": LATENTS_XL,
    "StableDiffusionXLImg2ImgPipeline": LATENTS_XL,
    "StableDiffusionXLInpaintPipeline": LATENTS_XL,
    "LatentConsistencyModelPipeline": LATENTS,
    "LatentConsistencyModelImg2ImgPipeline": LATENTS,
}
# Others that draw with a U-Net of pixels, and why they are not run.
NOT_RUN = {
    "ScoreSdeVePipeline": "Its corrector steps as far as the output's size tells it, which no schedule has in its rows",
    "KarrasVePipeline": "It adds noise between its two passes, which no scheduler here does",
    "AudioDiffusionPipeline": "Its pictures are spectrograms, which are to become sound",
    "RePaintPipeline": "It paints over a part of a picture that is given",
    "ConsistencyModelPipeline": "Its scheduler, CMStochasticIterativeScheduler, is not here",
}
UNET_ALONE = "Its U-Net alone may load, for sql_diffusion.unet: give the folder that its config.json lies in."
# Parts of a pipeline that make no pictures: the filter of finished ones, and what prepares pictures for it.
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
# What model_index.json says of how prompts are read, and of the noise over a picture that is made larger.
INDEX_SETTINGS = ("force_zeros_for_empty_prompt", "max_noise_level")
LOW_RES = "low_res_scheduler"  # the schedule of that noise

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
DEFAULTS = {"scheduler", "num_inference_steps", "timesteps", "guidance_scale"}

# As diffusers names the weights of its networks, and transformers those of text encoders.
SINGLE = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?\.safetensors")
INDEX = re.compile(
    r"(?:diffusion_pytorch_model|model)"
    r"(?:\.safetensors\.index(?:\.(?P<variant>\w+))?|\.(?P<old>\w+)\.safetensors\.index)\.json"
)

# What the server says of a module that a network must have: key, shape of the weight, shape of the bias or None.
ExpectedModule = tuple[str, list[int], list[int] | None]


class Update(NamedTuple):
    """What a LoRA file adds to a weight of shape (out, in, ...): scale times the product of two thin matrices."""

    up: Tensor  # (out, rank) or (out, rank, 1, 1)
    down: Tensor  # (rank, in) or (rank, in, height, width)
    scale: float


class Module(NamedTuple):
    """One row of sql_diffusion.parameters: a module's key and the tensors that it is made of."""

    key: str
    weight: Tensor
    bias: Tensor | None
    weight_shape: tuple[int, ...]  # differs from the tensor's own where a 1x1 convolution stands for a linear layer
    updates: tuple[Update, ...] = ()  # what LoRA files add to the weight


@dataclass(frozen=True)
class Component:
    """A network of a checkpoint; its weights have not been fetched yet."""

    name: str  # the folder's in a pipeline: unet, vae, text_encoder, ...
    config: dict[str, Any]
    source: Source
    weights: list[str]  # one file, or the shards
    translate: Callable[[Tensors], Tensors]  # from the tensors of the files to those of the network, by its own names


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer of a checkpoint: a folder with its vocabulary and merges."""

    name: str  # tokenizer, tokenizer_2
    source: Source | str  # a repository that is opened only when it is needed
    folder: str  # in the source, with a slash at its end, or nothing
    pad_token: str | None = None  # where it is not the one that the folder names
    tokenizer_class: str | None = None  # where the folder need not name it


@dataclass(frozen=True)
class Checkpoint:
    """What there is to load; the weights have not been fetched yet."""

    source: Source
    pipeline: str
    scheduler: dict[str, Any] | None  # None for a language model
    components: list[Component]
    defaults: dict[str, Any]
    notes: list[str]  # what the user should be told
    tokenizers: list[TokenizerFiles] = field(default_factory=list)
    additions: list[str] = field(
        default_factory=list
    )  # the names of what else went into it: an autoencoder, LoRA files

    @property
    def label(self) -> str:
        """What models.source is to say."""
        return " + ".join([self.source.public, *self.additions])


def open_checkpoint(text: str, revision: str | None, variant: str | None, progress: Progress) -> Checkpoint:
    """The checkpoint in a folder, a file or a repository. Its small files are read, its weights are not."""
    path = Path(text).expanduser()
    if path.is_file():
        return file_checkpoint(path, revision, variant, progress)
    source = open_source(str(path) if path.is_dir() else text, revision)
    return read_checkpoint(source, {}, variant, progress)


def file_checkpoint(path: Path, revision: str | None, variant: str | None, progress: Progress) -> Checkpoint:
    """The checkpoint whose file of weights was named, with the configs that lie beside it."""
    if revision or variant:
        raise Problem(f"{path} is a file, which has no revisions or variants", "Leave --revision and --variant out.")
    if path.suffix in PICKLES:
        raise pickles(str(path), str(path.parent))
    if path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
        raise Problem(f"{path} is not a .safetensors file", "Give the file of weights, or the folder that it lies in.")
    path = path.absolute()
    in_pipeline = path.parent.name in ("unet", "unet_ema") and (path.parent.parent / "model_index.json").is_file()
    root = path.parent.parent if in_pipeline else path.parent
    source = folder_source(root)
    name = path.relative_to(root).as_posix()
    folder = f"{path.parent.name}/" if in_pipeline else ""
    if f"{folder}config.json" not in source.names:
        raise Problem(f"there is no config.json beside {path}", "It says how the network is built: put it there.")
    return read_checkpoint(source, {folder: name}, None, progress)


def network_folder(source: Source) -> str:
    """'unet/' in a pipeline, or 'unet_ema/' where only the averaged one was kept; '' where the U-Net is at the root."""
    for folder in ("unet/", "unet_ema/", ""):
        if f"{folder}config.json" in source.names:
            return folder
    pickled = [name for name in source.names if name.endswith(PICKLES)]
    if pickled and not any(name.endswith(".safetensors") for name in source.names):
        raise pickles(f"{source.label} holds {enumerate_some(pickled)}, which", source.label)
    raise Problem(
        f"{source.label} holds neither unet/config.json nor config.json",
        "A checkpoint is a folder that diffusers' save_pretrained wrote, of a pipeline or of its U-Net alone.",
    )


def find_weights(source: Source, folder: str) -> dict[str | None, str]:
    """The files of weights in a folder, or the indexes of their shards, by variant."""
    found: dict[str | None, str] = {}
    for pattern in (SINGLE, INDEX):  # an index goes before a single file, as in diffusers
        for name in source.names:
            match = pattern.fullmatch(name.removeprefix(folder)) if name.startswith(folder) else None
            if match:
                found[next((group for group in match.groups() if group), None)] = name
    return found


def choose_weights(source: Source, folder: str, variant: str | None) -> str:
    """The file of weights, or the index of its shards: the variant asked for; the plain one; the only one."""
    found = find_weights(source, folder)
    if variant in found:
        return found[variant]
    if variant is None and len(found) == 1:
        return next(iter(found.values()))

    named = sorted(name for name in found if name)
    if variant is not None and found:
        have = enumerate_some(named + (["the plain one (leave --variant out)"] if None in found else []))
        raise Problem(f"{source.label} has no variant {variant}", f"It has: {have}.")
    if named:
        raise Problem(
            f"{source.label} has no plain weights but several variants: {enumerate_some(named)}",
            f"Say which: --variant {named[0]}",
        )
    pickled = [name for name in source.names if name.startswith(folder) and name.endswith(PICKLES)]
    if pickled:
        raise pickles(f"{source.label} holds its weights in {enumerate_some(pickled)}, which", source.label)
    raise Problem(
        f"{source.label} holds no weights: {folder}diffusion_pytorch_model.safetensors is missing",
        "Save it with diffusers: pipeline.save_pretrained(folder)",
    )


def pickles(subject: str, source: str) -> Problem:
    """Why a pickle is not read, and the way out."""
    return Problem(
        f"{subject} is a Python pickle: reading it could run any code, so it is not read",
        "If you trust it, convert it with diffusers where it can do no harm: "
        f"DDPMPipeline.from_pretrained({source!r}, use_safetensors=False).save_pretrained('converted'), "
        "then: sql-diffusion load converted",
    )


def read_checkpoint(source: Source, chosen: dict[str, str], variant: str | None, progress: Progress) -> Checkpoint:
    """Reads the configs, and the index where the weights come in shards; chosen are files of weights by their folder."""

    def read(name: str) -> dict[str, Any]:
        return read_json(source.fetch(name, progress), name)

    notes: list[str] = []
    index = read("model_index.json") if "model_index.json" in source.names else {}
    pipeline = str(index.get("_class_name"))
    if index and pipeline not in PIPELINES:
        raise Problem(
            f"{source.label} is a {pipeline}; {', '.join(PIPELINES)} are run",
            f"{NOT_RUN[pipeline]}. {UNET_ALONE}" if pipeline in NOT_RUN else UNET_ALONE,
        )
    writes = not index and "config.json" in source.names and network_class(read("config.json")) == LANGUAGE_MODEL
    networks = TEXTS if writes else PIPELINES[pipeline] if index else PIXELS
    folders = network_folders(source, networks)
    configs = {name: read(f"{folder}config.json") for name, folder in folders.items()}
    check_classes(source, pipeline if index else "U-Net", networks, configs)
    offered = [find_weights(source, folder) for folder in folders.values()]
    components = []
    for name, folder in folders.items():
        # as in diffusers, a network of which there is no such variant comes as it is where another one has it
        wanted = variant if variant in find_weights(source, folder) or not any(variant in o for o in offered) else None
        weights = chosen.get(folder) or choose_weights(source, folder, wanted)
        files = read_index(source, weights, read(weights)) if weights.endswith(".json") else [weights]
        network = network_class(configs[name]) or NETWORK
        tied = bool(configs[name].get("tie_word_embeddings", True))
        translate = partial(network_tensors, network, tied=tied)
        components.append(Component(name, configs[name], source, files, translate))

    schedulers = [name for name in ("scheduler/scheduler_config.json", "scheduler_config.json") if name in source.names]
    scheduler: dict[str, Any] | None
    if writes:
        pipeline, scheduler = LANGUAGE_MODEL, None
    else:
        scheduler = read(schedulers[0]) if schedulers else {"_class_name": "DDPMScheduler"}
        if not schedulers:
            notes.append("there is no scheduler_config.json: diffusers' default DDPM schedule is used")
        if not index:
            pipeline = "DDIMPipeline" if str(scheduler.get("_class_name")).startswith("DDIM") else "DDPMPipeline"

    parts = {name for name, entry in index.items() if isinstance(entry, list) and None not in entry}
    if left_out := [name for name in LEFT_OUT if name in parts]:
        notes.append(f"{' and '.join(left_out)} left out: no picture is made by them")

    defaults = read("sql_diffusion.json") if "sql_diffusion.json" in source.names else {}
    if unknown := sorted(set(defaults) - DEFAULTS):
        raise Problem(
            f"sql_diffusion.json sets what is unknown: {enumerate_some(unknown)}",
            f"It may set: {', '.join(sorted(DEFAULTS))}.",
        )
    tokenizers = find_tokenizers(source, writes)
    if ("text_encoder" in networks or writes) and not tokenizers:
        raise Problem(
            f"{source.label} is not whole: it has no tokenizer, in vocab.json and merges.txt or in tokenizer.json",
            "Fetch the whole pipeline, or save it with diffusers: pipeline.save_pretrained(folder)",
        )
    defaults = {**{name: index[name] for name in INDEX_SETTINGS if name in index}, **defaults}
    if LOW_RES in parts:
        if f"{LOW_RES}/scheduler_config.json" not in source.names:
            raise Problem(
                f"{source.label} is not whole: {LOW_RES}/scheduler_config.json is missing",
                "Fetch the whole pipeline, or save it with diffusers: pipeline.save_pretrained(folder)",
            )
        defaults[LOW_RES] = read(f"{LOW_RES}/scheduler_config.json")
    return Checkpoint(source, pipeline, scheduler, components, defaults, notes, tokenizers)


def addition(source: Source) -> str:
    """What models.source is to say of a file or folder that went into a model: its name, or that of its repository."""
    path = Path(source.label)
    return path.name if path.is_absolute() else source.label


def network_folders(source: Source, networks: Networks) -> dict[str, str]:
    """The folder of each network of a pipeline, with a slash at its end."""
    if networks is TEXTS:
        return {"transformer": ""}
    if list(networks) == ["unet"]:
        return {"unet": network_folder(source)}
    if missing := [name for name in networks if f"{name}/config.json" not in source.names]:
        raise Problem(
            f"{source.label} is not whole: {', '.join(f'{name}/config.json' for name in missing)} is missing",
            "Fetch the whole pipeline, or save it with diffusers: pipeline.save_pretrained(folder)",
        )
    return {name: f"{name}/" for name in networks}


def check_classes(source: Source, what: str, networks: Networks, configs: dict[str, dict[str, Any]]) -> None:
    """What a network is its config says; a pipeline is run with networks of some classes."""
    for name, classes in networks.items():
        network = network_class(configs[name]) or NETWORK
        if network not in classes:
            raise Problem(
                f"{source.label} is a {what} whose {name} is a {network}, and {' or '.join(classes)} is run there",
                "doc/reference.md says which networks are run.",
            )


def find_tokenizers(source: Source, writes: bool = False) -> list[TokenizerFiles]:
    """The tokenizers of a pipeline, folders with a vocabulary, or of a language model, beside its weights."""
    folders = {"tokenizer": "tokenizer/", "tokenizer_2": "tokenizer_2/"}
    kind = None
    if writes:
        folders, kind = {"tokenizer": ""}, "GPT2Tokenizer"
    return [
        TokenizerFiles(name, source, folder, tokenizer_class=kind)
        for name, folder in folders.items()
        if {f"{folder}vocab.json", f"{folder}tokenizer.json"} & set(source.names)
    ]


def read_index(source: Source, index: str, content: dict[str, Any]) -> list[str]:
    """The shards that an index names, each of which has to be there."""
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise Problem(f"{index} has no weight_map that names the shards", "Fetch it again.")
    shards = [str(PurePosixPath(index).parent / name) for name in sorted(set(weight_map.values()))]
    if absent := [shard for shard in shards if shard not in source.names]:
        raise Problem(f"{index} names shards that are not there: {enumerate_some(absent)}", "Fetch them too.")
    return shards


def read_headers(files: list[Path]) -> Tensors:
    """The tensors of all files."""
    tensors: Tensors = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise Problem(f"{name} is there twice: in {tensors[name].file} and in {file}")
            tensors[name] = tensor
    return tensors


def match_modules(tensors: dict[str, Tensor], expected: Iterable[ExpectedModule]) -> list[Module]:
    """The tensors put together by module, in the order of the file so that it is read forwards.

    Raises a Problem that names every tensor that is missing, too many or of another shape.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    keys: dict[str, bool] = {}  # key: has a bias
    for key, weight_shape, bias_shape in expected:
        keys[key] = bias_shape is not None
        wanted[f"{key}.weight"] = tuple(weight_shape)
        if bias_shape is not None:
            wanted[f"{key}.bias"] = tuple(bias_shape)

    missing = sorted(wanted.keys() - tensors.keys())
    surplus = sorted(tensors.keys() - wanted.keys())
    misshapen = [
        f"{tensors[name].name} is {shape_text(tensors[name].shape)} and not {shape_text(shape)}"
        for name, shape in sorted(wanted.items())
        if name in tensors and not fits(tensors[name].shape, shape)
    ]
    complaints = [
        f"{len(items)} {word}: {enumerate_some(items)}"
        for word, items in (
            ("missing", missing),
            ("not in the network", [tensors[name].name for name in surplus]),
            ("of the wrong shape", misshapen),
        )
        if items
    ]
    if complaints:
        raise Problem(
            f"the tensors do not fit config.json; {'; '.join(complaints)}",
            "The config and the weights have to be of the same training: fetch both again.",
        )
    modules = [
        Module(key, tensors[f"{key}.weight"], tensors[f"{key}.bias"] if has_bias else None, wanted[f"{key}.weight"])
        for key, has_bias in keys.items()
    ]
    return sorted(modules, key=lambda module: (module.weight.file, module.weight.offset))


def stays_in_16_bits(module: Module) -> bool:
    """Whether the weight is stored as its bytes: a 16-bit one to which nothing is added. Those of norms are small, and stored as numbers."""
    return module.weight.dtype in EXPONENTS and len(module.weight_shape) > 1 and not module.updates


def read_weight(module: Module) -> Float32Array:
    """The weight of a module, with what LoRA files add to it."""
    weight = read_tensor(module.weight).reshape(module.weight_shape)
    for update in module.updates:
        up, down = read_tensor(update.up), read_tensor(update.down)
        product = up.reshape(len(up), -1) @ down.reshape(len(down), -1)  # (out, rank) @ (rank, in * height * width)
        weight = weight + np.float32(update.scale) * product.reshape(weight.shape)
    return weight


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """The same shape, or a 1x1 convolution where a linear layer is wanted."""
    return shape == wanted or (len(wanted) == 2 and shape == (*wanted, 1, 1))


def shape_text(shape: tuple[int, ...]) -> str:
    """(64, 3, 3, 3)"""
    return f"({', '.join(map(str, shape))})"
