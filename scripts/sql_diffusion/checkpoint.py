"""Finds a U-Net checkpoint among the files of a source, and checks it against what its config asks for.

Two layouts are known. A pipeline: model_index.json, unet/config.json, unet/diffusion_pytorch_model.safetensors,
scheduler/scheduler_config.json. A bare U-Net: config.json and the weights at the root. Either with a variant
(diffusion_pytorch_model.fp16.safetensors), either in one file or in shards with an index.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rich.progress import Progress

from .errors import Problem, enumerate_some
from .hub import Source, folder_source, open_source
from .tensors import Tensor, read_header

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
NETWORK = "UNet2DModel"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
DEFAULTS = {"scheduler", "num_inference_steps", "timesteps"}

SINGLE = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>\w+))?\.safetensors")
INDEX = re.compile(
    r"diffusion_pytorch_model(?:\.safetensors\.index(?:\.(?P<variant>\w+))?|\.(?P<old>\w+)\.safetensors\.index)\.json"
)

# Attention layers were renamed in diffusers 0.17; checkpoints from before it still carry the old names.
OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)(\.weight|\.bias)")
NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# What sql_diffusion.unet_parameters says of a module: key, shape of the weight, shape of the bias or None.
ExpectedModule = tuple[str, list[int], list[int] | None]


class Module(NamedTuple):
    """One row of sql_diffusion.parameters: a module's key and the tensors that it is made of."""

    key: str
    weight: Tensor
    bias: Tensor | None
    weight_shape: tuple[int, ...]  # differs from the tensor's own where a 1x1 convolution stands for a linear layer


@dataclass(frozen=True)
class Checkpoint:
    """What there is to load; the weights have not been fetched yet."""

    source: Source
    pipeline: str
    scheduler: dict[str, Any]
    config: dict[str, Any]
    defaults: dict[str, Any]
    weights: list[str]  # one file, or the shards
    notes: list[str]  # what the user should be told


def open_checkpoint(text: str, revision: str | None, variant: str | None, progress: Progress) -> Checkpoint:
    """The checkpoint in a folder, a file or a repository. Its small files are read, its weights are not."""
    path = Path(text).expanduser()
    if path.is_file():
        return file_checkpoint(path, revision, variant, progress)
    source = open_source(str(path) if path.is_dir() else text, revision)
    folder = network_folder(source)
    return read_checkpoint(source, folder, choose_weights(source, folder, variant), progress)


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
    return read_checkpoint(source, folder, name, progress)


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


def choose_weights(source: Source, folder: str, variant: str | None) -> str:
    """The file of weights, or the index of its shards: the variant asked for; the plain one; the only one."""
    found: dict[str | None, str] = {}
    for pattern in (SINGLE, INDEX):  # an index goes before a single file, as in diffusers
        for name in source.names:
            match = pattern.fullmatch(name.removeprefix(folder)) if name.startswith(folder) else None
            if match:
                found[next((group for group in match.groups() if group), None)] = name
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


def read_checkpoint(source: Source, folder: str, weights: str, progress: Progress) -> Checkpoint:
    """Reads the configs, and the index where the weights come in shards."""

    def read(name: str) -> dict[str, Any]:
        return read_json(source.fetch(name, progress), name)

    notes: list[str] = []
    config = read(f"{folder}config.json")
    network = config.get("_class_name", NETWORK)
    if network != NETWORK:
        raise Problem(
            f"{source.label} is a {network}, and only a {NETWORK} is run",
            "Latent, conditional and transformer models are not supported: see doc/reference.md for what is.",
        )

    schedulers = [name for name in ("scheduler/scheduler_config.json", "scheduler_config.json") if name in source.names]
    if schedulers:
        scheduler = read(schedulers[0])
    else:
        scheduler = {"_class_name": "DDPMScheduler"}
        notes.append("there is no scheduler_config.json: diffusers' default DDPM schedule is used")

    if "model_index.json" in source.names:
        pipeline = str(read("model_index.json").get("_class_name"))
        if pipeline not in PIPELINES:
            raise Problem(
                f"{source.label} is a {pipeline}; {' and '.join(PIPELINES)} are run",
                "Its U-Net alone may work: give the folder that its config.json lies in.",
            )
    else:
        pipeline = "DDIMPipeline" if str(scheduler.get("_class_name")).startswith("DDIM") else "DDPMPipeline"

    defaults = read("sql_diffusion.json") if "sql_diffusion.json" in source.names else {}
    if unknown := sorted(set(defaults) - DEFAULTS):
        raise Problem(
            f"sql_diffusion.json sets what is unknown: {enumerate_some(unknown)}",
            f"It may set: {', '.join(sorted(DEFAULTS))}.",
        )

    files = read_index(source, weights, read(weights)) if weights.endswith(".json") else [weights]
    return Checkpoint(source, pipeline, scheduler, config, defaults, files, notes)


def read_index(source: Source, index: str, content: dict[str, Any]) -> list[str]:
    """The shards that an index names, each of which has to be there."""
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise Problem(f"{index} has no weight_map that names the shards", "Fetch it again.")
    shards = [str(PurePosixPath(index).parent / name) for name in sorted(set(weight_map.values()))]
    if absent := [shard for shard in shards if shard not in source.names]:
        raise Problem(f"{index} names shards that are not there: {enumerate_some(absent)}", "Fetch them too.")
    return shards


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; the error names the file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Problem(f"{name} is not JSON: {error}", "Fetch it again, or mend it by hand.") from error
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}", "Check its permissions.") from error
    if not isinstance(content, dict):
        raise Problem(f"{name} holds a JSON {type(content).__name__}, and an object was expected", "Fetch it again.")
    return content


# What torch.compile and DistributedDataParallel put before the names of what they wrap.
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")


def present_name(name: str) -> str:
    """A tensor's name as diffusers writes it today."""
    name = WRAPPERS.sub("", name)
    match = OLD_ATTENTION.fullmatch(name)
    return f"{match[1]}{NEW_ATTENTION[match[2]]}{match[3]}" if match else name


def read_headers(files: list[Path]) -> dict[str, Tensor]:
    """The tensors of all files, by today's names."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            present = present_name(name)
            if present in tensors:
                raise Problem(f"{present} is there twice: as {tensors[present].name} and as {name} in {file}")
            tensors[present] = tensor
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


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """The same shape, or a 1x1 convolution where a linear layer is wanted."""
    return shape == wanted or (len(wanted) == 2 and shape == (*wanted, 1, 1))


def shape_text(shape: tuple[int, ...]) -> str:
    """(64, 3, 3, 3)"""
    return f"({', '.join(map(str, shape))})"
