"""Loads a checkpoint: what can be refused is refused before the weights are fetched or anything is written."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.progress import Progress

from .checkpoint import Checkpoint, Module, match_modules, open_checkpoint, read_headers
from .database import Connection
from .errors import Problem
from .models import check_configuration, check_name, module_bytes, write_model
from .tensors import NAMES, sha256


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


def load(
    connection: Connection,
    source: str,
    name: str | None,
    revision: str | None,
    variant: str | None,
    replace: bool,
    progress: Progress,
) -> Loaded:
    """Loads a repository, folder or file under a name; by default its own."""
    checkpoint = open_checkpoint(source, revision, variant, progress)
    name = name or default_name(checkpoint)
    check_name(connection, name, replace)
    expected = check_configuration(connection, checkpoint)

    files = [checkpoint.source.fetch(file, progress) for file in checkpoint.weights]
    modules = match_modules(read_headers(files), expected)

    total = sum(map(module_bytes, modules))
    task = progress.add_task("Writing to the server", total=total)
    # Hashing and copying go on side by side: one keeps this machine busy, the other the server.
    with ThreadPoolExecutor(max_workers=1) as hasher:
        hashing = hasher.submit(lambda: [sha256(file) for file in files])
        digest = write_model(
            connection,
            name,
            checkpoint,
            modules,
            lambda: check_digests(checkpoint, files, hashing.result()),
            replace,
            lambda count: progress.advance(task, count),
        )
    return Loaded(
        name,
        sum(module.weight.size + (module.bias.size if module.bias else 0) for module in modules),
        total,
        stored_type(modules),
        checkpoint.source.label,
        checkpoint.source.revision,
        digest,
        checkpoint.notes,
    )


def default_name(checkpoint: Checkpoint) -> str:
    """The last part of the repository's or folder's name; of the pipeline's for its unet folder."""
    *_, parent, name = ["", *Path(checkpoint.source.label).parts]
    return parent if name == "unet" and parent not in ("", "/") else name


def check_digests(checkpoint: Checkpoint, files: list[Path], digests: list[str]) -> str:
    """The SHA-256 that models.sha256 is to hold. Raises a Problem where a file is not the one that the hub has."""
    for name, file, digest in zip(checkpoint.weights, files, digests, strict=True):
        wanted = checkpoint.source.sha256.get(name)
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
