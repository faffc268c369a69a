"""Where a checkpoint's files come from: a folder, or a repository of the Hugging Face hub."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rich.progress import Progress

from .errors import Problem

NAME_WIDTH = 26  # of a file's name beside its bar
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
# What no repository is called.
FILE = re.compile(r".*\.(safetensors|json|ckpt|bin|pth?|pkl|gguf|zip)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Source:
    """The files of one revision of a checkpoint, by their paths inside it."""

    label: str  # the repository, or the whole path of the folder
    names: list[str]
    fetch: Callable[[str, Progress], Path]  # the path of a file here, downloaded if need be
    revision: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)  # what the hub says of its large files

    @property
    def public(self) -> str:
        """What everybody may read in models.source: of a folder its name, and not where its owner keeps it."""
        path = Path(self.label)
        if not path.is_absolute():
            return self.label
        return f"{path.parent.name}/{path.name}" if path.name.startswith("unet") and path.parent.name else path.name


def open_source(text: str, revision: str | None) -> Source:
    """A folder where there is one of that name, else a repository of the hub."""
    if Path(text).is_dir():
        if revision is not None:
            raise Problem(f"{text} is a folder, which has no revisions", "Leave --revision out.")
        return folder_source(Path(text))
    if text.startswith((".", "/", "~")) or FILE.fullmatch(text) or not REPOSITORY.fullmatch(text):
        raise Problem(
            f"{text} does not exist",
            "Give a folder, a .safetensors file, or a repository of the hub such as gnokit/ddpm-butterflies-64.",
        )
    return repository_source(text, revision)


def open_file(text: str, revision: str | None = None) -> tuple[Source, str] | None:
    """A file on disk, or one of a repository of the hub: owner/name/file. None where the text names neither."""
    path = Path(text).expanduser()
    if path.is_file():
        path = path.absolute()
        return replace(folder_source(path.parent), label=str(path)), path.name
    owner, _, rest = text.partition("/")
    repository, _, name = rest.partition("/")
    if not name.endswith(".safetensors") or not REPOSITORY.fullmatch(f"{owner}/{repository}"):
        return None
    source = repository_source(f"{owner}/{repository}", revision)
    if name not in source.names:
        raise Problem(f"{source.label} has no file {name}", "See what it has at its page of the hub.")
    return replace(source, label=text), name


def folder_source(folder: Path) -> Source:
    """The files of a folder and of the folders right inside it."""
    names = sorted(path.relative_to(folder).as_posix() for pattern in ("*", "*/*") for path in folder.glob(pattern))
    return Source(
        label=str(folder.resolve()),
        names=[name for name in names if (folder / name).is_file()],
        fetch=lambda name, progress: folder / name,
    )


def repository_source(repository: str, revision: str | None) -> Source:
    """The files of a repository of the hub; of its copy in the hub's cache where HF_HUB_OFFLINE is set."""
    # Imported here: the commands that need no hub start without it.
    import huggingface_hub
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    where = repository + (f" at revision {revision}" if revision else "")
    try:
        if constants.HF_HUB_OFFLINE:
            snapshot = huggingface_hub.snapshot_download(repository, revision=revision, local_files_only=True)
            return cached_source(repository, Path(snapshot))
        info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    except errors.LocalEntryNotFoundError as error:
        raise Problem(
            f"{where} is not in the hub's cache, and HF_HUB_OFFLINE keeps this command off the network",
            f"Unset HF_HUB_OFFLINE, or fetch it first: hf download {repository}",
        ) from error
    except errors.GatedRepoError as error:
        raise Problem(
            f"{repository} is gated: its owner has to let you in",
            f"Accept its terms at {endpoint}/{repository}, then run: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise Problem(
            f"{repository} is neither a folder here nor a repository at {endpoint}",
            "Check the spelling. For a private repository log in first: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise Problem(f"{repository} has no revision {revision}", f"See {endpoint}/{repository}/tree/main") from error
    except errors.HFValidationError as error:
        raise Problem(f"{repository} cannot be the name of a repository: {error}") from error
    except Exception as error:
        raise unreachable(repository, endpoint, error) from error

    siblings = info.siblings or []

    def fetch(name: str, progress: Progress) -> Path:
        try:
            path = huggingface_hub.hf_hub_download(
                repository, name, revision=revision, tqdm_class=bar_class(progress, name)
            )
        except Exception as error:
            raise unreachable(f"{name} of {repository}", endpoint, error) from error
        if f"/snapshots/{info.sha}/" not in Path(path).as_posix():
            raise Problem(f"{where} was changed while it was fetched", "Run the same command again.")
        return Path(path)

    return Source(
        label=repository,
        names=[sibling.rfilename for sibling in siblings],
        fetch=fetch,
        revision=info.sha,
        sha256={sibling.rfilename: sibling.lfs.sha256 for sibling in siblings if sibling.lfs},
    )


def cached_source(repository: str, snapshot: Path) -> Source:
    """A repository as the hub's cache holds it, in a folder named after the commit."""
    folder = folder_source(snapshot)
    # The cache names a large file after its SHA-256 and links to it.
    blobs = {name: (snapshot / name).resolve().name for name in folder.names}
    return Source(
        label=repository,
        names=folder.names,
        fetch=folder.fetch,
        revision=snapshot.name,
        sha256={name: blob for name, blob in blobs.items() if re.fullmatch("[0-9a-f]{64}", blob)},
    )


def unreachable(what: str, endpoint: str, error: Exception) -> Problem:
    """What is said when the hub gives no usable answer."""
    return Problem(
        f"{what} could not be fetched from {endpoint}: {' '.join(str(error).split()) or type(error).__name__}",
        "Run the same command again: files that have arrived whole are kept. "
        "With a copy in the hub's cache, HF_HUB_OFFLINE=1 does without the network.",
    )


def bar_class(progress: Progress, name: str) -> Any:
    """What huggingface_hub reports its downloads to: a tqdm that draws nothing and advances a bar of ours."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})
            file = PurePosixPath(name).name
            self.task = progress.add_task(
                f"Downloading {file if len(file) <= NAME_WIDTH else '…' + file[1 - NAME_WIDTH :]}",
                total=settings.get("total"),
                completed=settings.get("initial") or 0,
            )

        def update(self, n: float | None = 1) -> None:
            progress.advance(self.task, n or 0)

        def close(self) -> None:
            progress.update(self.task, visible=False)

    return Bar
