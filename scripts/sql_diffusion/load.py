"""Loads a checkpoint: what can be refused is refused before the weights are fetched or anything is written."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as changed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rich.progress import Progress

from . import lora, single_file
from .checkpoint import (
    LANGUAGE_MODEL,
    Checkpoint,
    ExpectedModule,
    Module,
    TokenizerFiles,
    match_modules,
    open_checkpoint,
    read_headers,
)
from .database import Connection
from .errors import USAGE, Problem
from .hub import Source, open_source
from .json_files import read_json
from .models import check_configuration, check_name, module_bytes, write_model
from .tensors import NAMES, sha256
from .tokenizers import FILES as TOKENIZER_FILES
from .tokenizers import Tokenizer, read_tokenizer


class Loaded(NamedTuple):
    """What was loaded."""

    name: str
    parameters: int
    bytes: int  # of the tensors in the files
    dtype: str
    source: str
    revision: str | None
    sha256: str
    notes: list[str]
    takes_text: bool  # whether it draws what a prompt says, or goes on with it
    writes_text: bool  # whether it is a language model, which draws nothing


class Request(NamedTuple):
    """What is to be loaded; by default everything comes from the source."""

    source: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None  # whose configurations and tokenizers a single file goes with
    vae: str | None = None  # another autoencoder
    loras: tuple[str, ...] = ()  # files that are merged into the networks, with their scales


Files = dict[tuple[Source, str], Path]  # where each file of weights is on this machine


def load(connection: Connection, request: Request, name: str | None, replace: bool, progress: Progress) -> Loaded:
    """Loads a repository, folder or file under a name; by default its own."""
    loras = [lora.open_lora(text) for text in request.loras]
    checkpoint = choose(request, progress)
    checkpoint = changed(checkpoint, additions=[*checkpoint.additions, *(each.label for each in loras)])
    name = name or default_name(checkpoint)
    check_name(connection, name, replace)
    expected = check_configuration(connection, checkpoint)
    tokenizers = read_tokenizers(checkpoint, progress)

    weights = [(component.source, file) for component in checkpoint.components for file in component.weights]
    # in the order of their names, first those of the checkpoint itself
    weights = sorted(dict.fromkeys(weights), key=lambda each: (each[0] is not checkpoint.source, each[1]))
    weights += [(each.source, each.file) for each in loras]
    files: Files = {each: each[0].fetch(each[1], progress) for each in weights}
    modules = read_modules(checkpoint, expected, files)
    for each in loras:
        modules = lora.merge(each, files[each.source, each.file], modules)

    every = [module for part in modules.values() for module in part]
    total = sum(map(module_bytes, every))
    task = progress.add_task("Writing to the server", total=total)
    # Hashing and copying go on side by side: one keeps this machine busy, the other the server.
    with ThreadPoolExecutor(max_workers=1) as hasher:
        hashing = hasher.submit(lambda: [sha256(file) for file in files.values()])
        digest = write_model(
            connection,
            name,
            checkpoint,
            modules,
            tokenizers,
            lambda: check_digests(files, hashing.result()),
            replace,
            lambda count: progress.advance(task, count),
        )
    return Loaded(
        name,
        sum(module.weight.size + (module.bias.size if module.bias else 0) for module in every),
        total,
        stored_type(every),
        checkpoint.label,
        checkpoint.source.revision,
        digest,
        checkpoint.notes,
        bool(tokenizers),
        checkpoint.pipeline == LANGUAGE_MODEL,
    )


def choose(request: Request, progress: Progress) -> Checkpoint:
    """The checkpoint that is meant, its networks those that were asked for. No weights are fetched but a single file's."""
    single = single_file.open_single(request.source, request.revision, request.config, progress)
    checkpoint = single or open_checkpoint(request.source, request.revision, request.variant, progress)
    if single is None and request.config:
        raise Problem(
            f"{request.source} has configurations of its own", "--config is for single files: leave it out.", USAGE
        )
    return (
        checkpoint if request.vae is None else single_file.with_vae(checkpoint, request.vae, request.variant, progress)
    )


def read_modules(
    checkpoint: Checkpoint, expected: dict[str, list[ExpectedModule]], files: Files
) -> dict[str, list[Module]]:
    """The modules of each network. Raises a Problem where the tensors are not those that its config asks for."""
    modules = {}
    for component in checkpoint.components:
        tensors = read_headers([files[component.source, file] for file in component.weights])
        modules[component.name] = match_modules(component.translate(tensors), expected[component.name])
    return modules


def read_tokenizers(checkpoint: Checkpoint, progress: Progress) -> dict[str, Tokenizer]:
    """The tokenizers of a checkpoint by name."""
    with TemporaryDirectory(prefix="sql-diffusion-") as scratch:
        return {
            each.name: read_tokenizer(tokenizer_folder(each, Path(scratch) / each.name, progress), each.tokenizer_class)
            for each in checkpoint.tokenizers
        }


def tokenizer_folder(tokenizer: TokenizerFiles, folder: Path, progress: Progress) -> Path:
    """A folder, made here, with the files of a tokenizer, and its padding token where that is to be another one."""
    source = tokenizer.source
    if isinstance(source, str):
        try:
            source = open_source(source, None)
        except Problem as problem:
            raise Problem(
                f"such a file has no tokenizer in it, and CLIP's is not here: {problem.message}",
                "Name a folder that has one, or a pipeline of the same kind: --config FOLDER",
            ) from problem
    folder.mkdir()
    for name in TOKENIZER_FILES:
        if f"{tokenizer.folder}{name}" in source.names:
            shutil.copyfile(source.fetch(f"{tokenizer.folder}{name}", progress), folder / name)
    if tokenizer.pad_token is not None:
        settings = folder / "tokenizer_config.json"
        known = read_json(settings, settings.name) if settings.is_file() else {"tokenizer_class": "CLIPTokenizer"}
        settings.write_text(json.dumps({**known, "pad_token": tokenizer.pad_token}))
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
    return folder


def default_name(checkpoint: Checkpoint) -> str:
    """The last part of the repository's, folder's or file's name; of the pipeline's for its unet folder."""
    *_, parent, name = ["", *Path(checkpoint.source.label.removesuffix(".safetensors")).parts]
    return parent if name in ("unet", "unet_ema") and parent not in ("", "/") else name


def check_digests(files: Files, digests: list[str]) -> str:
    """The SHA-256 that models.sha256 is to hold. Raises a Problem where a file is not the one that the hub has."""
    for ((source, name), file), digest in zip(files.items(), digests, strict=True):
        wanted = source.sha256.get(name)
        if wanted is not None and digest != wanted:
            # The hub's cache would hand out the damaged copy for ever.
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            raise Problem(
                f"{name} is damaged: its SHA-256 is {digest}, and the hub says {wanted}",
                "The copy in the hub's cache was removed. Run the same command again to fetch it anew.",
            )
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def stored_type(modules: list[Module]) -> str:
    """The type of most of the tensors: float32, float16 or bfloat16."""
    types = [module.weight.dtype for module in modules]
    return NAMES[max(set(types), key=types.count)]
