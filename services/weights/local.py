"""The local folder of a model's weights, with download on demand."""

import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from services.errors import ConfigError
from services.weights.downloads import Hub, Listing, Meter, Reference, Told, alone, need_room
from services.weights.licences import UNKNOWN
from services.weights.terms import find_terms
from services.weights.weights import Weights

log = logging.getLogger("ray.serve.reelgraph.weights")

LOG_EVERY_S = 5.0
SUFFIXES = {".bin", ".ckpt", ".gguf", ".model", ".onnx", ".pt", ".pth", ".safetensors"}
"""Extensions of files that git-lfs stores."""
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\n)*?size (\d+)\n")
_POINTER_BYTES = 1024
"""Upper bound of the size of a git-lfs pointer file, from its specification."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The size of the required files of a repository."""

    total: int
    """Size of all required files in bytes."""
    missing: int
    """Number of bytes to download."""


def resolve(weights: Weights, home: Path) -> Path:
    """Return the local folder of `weights`, and download missing files.

    Args:
        weights: the weights from the configuration.
        home: REELGRAPH_HOME; downloads are stored in `home/models`.

    Raises:
        ConfigError: the folder does not exist, is incomplete or is a relative path, the download failed, or the licence
            is unknown and has not been accepted.
    """
    terms = find_terms(weights)
    if terms.must_be_accepted and terms is not UNKNOWN:
        log.warning(
            "weights under a licence with conditions",
            extra={"weights": weights.source, "licence": terms.name, "commercial": terms.commercial},
        )
    if weights.path is not None:
        return _local(weights, weights.path)
    return fetch(weights, home, make_progress_logger(weights.source))


def find_folder(weights: Weights, home: Path | None) -> Path | None:
    """Return the folder of `weights` if it exists, without network access and without checking its files.

    Args:
        weights: the weights from the configuration.
        home: REELGRAPH_HOME; None if downloads are not to be searched.
    """
    if weights.path is not None:
        folder = weights.path
    elif home is not None:
        folder = _hub(weights, home)[0].folder
    else:
        return None
    return folder if folder.is_dir() else None


def find_hub(weights: Weights, home: Path) -> Hub:
    """Return the hub of a repository."""
    return _hub(weights, home)[0]


def check_licence(weights: Weights, home: Path) -> None:
    """Raise ConfigError if weights are not downloaded yet and their licence is unknown."""
    if weights.repository is None or weights.offline:
        return
    hub, _ = _hub(weights, home)
    known = hub.remembered()
    if not hub.folder.is_dir() or (known is not None and _find_missing(weights, hub, known)):
        _need_known_licence(weights)


def fetch(weights: Weights, home: Path, on_progress: Told, *, accepted: bool = False) -> Path:
    """Return the folder of a repository's files, and download missing files.

    Complete downloads are used without network access. Only one process downloads a repository at a time.

    Args:
        weights: a repository.
        home: REELGRAPH_HOME.
        on_progress: callback for progress.
        accepted: whether the operator has accepted the licence, even if it is unknown to the project.

    Raises:
        ConfigError: the licence is unknown, the download failed, the disk is full, or `offline` is set and files are
            missing.
    """
    hub, reference = _hub(weights, home)
    known = hub.remembered()
    if known is not None and not _find_missing(weights, hub, known):
        return hub.folder
    if weights.offline:
        return _find_offline_folder(weights, hub, reference, known)
    if not (accepted or hub.folder.is_dir()):
        _need_known_licence(weights)
    with alone(reference.cache / ".locks" / f"{weights.hub}--{reference.repository.replace('/', '--')}.lock"):
        listing = _list_files(weights, hub, reference)
        missing = _find_missing(weights, hub, listing)
        if missing:
            if not accepted:
                _need_known_licence(weights)
            need_room(reference.cache, sum(missing.values()) - hub.arrived(missing))
            hub.download(missing, Meter(sum(missing.values()), on_progress))
        for file, size in _find_missing(weights, hub, listing).items():
            raise reference.failed(
                f"{file} has {_read_size(hub.folder / file)} bytes after the download, and the hub lists {size}"
            )
    return hub.folder


def inventory(weights: Weights, home: Path) -> Inventory:
    """Return the sizes of a repository, and check that the hub allows the download. Raises ConfigError."""
    hub, reference = _hub(weights, home)
    known = hub.remembered()
    if known is None and weights.offline:
        _find_offline_folder(weights, hub, reference, known)
        return Inventory(0, 0)
    listing = _list_files(weights, hub, reference)
    missing = _find_missing(weights, hub, listing)
    if missing and weights.offline:
        _find_offline_folder(weights, hub, reference, listing)
    if missing:
        hub.admitted(max(missing, key=missing.__getitem__))
    total = sum(size for file, size in listing.items() if weights.needs(file))
    return Inventory(total, sum(missing.values()) - hub.arrived(missing))


def _need_known_licence(weights: Weights) -> None:
    if find_terms(weights) is UNKNOWN:
        name = weights.repository
        raise ConfigError(
            f"weights.licence: the licence of {name} is not known to this project, so it is not downloaded. Read it; "
            f"then name it beside the repository (`licence: NAME`), or run `reel models pull --accept-licence {name}`",
            param="weights.licence",
        )


def _hub(weights: Weights, home: Path) -> tuple[Hub, Reference]:
    """Return the hub of `weights`; its package is imported only if it is used."""
    reference = Reference(weights.repository or "", weights.revision or "", home / "models", weights.endpoint)
    if weights.hub == "huggingface":
        from services.weights.huggingface import HuggingFace

        return HuggingFace(reference), reference
    try:
        from services.weights.modelscope import ModelScope
    except ImportError as error:
        raise ConfigError(
            f"weights.hub: modelscope needs a package ({error}): pip install 'reelgraph[modelscope]'",
            param="weights.hub",
        ) from error
    return ModelScope(reference), reference


def _list_files(weights: Weights, hub: Hub, reference: Reference) -> Listing:
    listing = hub.remembered() or hub.listed()
    if not any(map(weights.needs, listing)):
        raise reference.failed(f"none of its {len(listing)} files is one of {list(weights.files) or 'any'}")
    return listing


def _find_missing(weights: Weights, hub: Hub, listing: Listing) -> dict[str, int]:
    """Return the required files that are missing or have the wrong size, with their sizes in bytes."""
    needed = {file: size for file, size in listing.items() if weights.needs(file)}
    return {file: size for file, size in needed.items() if _read_size(hub.folder / file) != size}


def _read_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _find_offline_folder(weights: Weights, hub: Hub, reference: Reference, known: Listing | None) -> Path:
    """Return the folder in offline mode if no file is known to be missing. Raises ConfigError otherwise."""
    if known is None and hub.folder.is_dir():
        return hub.folder
    missing = _find_missing(weights, hub, known) if known else {}
    what = f"{len(missing)} of its files are missing" if known else "not downloaded yet"
    raise reference.failed(f"{what}, and offline is set; `reel models pull` fetches it")


def make_progress_logger(source: str) -> Told:
    """Return a callback that logs the progress of a download every few seconds."""
    logged_at = -LOG_EVERY_S

    def log_progress(done: int, total: int) -> None:
        nonlocal logged_at
        now = time.monotonic()
        if done == total or now - logged_at >= LOG_EVERY_S:
            logged_at = now
            log.info("downloading weights", extra={"weights": source, "bytes": done, "of": total})

    return log_progress


def _local(weights: Weights, folder: Path) -> Path:
    """Return the folder. Raises ConfigError if it is missing, a relative path, or contains git-lfs pointers."""
    if not folder.is_absolute():
        raise ConfigError(
            f"weights.path: must be an absolute path, got {folder}; only `reel serve` resolves relative paths",
            param="weights.path",
        )
    if not folder.is_dir():
        raise ConfigError(f"weights.path: there is no folder {folder}", param="weights.path")
    pointers = {
        file: int(match[1])
        for file in _heavy(folder)
        if weights.needs(file.relative_to(folder).as_posix())
        and file.stat().st_size < _POINTER_BYTES
        and (match := _POINTER.match(file.read_bytes()))
    }
    if pointers:
        first = next(iter(pointers)).relative_to(folder)
        raise ConfigError(
            f"weights.path: {first} and {len(pointers) - 1} more files in {folder} are pointers of git-lfs, whose "
            f"{decimal(sum(pointers.values()))} are still missing: run `git lfs pull` there",
            param="weights.path",
        )
    return folder


def _heavy(folder: Path) -> Iterator[Path]:
    """Yield the weight files of a folder, recognised by their extension, in sorted order."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != ".git")
        paths = (Path(place, name) for name in sorted(names))
        yield from (path for path in paths if path.suffix in SUFFIXES and path.is_file())
