"""Downloads from huggingface.co or a mirror with huggingface_hub, in the layout of its cache."""

import glob
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    get_hf_file_metadata,  # pyright: ignore[reportUnknownVariableType]
    hf_hub_url,
    snapshot_download,  # pyright: ignore[reportUnknownVariableType]
)
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    get_session,
    hf_raise_for_status,
    tqdm,
)

from services.weights.downloads import Listing, Meter, Reference, causes, described

SITE = "https://huggingface.co"
PARTIAL = 206
"""HTTP status of a part of a file."""
TIMEOUT_S = 30.0
"""Seconds without data from the hub after which a request fails."""
LEFTOVER_S = 60.0
"""Seconds without a write after which the process of a partial file is considered dead."""


_FAILURES = (
    hub_errors.HTTPError,  # pyright: ignore[reportPrivateImportUsage]
    hub_errors.XetDownloadError,
    OSError,
    RuntimeError,
    ValueError,
)


class HuggingFace:
    """One repository at one commit. Complete files are kept; an interrupted download of a file starts again."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._home = reference.cache / f"models--{reference.repository.replace('/', '--')}"
        self.folder = self._home / "snapshots" / reference.revision

    def remembered(self) -> Listing | None:
        wanted = self._reference
        try:
            files = get_cached_repo_tree(wanted.repository, revision=wanted.revision, cache_dir=wanted.cache)
        except hub_errors.CachedRepoTreeNotFoundError:
            return None
        return {file.path: file.size for file in files}

    def listed(self) -> Listing:
        wanted = self._reference
        with self._explained():
            api = HfApi(endpoint=wanted.endpoint)
            tree = api.list_repo_tree(wanted.repository, revision=wanted.revision, recursive=True)
            return {file.path: file.size for file in tree if isinstance(file, RepoFile)}

    def admitted(self, file: str) -> None:
        wanted = self._reference
        with self._explained():
            url = hf_hub_url(wanted.repository, file, revision=wanted.revision, endpoint=wanted.endpoint)
            get_hf_file_metadata(url, endpoint=wanted.endpoint)

    def reach(self) -> None:
        """Raise HubAway at once if the hub does not answer; the calls of huggingface_hub try again for a while."""
        with self._explained():
            get_session().head(self._reference.endpoint or constants.ENDPOINT, timeout=TIMEOUT_S)

    def read_bytes(self, file: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file, from `start`, without downloading the rest. Raises ConfigError."""
        wanted = self._reference
        url = hf_hub_url(wanted.repository, file, revision=wanted.revision, endpoint=wanted.endpoint)
        headers = {**build_hf_headers(), "range": f"bytes={start}-{start + length - 1}"}
        found = bytearray()
        with (
            self._explained(),
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            skipped = 0 if response.status_code == PARTIAL else start
            for chunk in response.iter_bytes():
                found += chunk
                if len(found) >= skipped + length:  # a server without ranges sends the whole file
                    break
            del found[:skipped]
        if len(found) < length:
            raise wanted.failed(f"{file}: the hub sent {len(found)} of {length} bytes")
        return bytes(found[:length])

    def arrived(self, files: Listing) -> int:
        """Return 0, because huggingface_hub does not resume partial files; delete those of processes that died."""
        for partial in (self._home / "blobs").glob("*.incomplete"):
            if time.time() - partial.stat().st_mtime > LEFTOVER_S:
                partial.unlink(missing_ok=True)
        return 0

    def download(self, files: Listing, meter: Meter) -> None:
        wanted = self._reference
        for file in files:
            self._drop(file)
        with self._explained():
            cast("Callable[..., str]", snapshot_download)(
                wanted.repository,
                revision=wanted.revision,
                cache_dir=wanted.cache,
                endpoint=wanted.endpoint,
                allow_patterns=[glob.escape(file) for file in files],
                tqdm_class=_counting(meter),
            )

    def _drop(self, file: str) -> None:
        """Delete a file of the wrong size, which huggingface_hub would otherwise keep."""
        path = self.folder / file
        if path.exists():
            path.resolve().unlink()
        path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except _FAILURES as error:
            answers = (cause for cause in causes(error) if isinstance(cause, hub_errors.HfHubHTTPError))
            answer = next(answers, None)
            if answer is None:
                raise self._reference.away(described(error)) from error
            raise self._reference.failed(self._words(answer)) from error

    def _words(self, answer: hub_errors.HfHubHTTPError) -> str:
        wanted = self._reference
        page = f"{(wanted.endpoint or SITE).rstrip('/')}/{wanted.repository}"
        match answer:
            case hub_errors.GatedRepoError():
                return (
                    "access requires accepting its licence. Accept it with your account at "
                    f"{page}, make an access token at {SITE}/settings/tokens, and set HF_TOKEN to it"
                )
            case hub_errors.RevisionNotFoundError():
                return f"there is no such commit; see {page}/commits/main"
            case hub_errors.RepositoryNotFoundError():
                return "there is no such repository, or it is private: set HF_TOKEN to a token with read access"
            case hub_errors.DisabledRepoError():
                return f"the hub has disabled it; see {page}"
            case _:
                status = answer.response.status_code
                hint = "; HF_TOKEN may be invalid or without read access" if status in (401, 403) else ""
                return f"the hub answered {status}{hint}"


def _counting(meter: Meter) -> type[Any]:
    """Return a progress bar class without output that counts the bytes written by snapshot_download."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # pyright: ignore[reportUnknownMemberType]

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                meter.add(int(n))
            return super().update(n)

    return Bar
