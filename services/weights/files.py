"""The local file of weights with an address and a SHA-256, downloaded on demand under a known licence."""

import logging
from pathlib import Path

from services.errors import ConfigError
from services.weights.downloads import Told
from services.weights.licences import UNKNOWN
from services.weights.local import Inventory, make_progress_logger
from services.weights.terms import find_licence
from services.weights.web import WebDownload
from services.weights.web_file import WebFile

log = logging.getLogger("ray.serve.reelgraph.weights")


def resolve_file(file: WebFile | Path, home: Path, param: str) -> Path:
    """Return the local path of a file, and download it if it is missing.

    Args:
        file: a path, which is returned, or a file on a web server.
        home: REELGRAPH_HOME; downloads are stored by hash in `home/models/files`.
        param: name of the setting, for messages.

    Raises:
        ConfigError: the download failed, `offline` is set and the file is missing, or its licence is unknown and has
            not been accepted.
    """
    if isinstance(file, Path):
        return file
    terms = find_licence(file.address, file.licence)
    if terms.must_be_accepted and terms is not UNKNOWN:
        log.warning(
            "weights under a licence with conditions",
            extra={"weights": file.source, "licence": terms.name, "commercial": terms.commercial},
        )
    return fetch_file(file, home, make_progress_logger(file.source), param=param)


def fetch_file(
    file: WebFile, home: Path, on_progress: Told, *, param: str = "weights.url", accepted: bool = False
) -> Path:
    """Return the path of a file on a web server after its download; a downloaded file needs no network access.

    Args:
        file: the file.
        home: REELGRAPH_HOME.
        on_progress: callback for progress.
        param: name of the setting, for messages.
        accepted: whether the operator has accepted the licence, even if it is unknown to the project.

    Raises:
        ConfigError: as for `resolve_file`.
    """
    download = WebDownload(file, home, param)
    found = download.find()
    if found is not None:
        return found
    if file.offline:
        raise download.failed("not downloaded yet, and offline is set; `reel models pull` fetches it")
    if not accepted and find_licence(file.address, file.licence) is UNKNOWN:
        raise ConfigError(
            f"{param}: the licence of {file.address} is not known to this project, so it is not downloaded. Read it; "
            f"then name it beside the address (`licence: NAME`), or run `reel models pull --accept-licence "
            f"{file.address}`",
            param=param,
        )
    return download.fetch(on_progress)


def measure_file(file: WebFile, home: Path) -> Inventory:
    """Return the size of a file on a web server, and check that it can be downloaded. Raises ConfigError."""
    return Inventory(*WebDownload(file, home).measure())
